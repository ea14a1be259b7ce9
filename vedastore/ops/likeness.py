"""Images that are alike: one pass over the pixels for hashes, and which of these are near each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.exchange.release import pixel_digest
from vedastore.ops.workers import IN_FLIGHT_BYTES, open_team
from vedastore.spec.likeness import hash_images, is_telling, near_pairs
from vedastore.spec.nodata import parse_nodata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vedastore.store.snapshot import Snapshot

    Array = np.ndarray[Any, Any]

_BLOCK_BYTES: Final = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Block:
    """Chips that are hashed at once: their places in the result, their rows in a bucket, and their nodata value."""

    at: Array
    bucket: str
    rows: Array
    nodata: Any


@dataclass(frozen=True, slots=True)
class Likeness:
    """What some images look like.

    Attributes
    ----------
    kinds : array (n,) of int
        The kind of each image: those with the same hash, or the same pixels where the hash says too little.
    hashes : array (k,) of uint64
        The hash of each of the first kinds; the others are like no other kind.
    plain : int
        Images whose hash says too little.
    """

    kinds: Array
    hashes: Array
    plain: int

    def pairs(self, bits: int) -> Iterator[tuple[Array, Array]]:
        """Yield pairs of images so that all that are alike are joined, directly or by others.

        Those of one kind are alike, and those of kinds whose hashes differ in at most so many bits.
        """
        first = np.unique(self.kinds, return_index=True)[1]
        yield np.arange(len(self.kinds)), first[self.kinds]
        for one, other in near_pairs(self.hashes, bits):
            yield first[one], first[other]

    def count_apart(self, splits: Array, bits: int) -> int:
        """Count the images of a split that are like one of another; splits are numbers (n,), -1 for none."""
        inside = splits >= 0
        kinds = int(self.kinds.max(initial=-1)) + 1
        least, most = np.full(kinds, np.iinfo("i8").max), np.full(kinds, -1)
        np.minimum.at(least, self.kinds[inside], splits[inside])
        np.maximum.at(most, self.kinds[inside], splits[inside])
        around, beyond = least.copy(), most.copy()
        for one, other in near_pairs(self.hashes, bits):
            for here, there in ((one, other), (other, one)):
                np.minimum.at(around, here, least[there])
                np.maximum.at(beyond, here, most[there])
        apart = (around[self.kinds] != splits) | (beyond[self.kinds] != splits)
        return int(np.count_nonzero(apart & inside))


def read_likeness(
    snapshot: Snapshot,
    positions: Array,
    *,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Likeness:
    """Hash the images at some positions, in their order; memory is bounded by the blocks in flight."""
    hashes, digests = np.zeros(len(positions), "u8"), np.zeros(len(positions), "S16")
    done = 0
    blocks = list(_plan(snapshot, positions))
    with open_team(snapshot, workers, client) as team:
        sized = ((block, _size(snapshot, block)) for block in blocks)
        found = team.map(_hash_block, sized, IN_FLIGHT_BYTES)
        for block, (part, names) in zip(blocks, found, strict=True):
            hashes[block.at], digests[block.at] = part, names
            done += len(block.at)
            if progress is not None:
                progress(done, len(positions))
    telling, kinds = is_telling(hashes), np.empty(len(positions), "i8")
    different, kinds[telling] = np.unique(hashes[telling], return_inverse=True)
    kinds[~telling] = len(different) + np.unique(digests[~telling], return_inverse=True)[1]
    return Likeness(kinds, different, int(np.count_nonzero(~telling)))


def _plan(snapshot: Snapshot, positions: Array) -> Iterator[Block]:
    """Yield blocks of chips: of one bucket and one nodata value, in the order of rows, of bounded size."""
    table = snapshot.read_places(positions, ["bucket", "row", "nodata"])
    names, texts = (table.column(name).combine_chunks().dictionary_encode() for name in ("bucket", "nodata"))
    of_name, of_text = names.indices.to_numpy(), texts.indices.fill_null(-1).to_numpy()
    rows = table.column("row").to_numpy()
    order = np.lexsort((rows, of_text, of_name))
    apart = np.diff(of_name[order]).astype(bool) | np.diff(of_text[order]).astype(bool)
    for part in np.split(order, np.flatnonzero(apart) + 1) if len(order) else []:
        bucket, code = names.dictionary[int(of_name[part[0]])].as_py(), int(of_text[part[0]])
        spec = snapshot.arrays[bucket].spec
        nodata = None if code < 0 else parse_nodata(texts.dictionary[code].as_py(), spec.dtype)
        most = max(1, _BLOCK_BYTES // (spec.bands * spec.height * spec.width * spec.itemsize))
        for start in range(0, len(part), most):
            at = part[start : start + most]
            yield Block(at, bucket, rows[at], nodata)


def _size(snapshot: Snapshot, block: Block) -> int:
    spec = snapshot.arrays[block.bucket].spec
    return len(block.rows) * spec.bands * spec.height * spec.width * spec.itemsize


def _hash_block(snapshot: Snapshot, block: Block) -> tuple[Array, list[bytes]]:
    """Return the hashes of some chips, and digests of the pixels of those whose hash says too little."""
    pixels = snapshot.chips(block.bucket).read_rows(block.rows)
    hashes = hash_images(pixels, block.nodata)
    told = is_telling(hashes).tolist()
    return hashes, [b"" if tells else pixel_digest(chip) for chip, tells in zip(pixels, told, strict=True)]
