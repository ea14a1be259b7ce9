"""Statistics of a collection: its bands, its classes and objects, as a whole and by split."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import UsageError
from vedastore.ops import moments
from vedastore.ops.moments import Band, Moments, Search
from vedastore.ops.workers import map_ordered, open_executor
from vedastore.spec.nodata import parse_nodata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vedastore.spec.root import Bucket
    from vedastore.store.snapshot import Snapshot

PERCENTILES: Final = (1, 5, 25, 50, 75, 95, 99)
_BLOCK_BYTES: Final = 16 * 2**20
_FEATURE_COLUMNS: Final = ("position", "class", "area_px", "box_px")


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
    percents = _parse_percentiles(percentiles)
    columns = ["bucket", "row", "nodata", "split", "classes", "objects"]
    table = snapshot.table("samples").read_rows(positions, columns)
    chosen = _choose_buckets(snapshot, table, bucket)
    blocks = list(_plan(table, chosen))
    with open_executor(workers, client) as executor:
        work = partial(_Passes, snapshot, blocks, chosen, partial(map_ordered, executor), progress)
        bands = work().describe(percents) if blocks else ()
    labels = _Labels(snapshot, table, positions)
    return Stats(len(table), bands, labels.classes(), labels.per_sample(), labels.splits())


def _parse_percentiles(given: Any) -> tuple[float, ...]:
    percents = tuple(given)
    if not all(isinstance(p, int | float | np.number) and 0 <= p <= 100 for p in percents):  # noqa: PLR2004 - percent
        raise UsageError(f"percentiles are {given!r}", hint="give numbers from 0 to 100")
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
    names, rows = table.column("bucket").to_numpy(), table.column("row").to_numpy()
    texts = table.column("nodata").to_pylist()
    for name, bucket in buckets.items():
        spec = bucket.spec
        of_bucket = np.flatnonzero(names == name)
        most = max(1, _BLOCK_BYTES // (spec.bands * spec.height * spec.width * spec.itemsize))
        for text in sorted({texts[i] for i in of_bucket.tolist()}, key=lambda t: (t is not None, t)):
            own = np.sort(rows[[i for i in of_bucket.tolist() if texts[i] == text]])
            for start in range(0, len(own), most):
                yield Block(name, own[start : start + most], parse_nodata(text, spec.dtype))


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
            for found in self._pass(partial(_refine_block, prefixes=prefixes, known_bits=known, edges=wanted)):
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

    def _pass(self, measure: Callable[..., Any]) -> Iterator[Any]:
        sized: Iterable[tuple[Block, int]] = ((b, len(b.rows) * self._size[b.bucket]) for b in self._blocks)
        for block, found in zip(self._blocks, self._run(partial(measure, snapshot=self._snapshot), sized), strict=True):
            self._done += len(block.rows)
            self._report(self._done, self._total)
            yield found


def _values(block: Block, snapshot: Snapshot) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the values of each band of some chips, without nodata."""
    pixels = snapshot.chips(block.bucket).read_rows(block.rows)
    for band in range(pixels.shape[1]):
        values = pixels[:, band]
        yield values.reshape(-1) if block.nodata is None else values[values != block.nodata]


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


class _Labels:
    """Counts of classes and objects, from the index alone."""

    def __init__(self, snapshot: Snapshot, table: Any, positions: Any) -> None:
        self._names, self._table = snapshot.version.classes, table
        self._present = table.column("classes").to_pylist()
        self._rows = _object_rows(snapshot, positions)

    def classes(self) -> dict[str, dict[str, Any]]:
        samples = Counter(name for names in self._present for name in names)
        names, areas, boxes = self._rows
        found: dict[str, dict[str, Any]] = {}
        for name in self._names:
            own = np.flatnonzero(names == name)
            sizes = {} if not len(own) else {
                "area_px": _summary(areas[own]),
                "width_px": _summary(boxes[own, 2] - boxes[own, 0]),
                "height_px": _summary(boxes[own, 3] - boxes[own, 1]),
            }  # fmt: skip
            found[name] = {"samples": samples[name], "objects": len(own), **sizes}
        return found

    def per_sample(self) -> dict[int, int]:
        return dict(sorted(Counter(self._table.column("objects").to_pylist()).items()))

    def splits(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        objects = self._table.column("objects").to_pylist()
        for split, names, count in zip(self._table.column("split").to_pylist(), self._present, objects, strict=True):
            entry = found.setdefault(split or "", {"samples": 0, "objects": 0, "classes": Counter()})
            entry["samples"] += 1
            entry["objects"] += count
            entry["classes"].update(names)
        return {s: {**entry, "classes": dict(sorted(entry["classes"].items()))} for s, entry in sorted(found.items())}


def _object_rows(snapshot: Snapshot, positions: Any) -> tuple[Any, Any, Any]:
    """Return class, area and box of every object of some samples; NaN where it has no place in pixels."""
    import pyarrow as pa
    import pyarrow.compute as pc

    reader = snapshot.table("features")
    names, areas, boxes = [], [], []
    wanted = pa.array(np.asarray(positions), "int64")
    for group in reader.groups_with(positions):
        table = reader.read(_FEATURE_COLUMNS, [group])
        table = table.filter(pc.is_in(table.column("position"), wanted))
        names.append(table.column("class").to_numpy())
        areas.append(table.column("area_px").to_numpy())
        column = table.column("box_px").combine_chunks()
        part = np.full((len(column), 4), np.nan)
        part[column.is_valid().to_numpy(zero_copy_only=False)] = column.flatten().to_numpy().reshape(-1, 4)
        boxes.append(part)
    return (
        np.concatenate([np.empty(0, dtype=object), *names]),
        np.concatenate([np.empty(0), *areas]),
        np.concatenate([np.empty((0, 4)), *boxes]),
    )


def _summary(values: Any) -> dict[str, float | None]:
    values = values[np.isfinite(values)]
    if not len(values):
        return dict.fromkeys(("min", "max", "mean", "median"))
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "median": float(np.median(values)),
    }
