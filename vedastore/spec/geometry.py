"""GeoJSON geometries as WKB, and the transform that a footprint gives an image. Pure rules, no I/O.

Sources: https://www.rfc-editor.org/rfc/rfc7946 (GeoJSON), OGC 06-103r4 section 8 (WKB; ISO codes for 3D).
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from vedastore.errors import LabelError
from vedastore.spec.lonlat import HALF_WORLD, WORLD

if TYPE_CHECKING:
    from vedastore.model import Affine6

Bounds = tuple[float, float, float, float]
_RING_MIN: Final = 4
_NUMBERS: Final = {int, float}
_BOX_LENGTH: Final = 4
_POLYGON, _MULTIPOLYGON, _ISO_Z = 3, 6, 1000
_EXACT_INTEGERS: Final = 2**53
"""A double holds every integer up to here."""
_BOX: Final = struct.Struct("<BIII10d")
SKEW_LIMIT_PX: Final = 0.5
_ORDERS: Final = np.array([np.roll(c, -k) for c in ((0, 1, 2, 3), (3, 2, 1, 0)) for k in range(4)])
"""The ways around four corners."""


class Shape(NamedTuple):
    """One geometry: ISO WKB, (minx, miny, maxx, maxy), whether it is an axis-aligned box, and what is odd about it.

    A tuple, because a release makes millions of them.
    """

    wkb: bytes
    bounds: Bounds
    is_box: bool
    flags: frozenset[str]


def parse_geometry(value: Any, where: str) -> Shape:
    """Read a GeoJSON Polygon or MultiPolygon, coordinates exactly as given.

    Rings that are not closed are closed in the WKB and flagged ``ring-unclosed``. Other flags are ``geometry-3d``, and
    ``json-rounded`` for an integer that a double does not hold exactly.
    """
    if not isinstance(value, dict):
        raise _malformed(f"a geometry is {_kind(value)}, not a GeoJSON object", where)
    return _parse_plain(value) or _parse_any(value, where)


def _parse_plain(value: dict[str, Any]) -> Shape | None:
    """Read what nearly all geometries are, without NumPy: a Polygon of one closed ring of pairs of common numbers.

    None stands for what needs a closer look: it may be odd, wrong, or just another kind of geometry.
    """
    coordinates = value.get("coordinates")
    if value.get("type") != "Polygon" or not isinstance(coordinates, list) or len(coordinates) != 1:
        return None
    ring = coordinates[0]
    try:
        numbers = [*chain.from_iterable(ring)]
        kinds = {*map(type, numbers)}
        if not kinds <= _NUMBERS or {*map(len, ring)} != {2} or len(ring) < _RING_MIN or ring[0] != ring[-1]:
            return None
        numbers = [*map(float, numbers)] if int in kinds else numbers
    except (TypeError, OverflowError):
        return None
    x, y = numbers[::2], numbers[1::2]
    minx, miny, maxx, maxy = bounds = min(x), min(y), max(x), max(y)
    # Only a sum tells NaN: comparisons, and so smallest and largest, may pass it by.
    if not (min(minx, miny) > -_EXACT_INTEGERS and max(maxx, maxy) < _EXACT_INTEGERS and math.isfinite(sum(numbers))):
        return None
    wkb = _ring_form(len(numbers)).pack(1, _POLYGON, 1, len(ring), *numbers)
    return Shape(wkb, bounds, _is_box(x, y), frozenset())


@lru_cache(maxsize=128)
def _ring_form(numbers: int) -> struct.Struct:
    return struct.Struct(f"<BIII{numbers}d")


def _parse_any(value: dict[str, Any], where: str) -> Shape:
    kind, coordinates = value.get("type"), value.get("coordinates")
    if kind == "Polygon":
        polygons = [(where, coordinates)]
    elif kind == "MultiPolygon":
        parts = _list(coordinates, "MultiPolygon coordinates", where)
        polygons = [(f"{where}: polygon {i}", p) for i, p in enumerate(parts)]
    else:
        told = repr(kind) if isinstance(kind, str | None) else _kind(kind)
        raise _malformed(f"a geometry is of type {told:.40}, not Polygon or MultiPolygon", where)
    flags: set[str] = set()
    rings = [
        [_ring(r, flags, f"{place}: ring {i}") for i, r in enumerate(_list(p, "polygon coordinates", place))]
        for place, p in polygons
    ]
    dimensions = {r.shape[1] for p in rings for r in p}
    if len(dimensions) != 1:
        raise _malformed("a geometry mixes two and three dimensions", where)
    z = _ISO_Z if dimensions == {3} else 0
    if z:
        flags.add("geometry-3d")
    bodies = [_polygon_wkb(p, z) for p in rings]
    head = b"" if kind == "Polygon" else struct.pack("<BII", 1, _MULTIPOLYGON + z, len(bodies))
    wkb = head + b"".join(bodies)
    is_box = len(rings) == len(rings[0]) == 1 and _is_box(*rings[0][0][:, :2].T.tolist())
    return Shape(wkb, _bounds([p[0] for p in rings]), is_box, frozenset(flags))


def parse_footprint(value: Any, where: str) -> tuple[Shape | None, frozenset[str]]:
    """Read the ``geometry`` of a label file: None where there is none, and the flag of one that only looks like one.

    ``null`` and ``{}`` are how the release format says so; a Polygon without any position says it too, and is flagged
    ``footprint-empty``.
    """
    if value is None or value == {}:
        return None, frozenset()
    if isinstance(value, dict):
        depth = {"Polygon": 2, "MultiPolygon": 3}.get(str(value.get("type")), 0)
        if _is_hollow(value.get("coordinates"), depth):
            return None, frozenset({"footprint-empty"})
    shape = parse_geometry(value, where)
    return shape, shape.flags


def _is_hollow(coordinates: Any, depth: int) -> bool:
    """Tell whether coordinates are lists of nothing, down to the level where positions would be."""
    for _ in range(depth):
        if coordinates == []:
            return True
        if not isinstance(coordinates, list) or len(coordinates) > 1:
            return False
        coordinates = coordinates[0]
    return False


def parse_box(value: list[Any], where: str) -> Shape:
    """Read a box ``[minx, miny, maxx, maxy]`` as a polygon."""
    flags: set[str] = set()
    if {*map(type, value)} <= _NUMBERS and all(-_EXACT_INTEGERS < n < _EXACT_INTEGERS for n in value):
        numbers = [*map(float, value)]
    else:  # odd, or wrong
        array = _array(value, flags, where)
        if array.ndim != 1:
            raise _malformed("an object is a list of lists, not a box of four numbers or a geometry", where)
        numbers = array.tolist()
    if len(numbers) != _BOX_LENGTH:
        raise _malformed(f"a box has {len(value)} numbers, not four", where)
    minx, miny, maxx, maxy = numbers
    if minx > maxx or miny > maxy:
        raise LabelError(f"a box has its minimum above its maximum: {value}", where=where, rule="box-inverted")
    ring = (minx, miny, maxx, miny, maxx, maxy, minx, maxy, minx, miny)
    wkb = _BOX.pack(1, _POLYGON, 1, _RING_MIN + 1, *ring)
    return Shape(wkb, (minx, miny, maxx, maxy), is_box=True, flags=frozenset(flags))


def _ring(value: Any, flags: set[str], where: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    points = _array(_list(value, "a ring", where), flags, where)
    if points.ndim != 2 or points.shape[1] not in {2, 3}:  # noqa: PLR2004 - a position has two or three numbers
        raise _malformed("a ring is not a list of positions of two or three numbers", where)
    if (points[0] != points[-1]).any():
        flags.add("ring-unclosed")
        points = np.concatenate([points, points[:1]])
    if len(points) < _RING_MIN:
        raise _malformed(f"a ring has {len(points)} positions, fewer than four", where)
    return points


def _array(value: list[Any], flags: set[str], where: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    nested = bool(value) and isinstance(value[0], list)
    kinds: set[type] = set()
    try:
        # NumPy alone would take strings, true and null for numbers.
        kinds.update(map(type, chain.from_iterable(value) if nested else value))
        numbers = np.array(value, "<f8") if kinds <= _NUMBERS else None
    except (ValueError, TypeError, OverflowError):
        numbers = None
    largest = math.inf if numbers is None else float(np.abs(numbers).max(initial=0))
    if numbers is None or not largest < math.inf:
        raise _malformed("coordinates are not all finite numbers of one shape", where)
    if int in kinds and largest >= _EXACT_INTEGERS:
        flat = chain.from_iterable(value) if nested else value
        if any(isinstance(n, int) and int(float(n)) != n for n in flat):
            flags.add("json-rounded")
    return numbers


def _polygon_wkb(rings: list[np.ndarray[Any, np.dtype[np.float64]]], z: int) -> bytes:
    head = struct.pack("<BII", 1, _POLYGON + z, len(rings))
    return head + b"".join(struct.pack("<I", len(r)) + r.tobytes() for r in rings)


def _bounds(outer: list[np.ndarray[Any, np.dtype[np.float64]]]) -> Bounds:
    points = np.concatenate([r[:, :2] for r in outer])
    (minx, miny), (maxx, maxy) = points.min(0).tolist(), points.max(0).tolist()
    return minx, miny, maxx, maxy


def _is_box(x: list[float], y: list[float]) -> bool:
    """Tell whether a closed ring of five positions runs around an axis-aligned rectangle."""
    if len(x) != _RING_MIN + 1:
        return False
    turns = [(x0 == x1) != (y0 == y1) for (x0, x1), (y0, y1) in zip(pairwise(x), pairwise(y), strict=True)]
    return all(turns) and len(set(zip(x, y, strict=True))) == _BOX_LENGTH and len(set(x)) == len(set(y)) == 2  # noqa: PLR2004


def _list(value: Any, what: str, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise _malformed(f"{what} is {_kind(value)}, not a list with something in it", where)
    return value


def _malformed(message: str, where: str) -> LabelError:
    return LabelError(message, where=where, rule="geometry-form")


def _kind(value: Any) -> str:
    return "empty" if value in ([], {}, "") else f"of type {type(value).__name__}"


def footprint_transform(wkb: bytes, height: int, width: int) -> tuple[Affine6 | None, frozenset[str]]:
    """Derive the transform that puts an image of (height, width) px on its footprint, a polygon of four corners.

    Returns the six numbers and what is odd: ``footprint-skewed`` where the corners are no exact parallelogram (the
    transform is then the least-squares one, at most half a pixel off), ``footprint-not-rectangle`` with no transform
    where they are not four or further off than that, ``footprint-antimeridian`` where they lie on both sides of it:
    longitudes go on past 180 then. The corner in the north-west is the image's first pixel.
    """
    found = _corners(wkb)
    if found is None:
        return None, frozenset({"footprint-not-rectangle"})
    x, y = map(list, zip(*found, strict=True))
    minx, miny, maxx, maxy = min(x), min(y), max(x), max(y)
    span = maxx - minx
    if span <= HALF_WORLD and _is_box([*x, x[0]], [*y, y[0]]):
        return ((maxx - minx) / width, 0.0, minx, 0.0, (miny - maxy) / height, maxy), frozenset()
    corners, flags = np.array(found), set[str]()
    if HALF_WORLD < span < WORLD:
        corners[:, 0] += np.where(corners[:, 0] < 0, WORLD, 0.0)
        flags.add("footprint-antimeridian")
    elif span > WORLD:
        return None, frozenset({"footprint-out-of-range"})
    (minx, miny), (maxx, maxy) = corners.min(0).tolist(), corners.max(0).tolist()
    upright = np.array([(minx, maxy), (maxx, maxy), (maxx, miny), (minx, miny)])
    orders = corners[_ORDERS]
    with np.errstate(over="ignore", invalid="ignore"):  # numbers that are no degrees may be of any size
        best = orders[((orders - upright) ** 2).reshape(len(orders), -1).sum(axis=1).argmin()]
        if np.array_equal(best, upright):
            return ((maxx - minx) / width, 0.0, minx, 0.0, (miny - maxy) / height, maxy), frozenset(flags)
        along = (best[1] - best[0] + best[2] - best[3]) / 2
        down = (best[3] - best[0] + best[2] - best[1]) / 2
        origin = best.mean(0) - (along + down) / 2
        off_px = float(np.abs(best[0] - origin).max()) / _pixel_size(along / width, down / height)
    if not off_px <= SKEW_LIMIT_PX:
        return None, frozenset({*flags, "footprint-not-rectangle"})
    a, d = (along / width).tolist()
    b, e = (down / height).tolist()
    c, f = origin.tolist()
    return (a, b, c, d, e, f), frozenset(flags | ({"footprint-skewed"} if off_px > 1e-6 else set()))  # noqa: PLR2004


def _pixel_size(*steps: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return min(math.hypot(*s.tolist()) for s in steps) or math.nan


def _corners(wkb: bytes) -> list[tuple[float, float]] | None:
    """Return the four corners (x, y) of a polygon, or of the only polygon of a MultiPolygon, in ring order."""
    (kind,) = struct.unpack_from("<I", wkb, 1)
    if kind % _ISO_Z == _MULTIPOLYGON:
        if struct.unpack_from("<I", wkb, 5) != (1,):
            return None
        wkb = wkb[9:]
    rings, points = struct.unpack_from("<II", wkb, 5)
    if rings != 1 or points != _BOX_LENGTH + 1:
        return None
    dimensions = 3 if kind >= _ISO_Z else 2
    numbers = struct.unpack_from(f"<{_BOX_LENGTH * dimensions}d", wkb, 13)
    corners = [*zip(numbers[::dimensions], numbers[1::dimensions], strict=True)]
    return corners if len({*corners}) == _BOX_LENGTH else None
