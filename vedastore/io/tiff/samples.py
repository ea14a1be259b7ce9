"""Decoded segments <-> (band, y, x) pixels: interleaving, tile padding, byte order, predictors. Pure array work."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from vedastore.io.tiff.layout import DIFFERENCES, FLOAT_BYTES, Layout
from vedastore.io.tiff.structure import unsupported

Bytes = npt.NDArray[np.uint8]
Pixels = npt.NDArray[Any]

#: Texts of nodata that mean one number to everybody; `int` and `float` take more, such as ``1_0`` and 5000 zeros.
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,40}")
NUMBER = re.compile(
    r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,5})?|[+-]?(nan|inf)", re.IGNORECASE
)


def arrange(raw: Bytes, layout: Layout) -> tuple[Pixels, bytes]:
    """Put decoded segments in order.

    Parameters
    ----------
    raw : array of uint8
        All segments, decoded, one after the other; ``layout.raw_bytes`` long.
    layout : Layout

    Returns
    -------
    pixels : array
        (band, y, x), little-endian; strips give a view of ``raw`` where their samples are little-endian and aligned.
    padding : bytes
        The bytes of tile padding, right edge first; empty where there is none or all are zero.
    """
    numbers = raw.view(layout.dtype)
    if not layout.tiled:
        planes = numbers.reshape(layout.planes, layout.height, layout.width, layout.samples)
        bands = planes[..., 0] if layout.samples == 1 else planes[0].transpose(2, 0, 1)
        is_native = bands.dtype == layout.native and bands.flags.aligned
        return bands if is_native else np.require(bands, layout.native, ["A"]), b""
    canvas = _native(_tiles(numbers, layout), layout).reshape(_canvas_shape(layout))
    right, bottom = canvas[:, :, layout.width :], canvas[:, layout.height :, : layout.width]
    padding = right.tobytes() + bottom.tobytes()
    pixels = np.ascontiguousarray(canvas[:, : layout.height, : layout.width])
    return pixels, padding if padding.strip(b"\0") else b""


def disarrange(pixels: Pixels, padding: bytes, layout: Layout) -> Bytes:
    """Put pixels back into segments: the inverse of `arrange`; a view of pixels that lie as in strips already."""
    if not layout.tiled:
        ordered = pixels if layout.samples == 1 else pixels.transpose(1, 2, 0)
        if layout.samples == 1 or ordered.flags.c_contiguous:
            return np.ascontiguousarray(ordered, layout.dtype).reshape(-1).view(np.uint8)
        chunky = np.empty(ordered.shape, layout.dtype)
        for band in range(layout.samples):  # three times as fast as one transposed copy of all
            chunky[..., band] = pixels[band]
        return chunky.reshape(-1).view(np.uint8)
    canvas = np.zeros(_canvas_shape(layout), layout.native)
    canvas[:, : layout.height, : layout.width] = pixels
    if padding:
        _fill_padding(canvas, padding, layout)
    tiles = canvas.reshape(
        layout.planes, layout.samples, layout.down, layout.segment_height, layout.across, layout.segment_width
    )
    return np.ascontiguousarray(tiles.transpose(0, 2, 4, 3, 5, 1), layout.dtype).reshape(-1).view(np.uint8)


def _canvas_shape(layout: Layout) -> tuple[int, int, int]:
    return layout.bands, layout.down * layout.segment_height, layout.across * layout.segment_width


def _tiles(numbers: Pixels, layout: Layout) -> Pixels:
    shape = layout.planes, layout.down, layout.across, layout.segment_height, layout.segment_width, layout.samples
    return numbers.reshape(shape).transpose(0, 5, 1, 3, 2, 4)


def _native(numbers: Pixels, layout: Layout) -> Pixels:
    return np.require(numbers, layout.native, ["C", "A"])


def _fill_padding(canvas: Pixels, padding: bytes, layout: Layout) -> None:
    right, bottom = canvas[:, :, layout.width :], canvas[:, layout.height :, : layout.width]
    right[...] = np.frombuffer(padding, canvas.dtype, right.size).reshape(right.shape)
    bottom[...] = np.frombuffer(padding, canvas.dtype, bottom.size, right.nbytes).reshape(bottom.shape)


def unpredict(raw: Bytes, layout: Layout) -> Bytes:
    """Undo the predictor, in place where that is possible."""
    import imagecodecs

    if layout.predictor == 1:
        return raw
    rows = _rows(raw, layout)
    if layout.predictor == DIFFERENCES:
        imagecodecs.delta_decode(rows, axis=-2, out=rows)
        return raw
    out = np.empty_like(rows)
    imagecodecs.floatpred_decode(rows, axis=-2, out=out)
    return out.reshape(-1).view(np.uint8)


def predict(raw: Bytes, layout: Layout) -> Bytes:
    """Apply the predictor."""
    import imagecodecs

    if layout.predictor == 1:
        return raw
    rows = _rows(raw, layout)
    encode = imagecodecs.delta_encode if layout.predictor == DIFFERENCES else imagecodecs.floatpred_encode
    out = np.empty_like(rows)
    encode(rows, axis=-2, out=out)
    return out.reshape(-1).view(np.uint8)


def _rows(raw: Bytes, layout: Layout) -> Pixels:
    """View segments as rows of pixels of samples; differences are taken of integers, whatever the samples are."""
    integers = np.dtype(f"u{layout.dtype.itemsize}").newbyteorder(layout.dtype.byteorder)
    return raw.view(layout.dtype if layout.predictor == FLOAT_BYTES else integers).reshape(
        -1, layout.segment_width, layout.samples
    )


def fill_value(nodata: str | None, layout: Layout) -> Any:
    """Value of the pixels of a segment that is not in the file: nodata, or 0, as GDAL reads it."""
    if nodata and not NUMBER.fullmatch(nodata):
        raise unsupported("missing strips or tiles, and a nodata value that is no plain number")
    number = float(nodata) if nodata else 0.0
    if layout.dtype.kind not in "iu":
        with np.errstate(over="ignore"):
            return np.array(number).astype(layout.dtype)
    bits = layout.dtype.itemsize * 8
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if layout.dtype.kind == "i" else (0, (1 << bits) - 1)
    return np.array(min(max(_whole(number, nodata), low), high), layout.native).astype(layout.dtype)


def _whole(number: float, text: str | None) -> int:
    """Round half away from zero; NaN is 0; whole numbers too large for a float are taken from their text."""
    if math.isnan(number):
        return 0
    if math.isinf(number):
        return 1 << 65 if number > 0 else -1 << 65
    if text and WHOLE_NUMBER.fullmatch(text):
        return int(text)
    return math.floor(number + 0.5) if number >= 0 else math.ceil(number - 0.5)
