"""Many geometries at once: WKB in, arrays of shapes through affine and CRS, WKB out. shapely and pyproj do the work."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from vedastore.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vedastore.model import Affine6

LONLAT = "EPSG:4326"
_POLYGON_KIND: Final = 3
_MULTI_POLYGON_KIND: Final = 6
_TYPES = {_POLYGON_KIND: "Polygon", _MULTI_POLYGON_KIND: "MultiPolygon"}
_POLYGON: Final = struct.pack("<BI", 1, _POLYGON_KIND)


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


def find_invalid(shapes: Any) -> list[int]:
    """Return the places of shapes that cross or touch themselves; None is sound."""
    import shapely

    found: list[int] = np.flatnonzero(~shapely.is_valid(shapes) & ~shapely.is_missing(shapes)).tolist()
    return found


def area(shapes: Any) -> Any:
    """Return the areas in the square of the coordinates' unit; NaN where there is no geometry."""
    import shapely

    return shapely.area(shapes)


def type_names(shapes: Any) -> set[str]:
    """Return the GeoParquet names of the geometry types that occur."""
    import shapely

    present = shapes[~shapely.is_missing(shapes)]
    kinds = zip(shapely.get_type_id(present).tolist(), shapely.has_z(present).tolist(), strict=True)
    return {f"{_TYPES[kind]}{' Z' if z else ''}" for kind, z in kinds}


def apply_affine(shapes: Any, transforms: Sequence[Affine6]) -> Any:
    """Return the shapes with each one's own transform applied to x and y; heights are left out."""
    import shapely

    points, of = shapely.get_coordinates(shapes, return_index=True)
    a, b, c, d, e, f = np.array(transforms, dtype="f8").reshape(-1, 6)[of].T
    moved = np.stack([a * points[:, 0] + b * points[:, 1] + c, d * points[:, 0] + e * points[:, 1] + f], axis=1)
    return _with_coordinates(shapes, moved)


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
    moved = np.stack([x, y], axis=1)
    lost = np.unique(of[~np.isfinite(moved).all(axis=1)])
    moved[~np.isfinite(moved)] = 0
    placed = _with_coordinates(shapes, moved)
    placed[lost] = None
    return placed


def projjson(crs: str) -> dict[str, Any]:
    """Return the PROJJSON of a CRS."""
    import pyproj

    document: dict[str, Any] = pyproj.CRS.from_user_input(crs).to_json_dict()
    return document


def _with_coordinates(shapes: Any, points: Any) -> Any:
    import shapely

    return shapely.set_coordinates(shapely.force_2d(shapes), points)


@lru_cache(maxsize=64)
def _transformer(crs: str, direction: str) -> Any:
    import pyproj

    ends = (crs, LONLAT) if direction == "to_lonlat" else (LONLAT, crs)
    try:
        return pyproj.Transformer.from_crs(*ends, always_xy=True)
    except pyproj.exceptions.ProjError:
        return None
