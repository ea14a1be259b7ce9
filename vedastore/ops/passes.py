"""The passes over the pixels of some chips: what is counted and measured of every band, as a whole and by split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.ops import moments
from vedastore.ops.moments import Band, Moments, Search
from vedastore.spec.nodata import parse_nodata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vedastore.ops.workers import Team
    from vedastore.spec.root import Bucket
    from vedastore.store.snapshot import Snapshot

_BLOCK_BYTES: Final = 4 * 2**20
_RUNS: Final = 64
"""So many runs of blocks there are at least, if there are as many blocks, for as many workers."""
_BLOCKS_A_RUN: Final = 16
_RUNS_AT_ONCE: Final = 2
"""So many runs are in flight for each thread however much each takes."""
_DIGITS_BYTES: Final = 8 * 2**moments.DIGIT_BITS
"""What the counts of one digit take."""

Found = list[tuple[dict[int, Any], Any]]
"""Of every band parts by their keys, moments by split or counts by prefix; and a sum, counts or a histogram."""


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
    """The passes over the pixels: one for values of 8 and 16 bits, one more for each further 16 bits of wider ones.

    Workers measure runs of blocks, and return what these add up to: their number depends on the chips alone, and so do
    the last digits of the sums.
    """

    def __init__(
        self,
        team: Team,
        blocks: list[Block],
        buckets: dict[str, Bucket],
        progress: Callable[[int, int | None], None] | None,
    ) -> None:
        self._crew = team
        self._dtype = np.dtype(next(iter(buckets.values())).spec.dtype)
        self._bands = max(b.spec.bands for b in buckets.values())
        chip_bytes = {
            name: b.spec.bands * b.spec.height * b.spec.width * b.spec.itemsize for name, b in buckets.items()
        }
        each = max(1, min(_BLOCKS_A_RUN, len(blocks) // _RUNS))
        runs = [blocks[at : at + each] for at in range(0, len(blocks), each)]
        self._runs = [(run, sum(len(b.rows) * chip_bytes[b.bucket] for b in run)) for run in runs]
        passes = 1 if moments.is_counted(self._dtype) else self._dtype.itemsize * 8 // moments.DIGIT_BITS
        self._total, self._done = passes * sum(len(b.rows) for b in blocks), 0
        self._report = progress or (lambda _done, _total: None)

    def describe(self, percents: Sequence[float]) -> tuple[tuple[Band, ...], dict[int, list[Moments]]]:
        """Return what is known of every band, and the moments of the bands of each split by its number."""
        found = _add_up(self._pass(_measure_run), Moments.merge)
        splits = sorted({split for parts, _ in found for split in parts})
        by_split = {split: [parts.get(split, Moments()) for parts, _ in found] for split in splits}
        digits = [first for _, first in found]
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
        bins: list[Any] = []
        for known in range(moments.DIGIT_BITS, self._dtype.itemsize * 8, moments.DIGIT_BITS):
            prefixes = [sorted({s.prefix for s in band.values()}) for band in searches]
            wanted = edges if known == moments.DIGIT_BITS else [None] * self._bands
            refine = partial(_refine_run, prefixes=prefixes, known_bits=known, edges=wanted)
            found = _add_up(self._pass(refine, max(map(len, prefixes))), np.add)
            bins = bins or [filled for _, filled in found]
            searches = [
                {rank: s.narrow(counts[s.prefix]) for rank, s in band.items()}
                for band, (counts, _) in zip(searches, found, strict=True)
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
        """Measure every run; ``digits`` are those that are counted of each band."""
        found_bytes = self._bands * digits * _DIGITS_BYTES
        sized = [(run, size + found_bytes) for run, size in self._runs]
        results = self._crew.map(measure, sized, _RUNS_AT_ONCE * max(size for _, size in sized))
        for (run, _), found in zip(self._runs, results, strict=True):
            self._done += sum(len(block.rows) for block in run)
            self._report(self._done, self._total)
            yield found


def _add_up(found: Iterable[Found], add: Callable[[Any, Any], Any]) -> Found:
    """Add up what there is of every band: parts by their keys, and sums. Chips may have fewer bands than others."""
    total: Found = []
    for bands in found:
        for (parts, whole), (more, added) in zip(total, bands, strict=False):
            np.add(whole, added, out=whole)
            for key, part in more.items():
                parts[key] = add(parts[key], part) if key in parts else part
        total += bands[len(total) :]
    return total


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


def _measure_run(snapshot: Snapshot, run: list[Block]) -> Found:
    """Return of each band the moments of each split, and the counts of the first digit of all values."""
    return _add_up(([_measure(parts) for parts in _parts(block, snapshot)] for block in run), Moments.merge)


def _measure(parts: list[tuple[int, np.ndarray[Any, Any]]]) -> tuple[dict[int, Moments], Any]:
    dtype = parts[0][1].dtype
    if moments.is_counted(dtype):
        counts = {split: moments.count_values(values) for split, values in parts}
        return {split: Moments.of_counts(c, dtype) for split, c in counts.items()}, sum(counts.values())
    digits = sum(moments.count_digits(moments.order_keys(values), [0], 0)[0] for _, values in parts)
    return {split: Moments.of(values) for split, values in parts}, digits


def _refine_run(
    snapshot: Snapshot, run: list[Block], prefixes: list[list[int]], known_bits: int, edges: list[Any]
) -> Found:
    refine = partial(_refine_block, snapshot=snapshot, prefixes=prefixes, known_bits=known_bits, edges=edges)
    return _add_up(map(refine, run), np.add)


def _refine_block(
    block: Block, snapshot: Snapshot, prefixes: list[list[int]], known_bits: int, edges: list[Any]
) -> Found:
    found: Found = []
    whole = replace(block, splits=np.zeros_like(block.splits))
    for [(_, values)], wanted, limits in zip(_parts(whole, snapshot), prefixes, edges, strict=False):
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        filled = np.zeros(0, "i8") if limits is None else np.histogram(finite, limits)[0]
        part = moments.count_digits(moments.order_keys(values), wanted, known_bits) if wanted else {}
        found.append((part, filled))
    return found
