"""Statistics of a collection: its bands, its classes and objects, as a whole and by split."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import UsageError
from vedastore.ops import moments
from vedastore.ops.label_counts import count_labels
from vedastore.ops.moments import Band, Moments, Search
from vedastore.ops.workers import map_ordered, open_executor
from vedastore.spec.nodata import parse_nodata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vedastore.spec.root import Bucket
    from vedastore.store.snapshot import Snapshot

PERCENTILES: Final = (1, 5, 25, 50, 75, 95, 99)
_PERCENTILES_MOST: Final = 32
_BLOCK_BYTES: Final = 16 * 2**20
_DIGITS_BYTES: Final = 8 * 2**moments.DIGIT_BITS
"""What the counts of one digit take."""


@dataclass(frozen=True, slots=True)
class Block:
    """Chips that are measured at once: some rows of a bucket, and the value that their TIFFs call nodata."""

    bucket: str
    rows: np.ndarray[Any, Any]
    nodata: Any


@dataclass(frozen=True, slots=True)
class Stats:
    """What `stats` found.

    Attributes
    ----------
    samples : int
    bands : tuple of Band
        In the order of bands: count, invalid (not finite), min, max, mean, std (of the population), percentiles, and a
        histogram with its edges; nodata is left out.
    classes : dict
        By class: samples, objects, and for objects ``area_px``, ``width_px`` and ``height_px`` with min, max, mean and
        median.
    objects_per_sample : dict
        How many samples have so many objects.
    splits : dict
        By split, "" for none: samples, objects, and samples by class.
    """

    samples: int
    bands: tuple[Band, ...]
    classes: dict[str, dict[str, Any]]
    objects_per_sample: dict[int, int]
    splits: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        bands = [{"band": number, **asdict(band)} for number, band in enumerate(self.bands, 1)]
        counts = {str(number): samples for number, samples in self.objects_per_sample.items()}
        return {
            "samples": self.samples,
            "bands": bands,
            "classes": self.classes,
            "objects_per_sample": counts,
            "splits": self.splits,
        }


def stats(
    snapshot: Snapshot,
    positions: Any,
    *,
    bucket: str | None = None,
    percentiles: Sequence[float] = PERCENTILES,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Stats:
    """Measure the samples at some positions; see ``Collection.stats``.

    Raises
    ------
    UsageError
        When images are of several types and no bucket is named, are complex, or a percentile is none.
    """
    import pyarrow.compute as pc

    percents = _parse_percentiles(percentiles)
    columns = ["position", "bucket", "row", "nodata", "split", "classes", "objects"]
    table = snapshot.table("samples").read_rows(positions, columns)
    chosen = _choose_buckets(snapshot, table, bucket)
    if bucket is not None:
        table = table.filter(pc.equal(table.column("bucket"), bucket))
    blocks = list(_plan(table, chosen))
    with open_executor(workers, client) as executor:
        run = partial(map_ordered, executor)
        bands = _Passes(snapshot, blocks, chosen, run, progress).describe(percents) if blocks else ()
    classes, per_sample, splits = count_labels(snapshot, table)
    return Stats(len(table), bands, classes, per_sample, splits)


def _parse_percentiles(given: Any) -> tuple[float, ...]:
    try:
        percents = tuple(sorted({float(percent) for percent in given}))
    except (TypeError, ValueError, OverflowError):
        percents = (math.nan,)
    if not all(0 <= percent <= 100 for percent in percents) or len(percents) > _PERCENTILES_MOST:  # noqa: PLR2004
        raise UsageError(f"percentiles are {given!r}", hint=f"give up to {_PERCENTILES_MOST} numbers from 0 to 100")
    return percents


def _choose_buckets(snapshot: Snapshot, table: Any, bucket: str | None) -> dict[str, Bucket]:
    """Return the buckets to measure, which share one type."""
    names = sorted(table.column("bucket").unique().to_pylist())
    if bucket is not None and bucket not in names:
        hint = f"there are {', '.join(names)}"
        raise UsageError(f"there is no bucket {bucket!r}", where=snapshot.objects.url, hint=hint)
    chosen = {name: snapshot.version.buckets[name] for name in names if bucket in (None, name)}
    types = sorted({b.spec.dtype for b in chosen.values()})
    if len(types) > 1:
        hint = f"name one with bucket=: {', '.join(names)}"
        message = f"the images are of several types, {', '.join(types)}, which have no statistics together"
        raise UsageError(message, where=snapshot.objects.url, hint=hint)
    if any(np.dtype(name).kind == "c" for name in types):
        raise UsageError("complex numbers have no order, and so no statistics here", where=snapshot.objects.url)
    return chosen


def _plan(table: Any, buckets: dict[str, Bucket]) -> Iterator[Block]:
    """Yield blocks of chips: of one bucket and one nodata value, in the order of rows, of bounded size."""
    import pyarrow.compute as pc

    for name, bucket in buckets.items():
        own = table.filter(pc.equal(table.column("bucket"), name))
        texts = own.column("nodata").combine_chunks().dictionary_encode()
        codes = texts.indices.fill_null(-1).to_numpy()
        rows = own.column("row").to_numpy()
        order = np.lexsort((rows, codes))
        spec, known = bucket.spec, texts.dictionary.to_pylist()
        most = max(1, _BLOCK_BYTES // (spec.bands * spec.height * spec.width * spec.itemsize))
        for part in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
            code = int(codes[part[0]])
            nodata = None if code < 0 else parse_nodata(known[code], spec.dtype)
            for start in range(0, len(part), most):
                yield Block(name, rows[part[start : start + most]], nodata)


class _Passes:
    """The passes over the pixels: one for values of 8 and 16 bits, one more for each further 16 bits of wider ones."""

    def __init__(
        self,
        snapshot: Snapshot,
        blocks: list[Block],
        buckets: dict[str, Bucket],
        run: Callable[..., Iterator[Any]],
        progress: Callable[[int, int | None], None] | None,
    ) -> None:
        self._snapshot, self._blocks, self._run = snapshot, blocks, run
        self._dtype = np.dtype(next(iter(buckets.values())).spec.dtype)
        self._bands = max(b.spec.bands for b in buckets.values())
        self._size = {
            name: b.spec.bands * b.spec.height * b.spec.width * b.spec.itemsize for name, b in buckets.items()
        }
        passes = 1 if moments.is_counted(self._dtype) else self._dtype.itemsize * 8 // moments.DIGIT_BITS
        self._total, self._done = passes * sum(len(b.rows) for b in blocks), 0
        self._report = progress or (lambda _done, _total: None)

    def describe(self, percents: Sequence[float]) -> tuple[Band, ...]:
        """Return what is known of every band."""
        if moments.is_counted(self._dtype):
            counts: list[Any] = [0] * self._bands
            for found in self._pass(_count_block):
                for band, part in enumerate(found):
                    counts[band] = counts[band] + part
            return tuple(moments.describe_counts(np.asarray(c), self._dtype, percents) for c in counts)
        return self._describe_wide(percents)

    def _describe_wide(self, percents: Sequence[float]) -> tuple[Band, ...]:
        totals = [Moments()] * self._bands
        digits: list[Any] = [0] * self._bands
        for found in self._pass(_measure_block):
            for band, (part, first) in enumerate(found):
                totals[band], digits[band] = totals[band].merge(part), digits[band] + first
        ranks = [moments.ranks_of(percents, t.count) for t in totals]
        searches = [
            {rank: Search(rank).narrow(counts) for rank in wanted} for wanted, counts in zip(ranks, digits, strict=True)
        ]
        edges = [moments.bin_edges(t.least, t.most, self._dtype) if t.count else None for t in totals]
        bins: list[Any] = [0] * self._bands
        for known in range(moments.DIGIT_BITS, self._dtype.itemsize * 8, moments.DIGIT_BITS):
            prefixes = [sorted({s.prefix for s in band.values()}) for band in searches]
            wanted = edges if known == moments.DIGIT_BITS else [None] * self._bands
            counts: list[dict[int, Any]] = [{} for _ in range(self._bands)]
            refine = partial(_refine_block, prefixes=prefixes, known_bits=known, edges=wanted)
            for found in self._pass(refine, max(map(len, prefixes))):
                for band, (part, filled) in enumerate(found):
                    bins[band] = bins[band] + filled
                    for prefix, numbers in part.items():
                        counts[band][prefix] = counts[band].get(prefix, 0) + numbers
            searches = [
                {rank: s.narrow(of[s.prefix]) for rank, s in band.items()}
                for band, of in zip(searches, counts, strict=True)
            ]
        values = [{r: moments.key_value(s.prefix, self._dtype) for r, s in band.items()} for band in searches]
        return tuple(
            Band(
                count=t.count,
                invalid=t.invalid,
                min=t.least,
                max=t.most,
                mean=float(t.mean),
                std=float(np.sqrt(t.squares / t.count)),
                percentiles=moments.percentiles(percents, t.count, found),
                histogram=tuple(np.asarray(filled).tolist()),
                edges=tuple(e.tolist()),
            )
            if t.count and e is not None
            else Band(0, t.invalid, None, None, None, None)
            for t, found, filled, e in zip(totals, values, bins, edges, strict=True)
        )

    def _pass(self, measure: Callable[..., Any], digits: int = 1) -> Iterator[Any]:
        """Measure every block; ``digits`` are those that are counted of each band."""
        found_bytes = self._bands * digits * _DIGITS_BYTES
        sized: Iterable[tuple[Block, int]] = (
            (b, len(b.rows) * self._size[b.bucket] + found_bytes) for b in self._blocks
        )
        for block, found in zip(self._blocks, self._run(partial(measure, snapshot=self._snapshot), sized), strict=True):
            self._done += len(block.rows)
            self._report(self._done, self._total)
            yield found


def _values(block: Block, snapshot: Snapshot) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the values of each band of some chips, without nodata."""
    pixels = snapshot.chips(block.bucket).read_rows(block.rows)
    for band in range(pixels.shape[1]):
        values = pixels[:, band]
        if block.nodata is None:
            yield values.reshape(-1)
        else:
            is_nan = block.nodata != block.nodata
            yield values[~np.isnan(values) if is_nan else values != block.nodata]


def _count_block(block: Block, snapshot: Snapshot) -> list[Any]:
    return [moments.count_values(values) for values in _values(block, snapshot)]


def _measure_block(block: Block, snapshot: Snapshot) -> list[tuple[Moments, Any]]:
    return [
        (Moments.of(values), moments.count_digits(moments.order_keys(values), [0], 0)[0])
        for values in _values(block, snapshot)
    ]


def _refine_block(
    block: Block, snapshot: Snapshot, prefixes: list[list[int]], known_bits: int, edges: list[Any]
) -> list[tuple[dict[int, Any], Any]]:
    found = []
    for values, wanted, limits in zip(_values(block, snapshot), prefixes, edges, strict=False):
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        filled: Any = 0 if limits is None else np.histogram(finite, limits)[0]
        part = moments.count_digits(moments.order_keys(values), wanted, known_bits) if wanted else {}
        found.append((part, filled))
    return found
