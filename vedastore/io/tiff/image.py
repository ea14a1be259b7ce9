"""The first image of a file that is taken apart: its structure, and its pixels as NumPy, codecs and GDAL read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vedastore.io.tiff.codecs import decode_segments
from vedastore.io.tiff.gdal import read_lossy
from vedastore.io.tiff.layout import LAYOUT_TAGS, LOSSY, NODATA, NONE, Layout, parse_layout
from vedastore.io.tiff.samples import arrange, disarrange, fill_value, predict, unpredict
from vedastore.io.tiff.segments import Region, Segments, check_apart, gather, parse_segments
from vedastore.io.tiff.structure import KEPT, KEPT_BYTES, SUB_DIRECTORIES, Directory, damaged
from vedastore.model import DEFAULT_LIMITS

if TYPE_CHECKING:
    from vedastore.model import Limits

Bytes = npt.NDArray[np.uint8]
Pixels = npt.NDArray[Any]
Parts = tuple[Layout, Segments, tuple[Region, ...], bool]
_kept: dict[tuple[Any, ...], Parts] = {}


@dataclass(frozen=True, slots=True)
class Image:
    """The parsed first image of a file.

    Parameters
    ----------
    directory, layout, segments
        Its tags, and what they say.
    regions : tuple of (offset, length)
        Ranges of the file that its pixels fill, ascending and apart.
    solid : bool
        Whether all segments are in the file, one behind the other in their order.
    """

    directory: Directory
    layout: Layout
    segments: Segments
    regions: tuple[Region, ...]
    solid: bool

    @property
    def nodata(self) -> str | None:
        """Text of the GDAL_NODATA tag."""
        return self.directory.text(NODATA)


def parse_image(directory: Directory, limits: Limits = DEFAULT_LIMITS) -> Image:
    """Read the structure of the first image, checked against the bytes that are there; no pixel is read.

    Raises
    ------
    ImageError
        Where the file is damaged or too large, or where the layout is none that is taken apart here.
    """
    if directory.next_offset or not directory.entries.keys().isdisjoint(SUB_DIRECTORIES):
        return Image(directory, *_parse(directory, limits))
    # Files of one release differ in where they lie on the ground, seldom in anything that is read here.
    key = directory.form, directory.offset, len(directory.data), directory.table, directory.outside(LAYOUT_TAGS), limits
    parts = _kept.get(key)
    if parts is None:
        parts = _parse(directory, limits)
        if len(directory.table) + sum(map(len, key[4])) <= KEPT_BYTES:
            if len(_kept) >= KEPT:
                _kept.clear()
            _kept[key] = parts
    return Image(directory, *parts)


def _parse(directory: Directory, limits: Limits) -> Parts:
    layout = parse_layout(directory, limits)
    segments = parse_segments(directory, layout, limits)
    regions = segments.regions()
    check_apart(regions, directory, layout)
    if segments.sparse:
        fill_value(directory.text(NODATA), layout)
    return layout, segments, tuple(regions), not segments.sparse and segments.contiguous()


def read_pixels(data: bytes, image: Image) -> tuple[Pixels, bytes, Bytes]:
    """Read the first image.

    Returns
    -------
    pixels : array
        (band, y, x).
    padding : bytes
        Tile padding that is not zero.
    raw : array of uint8
        The segments, decoded, with their predictor.
    """
    layout = image.layout
    if layout.scheme in LOSSY:
        return read_lossy(data, image.directory, layout), b"", np.empty(0, np.uint8)
    raw = _read_raw(np.frombuffer(data, np.uint8), image)
    plain = raw if layout.predictor == 1 else unpredict(raw.copy(), layout)
    if not image.solid and image.segments.sparse:
        plain = plain if plain.flags.writeable else plain.copy()
        _fill_sparse(plain, image)
    return *arrange(plain, layout), raw


def _read_raw(data: Bytes, image: Image) -> Bytes:
    layout, segments = image.layout, image.segments
    if layout.scheme != NONE:
        return decode_segments(data, segments, layout)
    if image.solid:
        begin = image.regions[0][0]
        return data[begin : begin + layout.raw_bytes]
    raw = np.zeros(layout.raw_bytes, np.uint8)
    begin = 0
    for index, size in enumerate(segments.sizes.tolist()):
        if segments.stored[index]:
            raw[begin : begin + size] = gather(data, segments, index)
        begin += size
    return raw


def _fill_sparse(plain: Bytes, image: Image) -> None:
    value = fill_value(image.nodata, image.layout)
    ends = np.cumsum(image.segments.sizes)
    for index in np.flatnonzero(image.segments.stored == 0).tolist():
        begin, end = int(ends[index] - image.segments.sizes[index]), int(ends[index])
        plain[begin:end].view(image.layout.dtype)[...] = value


def pack(pixels: Pixels, padding: bytes, layout: Layout) -> Bytes:
    """Turn pixels into decoded segments, predictor applied."""
    return predict(disarrange(pixels, padding, layout), layout)


def check_sparse(pixels: Pixels, image: Image) -> None:
    """Refuse pixels that differ from the fill value where the file has no segment to hold them."""
    raw = disarrange(pixels, b"", image.layout)
    filled = raw.copy()
    _fill_sparse(filled, image)
    again, _ = arrange(filled, image.layout)
    if again.tobytes() != pixels.tobytes():
        raise damaged("pixels in strips or tiles that the file does not have")
