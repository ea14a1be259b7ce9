"""Shapes to search with: from what a user gives, and against many footprints at once. shapely does the work."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.errors import UsageError
from vedastore.spec.lonlat import TURNS

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

_HINT = "give a shapely geometry, or GeoJSON as a dictionary, in degrees of longitude and latitude"


def parse_shape(value: Any) -> BaseGeometry:
    """Return the shape of a shapely geometry, of GeoJSON, or of what has a ``__geo_interface__``.

    Tables of geopandas are brought to longitude and latitude where they say that they are in another CRS.

    Raises
    ------
    UsageError
        When it is none of them, has no point, or coordinates that are no numbers.
    """
    import shapely
    from shapely.geometry.base import BaseGeometry

    try:
        shape = value if isinstance(value, BaseGeometry) else _read_shape(value)
    except (TypeError, ValueError, AttributeError, RuntimeError, shapely.errors.ShapelyError) as error:
        raise UsageError(f"{type(value).__name__} is no geometry: {error}", hint=_HINT) from None
    if shape is None or shape.is_empty or not np.isfinite(shapely.get_coordinates(shape)).all():
        raise UsageError("the geometry has no point, or coordinates that are no numbers", hint=_HINT)
    return shape


def _read_shape(value: Any) -> Any:
    import shapely

    if not hasattr(value, "to_crs"):
        return shapely.from_geojson(json.dumps(getattr(value, "__geo_interface__", value)))
    shapes = value.geometry if value.crs is None else value.geometry.to_crs("EPSG:4326")
    return shapely.GeometryCollection([shape for shape in shapes if shape is not None])


def intersects(shapes: Any, shape: BaseGeometry) -> Any:
    """Tell which shapes have a point in common with a shape, whichever numbers their longitudes have.

    Longitudes are those on the plane, but may differ by whole turns; None has no point.
    """
    import shapely
    from shapely import affinity

    found = np.zeros(len(shapes), dtype=bool)
    west, _, east, _ = shapely.total_bounds(shapes)
    for turn in TURNS:
        if shape.bounds[0] + turn <= east and shape.bounds[2] + turn >= west:
            moved = affinity.translate(shape, turn)
            shapely.prepare(moved)
            found |= shapely.intersects(moved, shapes)
    return found
