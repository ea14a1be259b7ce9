"""Give a file other segments than it had: same pixels, same tags, every other byte in its place.

New segments go where the old ones were, one after the other; what does not fit goes to the end of the file. A new
directory with the new offsets follows. The old directory stays where it was, unused: no other offset can break.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vedastore.io.tiff.directories import Value, with_changes
from vedastore.io.tiff.layout import (
    COMPRESSION,
    DEFLATE,
    LOSSY,
    PHOTOMETRIC,
    PREDICTOR,
    STRIP_COUNTS,
    STRIP_OFFSETS,
    TILE_COUNTS,
    TILE_OFFSETS,
    YCBCR,
    Layout,
)
from vedastore.io.tiff.structure import LONG, LONG8, SHORT, Directory, Form, unsupported

if TYPE_CHECKING:
    from vedastore.io.tiff.segments import Region, Segments

RGB = 2
#: JPEG tables, the tags of old-style JPEG, LERC parameters: they describe the stored bytes, not the pixels.
CODEC_TAGS = (347, *range(512, 522), 50674, PREDICTOR)
#: YCbCr coefficients, subsampling, positioning, reference black and white.
YCBCR_TAGS = (529, 530, 531, 532)
#: GDAL's note that a file has the layout of a cloud-optimised GeoTIFF, and how GDAL itself takes it back.
LAYOUT_NOTE = b"GDAL_STRUCTURAL_METADATA_SIZE="
CLAIM, CLAIM_TAKEN_BACK = b"KNOWN_INCOMPATIBLE_EDITION=NO\n ", b"KNOWN_INCOMPATIBLE_EDITION=YES\n"


def rewrite(
    skeleton: npt.NDArray[np.uint8], directory: Directory, layout: Layout, segments: Segments, encoded: list[bytes]
) -> bytes:
    """Build a file from its frame and new segments.

    Parameters
    ----------
    skeleton : array of uint8
        The file, zeros in place of its pixels.
    directory, layout, segments
        Parsed from it. A lossy scheme becomes Deflate.
    encoded : list of bytes
        New segments, for those that were in the file.
    """
    offsets, counts = segments.offsets.copy(), segments.stored.copy()
    present = segments.stored > 0
    sizes = [len(segment) for segment in encoded]
    places, end = plan_places(sizes, segments.regions(), skeleton.size)
    offsets[present], counts[present] = places, sizes
    out = bytearray(skeleton[:end].tobytes().ljust(end, b"\0"))
    for place, segment in zip(places, encoded, strict=True):
        out[place : place + len(segment)] = segment
    _take_claim_back(out, directory.form)
    changes = _lossless_tags(directory, layout)
    where, length = (TILE_OFFSETS, TILE_COUNTS) if layout.tiled else (STRIP_OFFSETS, STRIP_COUNTS)
    changes[where] = _table(offsets, directory.form)
    changes[length] = _table(counts, directory.form)
    return with_changes(out, directory, changes)


def plan_places(sizes: list[int], regions: list[Region], file_bytes: int) -> tuple[list[int], int]:
    """Find a place for each segment.

    Returns
    -------
    places : list of int
        Where each segment begins.
    end : int
        Length of the file: up to the last segment where the pixels ended the file, as before otherwise.

    Examples
    --------
    >>> plan_places([4, 4, 4], [(8, 9), (30, 9)], 50)
    ([8, 12, 30], 50)
    >>> plan_places([4, 4, 4], [(8, 9)], 50)
    ([8, 12, 50], 54)
    >>> plan_places([4, 4], [(8, 42)], 50)
    ([8, 12], 16)
    """
    fixed, tail = regions, file_bytes
    if regions and sum(regions[-1]) == file_bytes:
        fixed, tail = regions[:-1], regions[-1][0]
    rooms = [(offset, offset + length) for offset, length in fixed]
    places, end = [], tail
    for size in sizes:
        while rooms and rooms[0][0] + size > rooms[0][1]:
            rooms.pop(0)
        if rooms:
            place, room_end = rooms[0]
            rooms[0] = place + size, room_end
        else:
            place, end = end, end + size
        places.append(place)
    return places, end


def _take_claim_back(out: bytearray, form: Form) -> None:
    begin = form.header_bytes
    if out.startswith(LAYOUT_NOTE, begin):
        found = out.find(CLAIM, begin, begin + 1000)
        if found >= 0:
            out[found : found + len(CLAIM)] = CLAIM_TAKEN_BACK


def _lossless_tags(directory: Directory, layout: Layout) -> dict[int, Value | None]:
    if layout.scheme not in LOSSY:
        return {}
    order = directory.form.order

    def short(number: int) -> Value:
        return Value(SHORT, 1, np.array(number, f"{order}u2").tobytes())

    changes: dict[int, Value | None] = dict.fromkeys(CODEC_TAGS)
    changes[COMPRESSION] = short(DEFLATE)
    if directory.integer(PHOTOMETRIC, 1) == YCBCR:
        changes |= dict.fromkeys(YCBCR_TAGS)
        changes[PHOTOMETRIC] = short(RGB)
    return changes


def _table(numbers: npt.NDArray[np.int64], form: Form) -> Value:
    if form.big:
        return Value(LONG8, numbers.size, numbers.astype(f"{form.order}u8").tobytes())
    if int(numbers.max(initial=0)) >= 1 << 32:
        raise unsupported("a classic TIFF that would grow over 4 GiB when its pixels are encoded anew")
    return Value(LONG, numbers.size, numbers.astype(f"{form.order}u4").tobytes())
