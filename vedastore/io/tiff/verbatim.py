"""Layouts that are not taken apart: GDAL reads their pixels, and the file is kept whole beside them.

Whatever GDAL reads right is let in: odd bit depths, CCITT, reversed bits, complex integers, old-style JPEG, colour
spaces that it converts. What it cannot decode, or misreads without a word, is refused by name.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vedastore.io.tiff.gdal import bare, open_tiff
from vedastore.io.tiff.layout import (
    BANDS,
    COMPLEX,
    COMPLEX_INTEGER,
    COMPRESSION,
    DEPTH,
    DIFFERENCES,
    FLOAT,
    FLOAT_BYTES,
    HEIGHT,
    LIMIT_GDAL_BANDS,
    NONE,
    PHOTOMETRIC,
    PLANAR,
    PLANES,
    PREDICTABLE,
    PREDICTOR,
    SIGNED,
    SIZES_BITS,
    SUBSAMPLING,
    TILE_HEIGHT,
    TILE_WIDTH,
    UNSIGNED,
    VOID,
    WIDTH,
    YCBCR,
    name_samples,
    name_scheme,
    read_sample_type,
    too_large,
)
from vedastore.io.tiff.segments import check_whole, refuse_bomb
from vedastore.io.tiff.structure import Directory, damaged, iter_later_directories, unsupported
from vedastore.spec.arrays import DTYPES

if TYPE_CHECKING:
    from vedastore.model import Limits

#: Bits of the samples that GDAL reads right, by format; it takes all others for unsigned numbers, or refuses them.
READABLE_BITS = {
    UNSIGNED: {*range(1, 33), 64}, VOID: {*SIZES_BITS["u"]}, SIGNED: {*SIZES_BITS["i"]}, FLOAT: {16, 24, 32, 64},
    COMPLEX_INTEGER: {32, 64}, COMPLEX: {*SIZES_BITS["c"]},
}  # fmt: skip
PREDICTABLE_BITS = {DIFFERENCES: {8, 16, 32, 64}, FLOAT_BYTES: {16, 24, 32, 64}}  # by predictor
BITS_OF_TWO_INT32 = 64  # a complex number of them needs a complex128; GDAL's Python types have none


def read_verbatim(data: bytes, directory: Directory, limits: Limits) -> npt.NDArray[Any]:
    """Read the first image as GDAL reads it: in the next wider type, colours converted.

    Returns
    -------
    array
        (band, y, x), C-contiguous, little-endian.

    Raises
    ------
    ImageError
        Where the file is damaged or too large, or GDAL does not read it right.
    """
    bits, form = read_sample_type(directory)
    code = directory.integer(COMPRESSION, NONE)
    scheme = name_scheme(code)
    name = f"{name_samples(bits, form)}, {scheme}"
    bands, height, width = directory.integer(BANDS, 1), directory.integer(HEIGHT, 0), directory.integer(WIDTH, 0)
    if bits not in READABLE_BITS.get(form, ()):
        raise unsupported(f"{name}: GDAL does not read them right")
    predictor = directory.integer(PREDICTOR, 1)
    if code in PREDICTABLE and predictor != 1 and bits not in PREDICTABLE_BITS.get(predictor, ()):
        raise unsupported(f"predictor {predictor} on {name}")
    if directory.integer(DEPTH, 1) != 1:
        raise unsupported("volumes (ImageDepth above 1)")
    if bands > LIMIT_GDAL_BANDS:
        raise unsupported(f"{bands} bands, {name}")
    _check_size(len(data), scheme, bands * _canvas(directory) * -(-bits // 8), limits)
    check_whole(directory, _row_bits(directory, bits) // 8 if code == NONE else 0)
    for _ in iter_later_directories(directory):
        pass
    with open_tiff(bare(data, directory), f"an image of {name},") as dataset:
        if (dataset.height, dataset.width) != (height, width):
            raise damaged(f"GDAL reads {dataset.height} rows and {dataset.width} columns, the tags say otherwise")
        dtype = _wanted(set(dataset.dtypes), form, bits, name)
        _check_size(len(data), scheme, dataset.count * _canvas(directory) * dtype.itemsize, limits)
        pixels: npt.NDArray[Any] = dataset.read(out_dtype=dtype)
    return np.require(pixels, dtype.newbyteorder("<"), ["C", "A"])


def _row_bits(directory: Directory, bits: int) -> int:
    """Count the bits of a row of a strip; where chroma is shared by some pixels, on the average."""
    width, bands = directory.integer(WIDTH, 0), directory.integer(BANDS, 1)
    if directory.integer(PLANAR, 1) == PLANES:
        return width * bits
    if directory.integer(PHOTOMETRIC, 1) == YCBCR:
        shared = max(1, math.prod((*directory.whole(SUBSAMPLING), 2, 2)[:2]))
        return width * bits * (shared + 2) // shared
    return width * bits * bands


def _canvas(directory: Directory) -> int:
    """Count the pixels of one band, tile padding included."""
    height, width = directory.integer(HEIGHT, 0), directory.integer(WIDTH, 0)
    down, across = directory.integer(TILE_HEIGHT, 1), directory.integer(TILE_WIDTH, 1)
    if min(height, width, down, across) <= 0:
        raise damaged(f"an image of {height} rows and {width} columns in tiles of {down} x {across} pixels")
    return -(-height // down) * down * -(-width // across) * across


def _check_size(file_bytes: int, scheme: str, pixel_bytes: int, limits: Limits) -> None:
    if pixel_bytes > limits.image_bytes:
        raise too_large(pixel_bytes, limits)
    refuse_bomb(pixel_bytes, file_bytes, scheme, limits)


def _wanted(found: set[str], form: int, bits: int, name: str) -> np.dtype[Any]:
    """Choose the type that holds what GDAL read, exactly."""
    if len(found) > 1:
        raise unsupported("bands of different sample types")
    dtype = found.pop().replace("complex_int16", "complex64")
    if form == COMPLEX_INTEGER and bits == BITS_OF_TWO_INT32:
        dtype = "complex128"
    if dtype not in DTYPES:
        raise unsupported(f"{name}: GDAL reads them as {dtype}")
    return np.dtype(dtype)
