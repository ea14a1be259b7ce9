"""Many geometries at once: WKB in, arrays of shapes through affine and CRS, WKB out. shapely and pyproj do the work."""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from vedastore.errors import StoreError
from vedastore.spec.lonlat import HALF_WORLD, WORLD, covering_bbox

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vedastore.model import Affine6

LONLAT = "EPSG:4326"
_POLYGON_KIND: Final = 3
_MULTI_POLYGON_KIND: Final = 6
_TYPES = {_POLYGON_KIND: "Polygon", _MULTI_POLYGON_KIND: "MultiPolygon"}
_POLYGON: Final = struct.pack("<BI", 1, _POLYGON_KIND)
FLAT_PX2: Final = 1e-9
"""What no longer counts as an area, in square pixels: rounding leaves as much of a line."""
HUGE: Final = 1e75
"""Products of four coordinates below it are finite."""
CHECKED_VERTICES: Final = 512
"""Shapes of so many vertices are checked whatever they look like."""
CHECKED_PAIRS: Final = 256
"""Pairs of edges a vertex that the check of a larger shape may have to compare."""


def parse_wkb(geometries: Sequence[bytes | None]) -> Any:
    """Return an object array of shapes, None where there is no geometry.

    Raises
    ------
    StoreError
        For what is no WKB of a Polygon or MultiPolygon: only a store's own geometries are read here.
    """
    import shapely

    if not all(g is None or g[:5] == _POLYGON or _is_area(g) for g in geometries):
        raise StoreError("a geometry is damaged: it is no Polygon or MultiPolygon")
    array = np.empty(len(geometries), dtype=object)
    array[:] = geometries
    try:
        return shapely.from_wkb(array)
    except shapely.errors.ShapelyError as error:
        raise StoreError(f"a geometry is damaged: {error}") from None


