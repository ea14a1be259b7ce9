"""Transform and CRS of a GeoTIFF, float for float and word for word what rasterio reports, without opening the file.

Source: OGC GeoTIFF 1.1 (19-008r4), and the arithmetic of GDAL's GTiff driver in its order. CRS that are not plain are
interpreted by GDAL itself, once for each distinct set of geo keys.
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.io.isolation import with_codecs
from vedastore.io.tiff.directories import Value, new_tiff
from vedastore.io.tiff.epsg import GEO_DOUBLES, GEO_TEXTS, name_plain_crs
from vedastore.io.tiff.gdal import MATRIX, PIXEL_SCALE, TIE_POINTS, open_tiff, placeholder
from vedastore.io.tiff.structure import ASCII, DOUBLE, SHORT
from vedastore.model import DEFAULT_LIMITS

if TYPE_CHECKING:
    from vedastore.io.tiff.structure import Directory

GEO_KEYS = 34735
RASTER_TYPE_KEY, PIXEL_IS_POINT = 1025, 2
TIE_POINT_NUMBERS, MATRIX_NUMBERS = 6, 16
ASCII_END = 128

_asking = threading.Lock()

Affine = tuple[float, float, float, float, float, float]
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def read_transform(directory: Directory) -> Affine | None:
    """Read the transform from pixel corners to coordinates.

    Returns
    -------
    tuple of six floats or None
        a, b, c, d, e, f; None where there is none, where it is the identity, or where there are only control points.
    """
    scale, tie = _floats(directory, PIXEL_SCALE), _floats(directory, TIE_POINTS)
    a = b = d = e = c = f = 0.0
    if _is_scale(scale):
        if len(tie) < TIE_POINT_NUMBERS:
            return None
        a, e = scale[0], -abs(scale[1])
        c, f = tie[3] - tie[0] * a, tie[4] - tie[1] * e
    else:
        matrix = _floats(directory, MATRIX)
        if len(matrix) != MATRIX_NUMBERS:
            return None
        a, b, _, c, d, e, _, f = matrix[:8]
    if _pixel_is_point(directory.values(GEO_KEYS)):
        c -= a * 0.5 + b * 0.5
        f -= d * 0.5 + e * 0.5
    transform = a, b, c, d, e, f
    return None if transform == IDENTITY else transform


def _is_scale(numbers: tuple[float, ...]) -> bool:
    return all(numbers[:2]) and len(numbers) > 1


def _floats(directory: Directory, tag: int) -> tuple[float, ...]:
    return tuple(map(float, directory.values(tag)))


def _pixel_is_point(keys: tuple[int, ...]) -> bool:
    if PIXEL_IS_POINT not in keys:
        return False
    groups = zip(*(keys[i::4] for i in range(4)), strict=False)
    return any(key == RASTER_TYPE_KEY and place == 0 and value == PIXEL_IS_POINT for key, place, _, value in groups)


def read_crs(directory: Directory) -> str | None:
    """Read the CRS: ``EPSG:n`` where it is exactly that one, else WKT2; None where rasterio reports none."""
    if GEO_KEYS not in directory.entries or _has_control_points(directory):
        return None
    tags = []
    for tag, kind in ((GEO_KEYS, SHORT), (GEO_DOUBLES, DOUBLE), (GEO_TEXTS, ASCII)):
        entry, raw = directory.entries.get(tag), directory.raw(tag)
        if entry is not None and raw is not None and entry.kind == kind:
            tags.append((tag, entry.kind, entry.number, _readable(raw) if tag == GEO_TEXTS else raw))
    return _interpret(directory.form.order, tuple(tags))


def _readable(text: bytes) -> bytes:
    """Replace what is not UTF-8: rasterio stumbles over it in GDAL's messages."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return bytes(byte if byte < ASCII_END else ord("?") for byte in text)
    return text


def _has_control_points(directory: Directory) -> bool:
    """GDAL takes tie points without a pixel scale for ground control points, and reports no CRS of the image."""
    scale = _floats(directory, PIXEL_SCALE)
    if _is_scale(scale):
        return False
    ties, matrix = _floats(directory, TIE_POINTS), _floats(directory, MATRIX)
    return len(ties) >= TIE_POINT_NUMBERS and len(matrix) != MATRIX_NUMBERS


def _interpret(order: str, tags: tuple[tuple[int, int, int, bytes], ...]) -> str | None:
    """Name a plain CRS; ask GDAL for others, once for each, and in a process that PROJ may take down."""
    with _asking:  # or else every thread would start a process to ask the same
        return _ask_once(order, tags)


def _renew_lock() -> None:
    global _asking  # noqa: PLW0603 - another thread may have held it when this process was forked
    _asking = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


@lru_cache(maxsize=1024)
def _ask_once(order: str, tags: tuple[tuple[int, int, int, bytes], ...]) -> str | None:
    raws = {tag: raw for tag, _, _, raw in tags}
    keys = np.frombuffer(raws.get(GEO_KEYS, b""), f"{order}u2").tolist()
    doubles = np.frombuffer(raws.get(GEO_DOUBLES, b""), f"{order}f8").tolist()
    plain = name_plain_crs(tuple(keys), tuple(doubles), raws.get(GEO_TEXTS, b""))
    return plain or with_codecs(DEFAULT_LIMITS, _ask_gdal, order, tags)


def _ask_gdal(order: str, tags: tuple[tuple[int, int, int, bytes], ...]) -> str | None:
    """Ask with a TIFF of one pixel that has these tags."""
    image: dict[int, int | Value | None] = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    image |= placeholder(order)
    image |= {tag: Value(kind, count, raw) for tag, kind, count, raw in tags}
    with open_tiff(new_tiff(order, b"\0" * 8, image), "the georeferencing") as dataset:
        return _name_crs(dataset.crs)


def _name_crs(crs: Any) -> str | None:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    if not crs:
        return None
    code = crs.to_epsg(confidence_threshold=100)
    if code is not None and CRS.from_epsg(code) == crs:
        return f"EPSG:{code}"
    try:
        return str(crs.to_wkt(version="WKT2_2019"))
    except CRSError:
        return str(crs.to_wkt())
