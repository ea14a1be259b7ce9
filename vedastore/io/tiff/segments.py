"""Where strips and tiles lie: the segment table, the regions that they fill, and what else must not lie there."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vedastore.io.tiff.layout import (
    BANDS,
    HEIGHT,
    NONE,
    PLANAR,
    PLANES,
    ROWS_PER_STRIP,
    SCHEMES,
    STRIP_COUNTS,
    STRIP_OFFSETS,
    TILE_COUNTS,
    TILE_HEIGHT,
    TILE_OFFSETS,
    TILE_WIDTH,
    WIDTH,
    Layout,
)
from vedastore.io.tiff.structure import (
    Directory,
    Entry,
    damaged,
    iter_later_directories,
    iter_sub_directories,
    over_limit,
    unsupported,
)
from vedastore.model import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Region = tuple[int, int]  # offset and length


@dataclass(frozen=True, slots=True)
class Segments:
    """The segment table, one number for each strip or tile, in the order of the tags.

    Parameters
    ----------
    offsets : array of int64
        Where a segment begins.
    stored : array of int64
        Bytes that hold pixels in the file; 0 for a sparse segment. An uncompressed segment may have more bytes
        than its pixels need: those count as part of the frame.
    sizes : array of int64
        Bytes of the segment, decoded.
    """

    offsets: npt.NDArray[np.int64]
    stored: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    @property
    def sparse(self) -> bool:
        """True where some segment is not in the file."""
        return not bool(self.stored.all())

    def contiguous(self) -> bool:
        """Tell whether the segments follow each other in order, without gaps."""
        ends = self.offsets + self.stored
        return bool((self.offsets[1:] == ends[:-1]).all())

    def regions(self) -> list[Region]:
        """Merge the segments into ranges of the file, in file order.

        Raises
        ------
        ImageError
            Where segments overlap.
        """
        if self.stored.all() and self.contiguous():
            return [(int(self.offsets[0]), int(self.stored.sum()))]
        present = np.flatnonzero(self.stored)
        present = present[np.argsort(self.offsets[present], kind="stable")]
        starts = self.offsets[present]
        ends = starts + self.stored[present]
        above = starts[1:] < ends[:-1]
        if above.any():
            if ((starts[1:] == starts[:-1]) & (ends[1:] == ends[:-1]))[above].all():
                raise unsupported("strips or tiles that share their bytes")
            raise damaged("strips or tiles overlap")
        heads = np.flatnonzero(np.append(True, starts[1:] != ends[:-1]))[: starts.size]
        tails = np.append(heads[1:] - 1, starts.size - 1)[: heads.size]
        return [(int(a), int(b - a)) for a, b in zip(starts[heads], ends[tails], strict=True)]


def parse_segments(directory: Directory, layout: Layout, limits: Limits = DEFAULT_LIMITS) -> Segments:
    """Read the segment table; each segment must lie inside the file, and the whole must be plausible.

    Raises
    ------
    ImageError
        For a table of another length than the layout needs, a truncated file, or a bomb.
    """
    name = "tiles" if layout.tiled else "strips"
    where, length = (TILE_OFFSETS, TILE_COUNTS) if layout.tiled else (STRIP_OFFSETS, STRIP_COUNTS)
    _check_number(directory.entries.get(where), layout, name)
    offsets = directory.integers(where)
    if length in directory.entries:
        _check_number(directory.entries.get(length), layout, name)
        counts = directory.integers(length)
    elif layout.scheme == NONE:
        counts = layout.segment_sizes()
    else:
        raise unsupported(f"{name} without lengths")
    sizes = layout.segment_sizes()
    stored = counts
    if layout.scheme == NONE:
        if not layout.tiled and layout.segments == 1 and offsets[0]:
            counts = sizes  # whatever it is said to be: libtiff has it so
        if ((counts < sizes) & (counts != 0)).any():
            short = int(np.flatnonzero((counts < sizes) & (counts != 0))[0])
            raise damaged(f"truncated: {name[:-1]} {short} has {counts[short]} bytes, its pixels need {sizes[short]}")
        stored = np.minimum(counts, sizes)
    if ((stored == 0) & (offsets != 0)).any():
        raise damaged(f"{name} with a place and no length")  # libtiff guesses, or gives what is in memory
    _check_inside(offsets, stored, len(directory.data), name)
    refuse_bomb(layout.raw_bytes, int(stored.sum()), SCHEMES[layout.scheme], limits)
    return Segments(offsets, stored, sizes)


def _check_inside(offsets: npt.NDArray[np.int64], stored: npt.NDArray[np.int64], size: int, name: str) -> None:
    if (stored < 0).any() or ((offsets < 0) | (offsets > size) | (stored > size - offsets))[stored > 0].any():
        raise damaged(f"truncated: {name} lie beyond the end of the file ({size} bytes)")


def check_whole(directory: Directory, row_bytes: int) -> None:
    """Refuse an image of any layout whose strips or tiles are not all in the file, behind its header.

    ``row_bytes`` is the length of an uncompressed row, else 0: libtiff trusts it more than the lengths of strips.
    """
    size, header = len(directory.data), directory.form.header_bytes
    for where, length, name in (STRIP_OFFSETS, STRIP_COUNTS, "strips"), (TILE_OFFSETS, TILE_COUNTS, "tiles"):
        offsets, counts = directory.integers(where), directory.integers(length)
        if 0 < offsets.size < (wanted := _count_segments(directory, tiled=name == "tiles")):
            raise damaged(f"the directory lists {offsets.size} {name}, an image of this shape has {wanted}")
        if offsets.size != counts.size or (offsets.size == 1 and offsets[0] and not counts[0]):
            raise unsupported(f"{name} without lengths")
        _check_inside(offsets, counts, size, name)
        if ((offsets < header) & (counts > 0)).any():
            raise damaged(f"the {name} lie upon the header")
    height, offsets = directory.integer(HEIGHT, 1), directory.integers(STRIP_OFFSETS)
    rows = max(1, min(directory.integer(ROWS_PER_STRIP, height), height))
    down = -(-height // rows)
    needed = np.full(offsets.size, rows * row_bytes)
    needed[down - 1 :: down] = (height - (down - 1) * rows) * row_bytes
    _check_inside(offsets, needed * (offsets > 0), size, "strips")


def _count_segments(directory: Directory, *, tiled: bool) -> int:
    """Count the strips or tiles that an image of any layout has."""
    height, width = directory.integer(HEIGHT, 0), directory.integer(WIDTH, 0)
    rows = directory.integer(TILE_HEIGHT if tiled else ROWS_PER_STRIP, height)
    columns = directory.integer(TILE_WIDTH, width) if tiled else width
    planes = directory.integer(BANDS, 1) if directory.integer(PLANAR, 1) == PLANES else 1
    return planes * -(-height // max(rows, 1)) * -(-width // max(columns, 1))


def _check_number(entry: Entry | None, layout: Layout, name: str) -> None:
    number = 0 if entry is None else entry.number
    if number != layout.segments:
        raise damaged(f"the directory lists {number} {name}, an image of this shape has {layout.segments}")


def refuse_bomb(pixel_bytes: int, stored_bytes: int, scheme: str, limits: Limits) -> None:
    """Refuse an image that claims to expand more than any sound one does."""
    if pixel_bytes > max(limits.image_trusted_bytes, limits.image_expansion * stored_bytes):
        what = f"{stored_bytes} bytes ({scheme}) claim to hold {pixel_bytes} bytes of pixels"
        raise over_limit(what, "image_expansion")


def check_apart(regions: list[Region], directory: Directory, layout: Layout) -> None:
    """Refuse pixels that lie upon the header or upon tags; compressed pixels that another page shares are left to GDAL.

    The first would make the frame unreadable without the pixels; the second would let moved segments
    damage another page.
    """
    later = list(iter_later_directories(directory))
    if not regions:
        return
    ends = [offset + length for offset, length in regions]
    place = _overlap(regions, ends, [(0, directory.form.header_bytes), *directory.ranges()])
    if place is not None:
        raise damaged(f"the pixels lie upon the tags (byte {place})")
    if layout.scheme != NONE:
        others = [*later, *iter_sub_directories([directory, *later])]
        if _overlap(regions, ends, (r for other in others for r in _used_ranges(other))) is not None:
            raise unsupported("compressed pixels that another page shares")


def _overlap(regions: list[Region], ends: list[int], ranges: Iterable[tuple[int, int]]) -> int | None:
    """Return the beginning of the first range that lies upon a region."""
    for begin, end in ranges:
        nearest = bisect_right(ends, begin)
        if nearest < len(regions) and regions[nearest][0] < end:
            return begin
    return None


def _used_ranges(directory: Directory) -> Iterator[tuple[int, int]]:
    yield from directory.ranges()
    yield from iter_segments(directory)


def iter_segments(directory: Directory) -> Iterator[tuple[int, int]]:
    """Yield begin and end of every strip and tile that a page of any layout lists."""
    for where, length in ((STRIP_OFFSETS, STRIP_COUNTS), (TILE_OFFSETS, TILE_COUNTS)):
        offsets, counts = directory.integers(where), directory.integers(length)
        if offsets.size == counts.size:
            yield from ((int(a), int(a + n)) for a, n in zip(offsets, counts, strict=True) if n > 0)


def gather(data: npt.NDArray[np.uint8], segments: Segments, index: int) -> npt.NDArray[np.uint8]:
    """View the stored bytes of one segment."""
    begin = int(segments.offsets[index])
    return data[begin : begin + int(segments.stored[index])]
