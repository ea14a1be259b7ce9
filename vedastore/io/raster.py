"""Shapes in pixels drawn on a grid, by GDAL: a pixel is covered where its centre is."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

_REACH_PX: Final = 2.0**20
"""No grid is larger. What lies further outside is cut off first: GDAL computes rows as integers of 32 bits."""

_drawing = threading.Lock()


def burn(
    shapes: Sequence[Any], values: Sequence[int], shape: tuple[int, int], dtype: str, scale: float = 1.0
) -> np.ndarray[Any, Any]:
    """Return a grid (y, x) of zeros with polygons drawn on it one after the other, each with its value.

    Parameters
    ----------
    shapes : sequence of shapely polygons
        In pixels of the image: x to the right, y downwards, from the first pixel's corner.
    values : sequence of int
        Of each shape; a later one covers those before it.
    shape : (height, width)
        Of the grid.
    dtype : str
        Of the grid: an unsigned integer.
    scale : float
        Pixels of the grid for one of the image, along each side.
    """
    from affine import Affine
    from rasterio import features

    drawn = [(near, value) for near, value in zip(_near(shapes, scale), values, strict=True) if not near.is_empty]
    if not drawn:
        return np.zeros(shape, dtype)
    # One at a time: meanwhile, rasterio silences a warning of its own by the filters that threads share. It holds the
    # GIL nearly always, so that nothing is lost.
    with _drawing:
        return features.rasterize(  # type: ignore[no-any-return]
            drawn, out_shape=shape, transform=Affine.scale(1 / scale), fill=0, dtype=dtype
        )


def _renew_lock() -> None:
    global _drawing  # noqa: PLW0603 - another thread may have held it when this process was forked
    _drawing = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _near(shapes: Sequence[Any], scale: float) -> Any:
    """Return shapes in two dimensions, without what is out of reach."""
    import shapely

    array = np.empty(len(shapes), dtype=object)
    array[:] = shapes
    flat = shapely.force_2d(array)
    reach = _REACH_PX / max(scale, 1.0)
    for index in np.flatnonzero((np.abs(shapely.bounds(flat)) > reach).any(axis=1)).tolist():
        try:
            flat[index] = shapely.clip_by_rect(flat[index], -reach, -reach, reach, reach)
        except shapely.GEOSException:  # it crosses or touches itself: its corners are moved to the edge instead
            flat[index] = shapely.transform(flat[index], lambda points: np.clip(points, -reach, reach))
    return flat


def scaled_size(size_px: int, scale: float) -> int | None:
    """Return the pixels of one side on a grid of another scale; None where they are no whole number.

    >>> scaled_size(256, 0.5), scaled_size(5, 0.5)
    (128, None)
    """
    scaled = size_px * scale
    whole = round(scaled) if abs(scaled) < _REACH_PX else 0
    return whole if whole >= 1 and abs(whole - scaled) <= 1e-9 * whole else None