def _is_area(data: bytes) -> bool:
    """Tell whether WKB is a Polygon, or a MultiPolygon of nothing else: GEOS follows nesting until its stack ends."""
    try:
        order = "<" if data[0] else ">"
        kind, count = struct.unpack_from(f"{order}II", data, 1)
        dimensions, kind = (2, 3, 3, 4)[kind // 1000], kind % 1000
        at = 9
        for _ in range(count if kind == _MULTI_POLYGON_KIND else 0):
            part, rings = struct.unpack_from(f"{order}II", data, at + 1)
            if part % 1000 != _POLYGON_KIND or data[at] != data[0]:
                return False
            at += 9
            for _ in range(rings):
                at += 4 + 8 * dimensions * struct.unpack_from(f"{order}I", data, at)[0]
    except (struct.error, IndexError):
        return False
    return kind in (_POLYGON_KIND, _MULTI_POLYGON_KIND)


def dump_wkb(shapes: Any) -> list[bytes | None]:
    """Return ISO WKB, little-endian."""
    import shapely

    return list(shapely.to_wkb(shapes, byte_order=1, flavor="iso"))


def bounds(shapes: Any) -> Any:
    """Return an (n, 4) array of minx, miny, maxx, maxy; NaN where there is no geometry."""
    import shapely

    return shapely.bounds(shapes)


def covering_bboxes(shapes: Any) -> Any:
    """Return an (n, 4) array of west, south, east, north, as RFC 7946 has them; NaN where there is no geometry."""
    import shapely

    boxes = bounds(shapes)
    wide = (boxes[:, 0] < -HALF_WORLD) | (boxes[:, 2] > HALF_WORLD) | (boxes[:, 2] > boxes[:, 0] + HALF_WORLD)
    for index in np.flatnonzero(wide).tolist():
        outer = shapely.get_exterior_ring(shapely.get_parts(shapes[index]))
        boxes[index] = covering_bbox([shapely.get_coordinates(ring) for ring in outer])
    return boxes


def find_invalid(shapes: Any) -> tuple[list[int], list[int]]:
    """Return the places of shapes that cross or touch themselves, and of those that cannot be checked.

    The check of one shape takes time with the square of its edges where many of them lie side by side. Shapes for
    which that could be so are left unchecked: the time for all others grows with their number of vertices. GEOS
    gives up on some shapes with huge numbers.
    """
    import shapely

    checked = ~shapely.is_missing(shapes)
    for index in np.flatnonzero(shapely.get_num_coordinates(shapes) > CHECKED_VERTICES).tolist():
        checked[index] = _check_effort(shapes[index]) <= CHECKED_PAIRS * shapely.get_num_coordinates(shapes[index])
    valid = np.zeros(len(shapes), dtype=bool)
    try:
        valid[checked] = shapely.is_valid(shapes[checked])
    except shapely.GEOSException:
        for index in np.flatnonzero(checked).tolist():
            try:
                valid[index] = shapely.is_valid(shapes[index])
            except shapely.GEOSException:
                checked[index] = False
    unchecked = ~checked & ~shapely.is_missing(shapes)
    return np.flatnonzero(checked & ~valid).tolist(), np.flatnonzero(unchecked).tolist()


def _check_effort(shape: Any) -> float:
    """Return an upper bound of the pairs of edges that a check has to compare.

    Edges are compared where their boxes overlap. Rings whose boxes overlap are searched for each other's points, which
    takes about a sixteenth of that time for each point.
    """
    import shapely

    rings = shapely.get_rings(shapely.get_parts(shape))
    points, of = shapely.get_coordinates(rings, return_index=True)
    inner = of[1:] == of[:-1]
    low, high = np.minimum(points[:-1], points[1:])[inner], np.maximum(points[:-1], points[1:])[inner]
    edges = min(_overlaps(low[:, axis], high[:, axis]) for axis in (0, 1))
    boxes = shapely.bounds(rings)
    nested = min(_overlaps(boxes[:, axis], boxes[:, axis + 2]) for axis in (0, 1))
    return edges + nested * int(np.bincount(of).max()) / 16


def _overlaps(low: Any, high: Any) -> int:
    """Return how many pairs of ranges have a number in common."""
    apart = int(np.searchsorted(np.sort(high), low, side="left").sum())
    return len(low) * (len(low) - 1) // 2 - apart


def find_flat(shapes: Any, areas: Any) -> list[int]:
    """Return the places of shapes that lie on one line or in one point; ``areas`` are theirs, in square pixels."""
    import shapely

    small = np.flatnonzero(np.abs(areas) <= FLAT_PX2)
    # A bow tie has no area either, as one half counts against the other.
    with np.errstate(over="ignore", invalid="ignore"):
        flat: list[int] = small[shapely.area(shapely.convex_hull(shapes[small])) <= FLAT_PX2].tolist()
    return flat


def turn_towards(shapes: Any, longitudes: Sequence[float]) -> Any:
    """Return the shapes with each longitude moved by whole turns, to within half a turn of each one's own centre."""
    import shapely

    points, of = shapely.get_coordinates(shapes, return_index=True)
    turns = np.round((np.asarray(longitudes, "f8")[of] - points[:, 0]) / WORLD)
    if not turns.any():
        return shapes
    points[:, 0] += WORLD * turns
    return _with_coordinates(shapes, points, of)


def exchange_axes(shapes: Any) -> Any:
    """Return the shapes with x for y and y for x; heights are left out."""
    import shapely

    return shapely.set_coordinates(shapely.force_2d(shapes), shapely.get_coordinates(shapes)[:, ::-1])


def area(shapes: Any) -> Any:
    """Return the areas in the square of the coordinates' unit; NaN without geometry, or beyond double precision."""
    import shapely

    with np.errstate(over="ignore", invalid="ignore"):
        areas = shapely.area(shapes)
    return np.where(np.isfinite(areas), areas, np.nan)


def ground_area(shapes: Any) -> Any:
    """Return the areas on the ellipsoid of WGS 84, edges being geodesics, in square metres; NaN without geometry."""
    import pyproj
    import shapely

    parts, shape_of = shapely.get_parts(shapes, return_index=True)
    rings, part_of = shapely.get_rings(parts, return_index=True)
    points, of = shapely.get_coordinates(rings, return_index=True)
    edges = np.searchsorted(of, np.arange(len(rings) + 1)).tolist()
    measure = pyproj.Geod(ellps="WGS84").polygon_area_perimeter
    areas = np.array([abs(measure(points[a:b, 0], points[a:b, 1])[0]) for a, b in pairwise(edges)])
    areas[np.flatnonzero(np.diff(part_of) == 0) + 1] *= -1  # the rings of a part behind the first are its holes
    total = np.bincount(shape_of[part_of], areas, len(shapes))
    return np.where(shapely.is_missing(shapes), np.nan, total)


def normal_wkb(shapes: Any) -> list[bytes | None]:
    """Return the WKB of shapes that is the same wherever a ring begins and whichever way it goes.

    Shapes with numbers that are none, or huge, stay as they are.
    """
    import shapely

    plain, normal = _find_plain(shapes), np.array(shapes)
    normal[plain] = shapely.normalize(normal[plain])
    return dump_wkb(normal)


def centroids(shapes: Any) -> Any:
    """Return an (n, 2) array of x and y; NaN without geometry, for an empty one, and for numbers that are huge."""
    import shapely

    plain, found = _find_plain(shapes), np.full((len(shapes), 2), np.nan)
    found[plain] = shapely.bounds(shapely.centroid(shapes[plain]))[:, :2]
    return found


def _find_plain(shapes: Any) -> Any:
    """Tell which shapes have only numbers with which GEOS can compute, (n,)."""
    import shapely

    points, of = shapely.get_coordinates(shapes, return_index=True)
    plain = ~shapely.is_missing(shapes)
    plain[of[~(np.abs(points) < HUGE).all(axis=1)]] = False
    return plain


def centroid_distances(first: Any, second: Any) -> Any:
    """Return how far the centroids of shapes are apart, in the coordinates' unit; NaN where one has none."""
    return np.hypot(*(centroids(first) - centroids(second)).T)


def ground_distances(first: Any, second: Any) -> Any:
    """Return how far the centroids of shapes are apart on WGS 84's ellipsoid, in metres; NaN where one has none."""
    import pyproj

    return np.array(pyproj.Geod(ellps="WGS84").inv(*centroids(first).T, *centroids(second).T)[2])


def overlaps(first: Any, second: Any) -> Any:
    """Return the intersection over union of shapes; NaN for what is not valid, has huge numbers, or many vertices.

    GEOS may take long for such shapes, or give up.
    """
    import shapely

    sound = _find_plain(first) & _find_plain(second)
    for shapes in (first, second):
        sound &= shapely.get_num_coordinates(shapes) <= CHECKED_VERTICES
        for places in find_invalid(shapes):
            sound[places] = False
    found = np.full(len(first), np.nan)
    for index in np.flatnonzero(sound).tolist():
        try:
            shared = shapely.area(shapely.intersection(first[index], second[index]))
        except shapely.GEOSException:
            continue
        union = shapely.area(first[index]) + shapely.area(second[index]) - shared
        found[index] = shared / union if union > 0 else np.nan
    return found


def type_names(shapes: Any) -> set[str]:
    """Return the GeoParquet names of the geometry types that occur."""
    import shapely

    kinds = {*zip(shapely.get_type_id(shapes).tolist(), shapely.has_z(shapes).tolist(), strict=True)}
    return {f"{_TYPES[kind]}{' Z' if z else ''}" for kind, z in kinds if kind in _TYPES}


def apply_affine(shapes: Any, transforms: Sequence[Affine6]) -> Any:
    """Return the shapes with each one's own transform applied to x and y; heights are left out.

    None stands for a shape that goes beyond double precision's range.
    """
    import shapely

    points, of = shapely.get_coordinates(shapes, return_index=True)
    a, b, c, d, e, f = np.asarray(transforms, dtype="f8").reshape(-1, 6)[of].T
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.stack([a * points[:, 0] + b * points[:, 1] + c, d * points[:, 0] + e * points[:, 1] + f], axis=1)
    return _with_coordinates(shapes, moved, of)


def project(shapes: Any, crs: str, direction: Literal["to_lonlat", "from_lonlat"]) -> Any:
    """Return the shapes between longitude/latitude (WGS 84) and a CRS, x and y only.

    None stands for a shape that the CRS has no place for; for all of them where PROJ cannot use the CRS.
    """
    import shapely

    if crs == LONLAT:
        return shapes
    transformer = _transformer(crs, direction)
    if transformer is None:
        return np.full(len(shapes), None)
    points, of = shapely.get_coordinates(shapes, return_index=True)
    x, y = transformer.transform(points[:, 0], points[:, 1])
    return _with_coordinates(shapes, np.stack([x, y], axis=1), of)


def projjson(crs: str) -> dict[str, Any]:
    """Return the PROJJSON of a CRS."""
    import pyproj

    document: dict[str, Any] = pyproj.CRS.from_user_input(crs).to_json_dict()
    return document


def _with_coordinates(shapes: Any, points: Any, of: Any) -> Any:
    """Return the shapes with other points, None where those are no numbers; ``of`` tells whose each point is."""
    import shapely

    finite = np.isfinite(points).all(axis=1)
    flat = shapely.force_2d(shapes) if shapely.has_z(shapes).any() else np.array(shapes)
    placed = shapely.set_coordinates(flat, points if finite.all() else np.where(finite[:, None], points, 0.0))
    placed[np.unique(of[~finite])] = None
    return placed


@lru_cache(maxsize=64)
def _transformer(crs: str, direction: str) -> Any:
    import pyproj

    ends = (crs, LONLAT) if direction == "to_lonlat" else (LONLAT, crs)
    try:
        return pyproj.Transformer.from_crs(*ends, always_xy=True)
    except pyproj.exceptions.ProjError:
        return None
