"""The passes over the pixels of some chips: what is counted and measured of every band, as a whole and by split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.ops import moments
from vedastore.ops.moments import Band, Moments, Search
from vedastore.ops.workers import IN_FLIGHT_BYTES
from vedastore.spec.nodata import parse_nodata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vedastore.spec.root import Bucket
    from vedastore.store.snapshot import Snapshot

_BLOCK_BYTES: Final = 4 * 2**20
_BLOCKS_AT_ONCE: Final = 4
"""So many blocks are in flight however much each takes."""
_DIGITS_BYTES: Final = 8 * 2**moments.DIGIT_BITS
"""What the counts of one digit take."""


@dataclass(frozen=True, slots=True)
class Block:
    """Chips that are measured at once: rows of a bucket, the number of each one's split, and what they call nodata."""

    bucket: str
    rows: np.ndarray[Any, Any]
    splits: np.ndarray[Any, Any]
    nodata: Any


def plan_blocks(table: Any, splits: Any, buckets: dict[str, Bucket]) -> Iterator[Block]:
    """Yield blocks of chips: of one bucket and one nodata value, in the order of rows, of bounded size.

    ``table`` has bucket, row and nodata of each sample, and ``splits`` the number of its split.
    """
    import pyarrow.compute as pc

    for name, bucket in buckets.items():
        is_own = pc.equal(table.column("bucket"), name)
        own, own_splits = table.filter(is_own), splits[is_own.to_numpy()]
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
                chosen = part[start : start + most]
                yield Block(name, rows[chosen], own_splits[chosen], nodata)


class Passes:
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

    def describe(self, percents: Sequence[float]) -> tuple[tuple[Band, ...], dict[int, list[Moments]]]:
        """Return what is known of every band, and the moments of the bands of each split by its number."""
        by_split: dict[int, list[Moments]] = {}
        digits: list[Any] = [0] * self._bands
        for found in self._pass(_measure_block):
            for band, (parts, first) in enumerate(found):
                digits[band] = digits[band] + first
                for split, part in parts:
                    of_split = by_split.setdefault(split, [Moments()] * self._bands)
                    of_split[band] = of_split[band].merge(part)
        if moments.is_counted(self._dtype):  # the first digit is all of a value
            return tuple(moments.describe_counts(c, self._dtype, percents) for c in digits), by_split
        totals = [reduce(Moments.merge, parts) for parts in zip(*by_split.values(), strict=True)]
        return self._describe_wide(totals, digits, percents), by_split

    def _describe_wide(self, totals: list[Moments], digits: list[Any], percents: Sequence[float]) -> tuple[Band, ...]:
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
        values = [self._values_of(band) for band in searches]
        return tuple(
            Band(
                count=t.count,
                invalid=t.invalid,
                min=t.least,
                max=t.most,
                mean=float(t.mean),
                std=t.std,
                percentiles=moments.percentiles(percents, t.count, found),
                histogram=tuple(np.asarray(filled).tolist()),
                edges=tuple(e.tolist()),
            )
            if t.count and e is not None
            else Band(0, t.invalid, None, None, None, None)
            for t, found, filled, e in zip(totals, values, bins, edges, strict=True)
        )

    def _values_of(self, searches: dict[int, Search]) -> dict[int, float | int]:
        """Return the values of ranks that were found, by rank."""
        found = moments.key_values([s.prefix for s in searches.values()], self._dtype).tolist()
        return dict(zip(searches, found, strict=True))

    def _pass(self, measure: Callable[..., Any], digits: int = 1) -> Iterator[Any]:
        """Measure every block; ``digits`` are those that are counted of each band."""
        found_bytes = self._bands * digits * _DIGITS_BYTES
        sized = [(b, len(b.rows) * self._size[b.bucket] + found_bytes) for b in self._blocks]
        limit_bytes = max(IN_FLIGHT_BYTES, _BLOCKS_AT_ONCE * max(size for _, size in sized))
        results = self._run(partial(measure, snapshot=self._snapshot), sized, limit_bytes)
        for block, found in zip(self._blocks, results, strict=True):
            self._done += len(block.rows)
            self._report(self._done, self._total)
            yield found


def _parts(block: Block, snapshot: Snapshot) -> Iterator[list[tuple[int, np.ndarray[Any, Any]]]]:
    """Yield for each band the values of each split that some chips are of, without nodata."""
    pixels = snapshot.chips(block.bucket).read_rows(block.rows)
    splits = np.unique(block.splits).tolist()
    owners = {split: block.splits == split if len(splits) > 1 else slice(None) for split in splits}
    for band in range(pixels.shape[1]):
        yield [(split, _valid(pixels[own, band], block.nodata)) for split, own in owners.items()]


def _valid(values: np.ndarray[Any, Any], nodata: Any) -> np.ndarray[Any, Any]:
    """Return the values without nodata in one dimension."""
    if nodata is None:
        return values.reshape(-1)
    is_nan = nodata != nodata  # noqa: PLR0124 - of any type
    valid: np.ndarray[Any, Any] = values[~np.isnan(values) if is_nan else values != nodata]
    return valid


def _measure_block(block: Block, snapshot: Snapshot) -> list[tuple[list[tuple[int, Moments]], Any]]:
    """Return of each band the moments of each split, and the counts of the first digit of all values."""
    return [_measure(parts) for parts in _parts(block, snapshot)]


def _measure(parts: list[tuple[int, np.ndarray[Any, Any]]]) -> tuple[list[tuple[int, Moments]], Any]:
    dtype = parts[0][1].dtype
    if moments.is_counted(dtype):
        counts = [(split, moments.count_values(values)) for split, values in parts]
        return [(split, Moments.of_counts(c, dtype)) for split, c in counts], sum(c for _, c in counts)
    digits = sum(moments.count_digits(moments.order_keys(values), [0], 0)[0] for _, values in parts)
    return [(split, Moments.of(values)) for split, values in parts], digits


def _refine_block(
    block: Block, snapshot: Snapshot, prefixes: list[list[int]], known_bits: int, edges: list[Any]
) -> list[tuple[dict[int, Any], Any]]:
    found = []
    whole = replace(block, splits=np.zeros_like(block.splits))
    for [(_, values)], wanted, limits in zip(_parts(whole, snapshot), prefixes, edges, strict=False):
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        filled: Any = 0 if limits is None else np.histogram(finite, limits)[0]
        part = moments.count_digits(moments.order_keys(values), wanted, known_bits) if wanted else {}
        found.append((part, filled))
    return found
