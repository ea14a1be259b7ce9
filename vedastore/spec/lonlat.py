"""Boxes in longitude and latitude, on a globe where 180 and -180 degrees are one line. Pure rules, no I/O.

Source: https://www.rfc-editor.org/rfc/rfc7946 sections 3.1.9 and 5.2: the box of what runs over the antimeridian has
its western edge above its eastern one. GeoParquet 1.1 takes its bounding boxes from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

Bbox = tuple[float, float, float, float]
"""West, south, east, north in degrees; west is above east where the box runs over the antimeridian."""

HALF_WORLD: Final = 180.0
"""An edge that is longer than this, up to a whole turn, runs over the antimeridian, the short way."""
WORLD: Final = 360.0
POLE: Final = 90.0
TURNS: Final = tuple(WORLD * n for n in range(-2, 3))
"""How far apart the numbers of one longitude can be where each is of up to 360 degrees."""


def covering_bbox(rings: Sequence[np.ndarray[Any, np.dtype[np.float64]]]) -> Bbox:
    """Return the box around closed outer rings (longitude, latitude).

    Longitudes of up to 360 degrees are taken for what they are on the globe; numbers beyond that, and latitudes beyond
    90, are no degrees, and the box has them as they are. A ring around a pole reaches to it.

    Examples
    --------
    >>> covering_bbox([np.array([(179, 1), (-179, 1), (-179, 2), (179, 2), (179, 1)], "f8")])
    (179.0, 1.0, -179.0, 2.0)
    """
    points = np.concatenate(rings)
    (west, south), (east, north) = points.min(0).tolist(), points.max(0).tolist()
    if west < -WORLD or east > WORLD or south < -POLE or north > POLE:
        return west, south, east, north
    spans = []
    for ring in rings:
        low, high, turns = _unroll(ring[:, 0])
        if turns:
            south, north = (-POLE, north) if ring[:, 1].mean() < 0 else (south, POLE)
            low, high = -HALF_WORLD, HALF_WORLD
        spans.append(_place(low, high))
    west, east = min(low for low, _ in spans), max(high for _, high in spans)
    meets = east == HALF_WORLD and west == -HALF_WORLD and (west, east) not in spans
    if east > HALF_WORLD or meets:
        # Seen from Greenwich eastwards, the antimeridian lies in the middle.
        eastwards = [(low, high) if low >= 0 else (low + WORLD, high + WORLD) for low, high in spans]
        west, east = min(low for low, _ in eastwards), max(high for _, high in eastwards)
        west, east = (west, east - WORLD) if east - west < WORLD else (-HALF_WORLD, HALF_WORLD)
    return west, south, east, north


def unwrap(longitude: float) -> float:
    """Return a longitude as seen from Greenwich eastwards, where the antimeridian is no edge.

    >>> unwrap(-179.5), unwrap(179.5)
    (180.5, 179.5)
    """
    return longitude + WORLD if longitude < 0 else longitude


def unwrap_box(box: Bbox) -> Bbox:
    """Return the box around the edges of a box as seen from Greenwich eastwards.

    >>> unwrap_box((-179.5, 1.0, 179.0, 2.0))
    (179.0, 1.0, 180.5, 2.0)
    """
    west, east = sorted((unwrap(box[0]), unwrap(box[2])))
    return west, box[1], east, box[3]


def bbox_intersects(boxes: Any, box: Bbox) -> Any:
    """Tell which boxes have a point in common with a box; each may run over the antimeridian, or go on past 180.

    Parameters
    ----------
    boxes : array of float, (4,) or (4, n)
        West, south, east and north; what is not a number has no point.
    box : Bbox

    Returns
    -------
    array of bool, () or (n,)

    Examples
    --------
    >>> fiji = (177.0, -20.0, -178.0, -12.0)
    >>> bbox_intersects(np.transpose([(179.0, -17.0, 180.0, -16.0), (-179.5, -17.0, -179.0, -16.0)]), fiji).tolist()
    [True, True]
    >>> bool(bbox_intersects(fiji, (0.0, -17.0, 10.0, -16.0)))
    False
    """
    west, south, east, north = np.asarray(boxes, "f8")
    east = np.where(west > east, east + WORLD, east)
    over = WORLD if box[0] > box[2] else 0.0
    found = np.zeros(west.shape, bool)
    for turn in TURNS:
        found |= (west <= box[2] + (turn + over)) & (east >= box[0] + turn)
    return found & (south <= box[3]) & (north >= box[1])


def _unroll(longitudes: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float, bool]:
    """Follow a ring without the jump from 180 to -180: its ends in the west and east, whether it goes round a pole."""
    steps = np.diff(longitudes)
    jumps = (np.abs(steps) > HALF_WORLD) & (np.abs(steps) <= WORLD)
    if (np.abs(longitudes) == HALF_WORLD).all():
        jumps[:] = False  # a map of the whole world
    turns = np.concatenate([[0.0], np.cumsum(np.where(jumps, -WORLD * np.sign(steps), 0.0))])
    followed = longitudes + turns
    return float(followed.min()), float(followed.max()), bool(turns[-1])


def _place(low: float, high: float) -> tuple[float, float]:
    """Move a range of longitudes by whole turns, so that it begins on the globe."""
    if high - low >= WORLD:
        return -HALF_WORLD, HALF_WORLD
    if low < -HALF_WORLD or high > HALF_WORLD:
        turns = np.floor((low + HALF_WORLD) / WORLD) * WORLD
        low, high = float(low - turns), float(high - turns)
    return low, high
