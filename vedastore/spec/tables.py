"""The tables of an index: column names, their Arrow types, and the GeoParquet words about them.

Source: https://geoparquet.org/releases/v1.1.0/ . Types are Arrow's names, so that this floor needs no pyarrow.
"""

from __future__ import annotations

from typing import Any, Final

_BBOX: Final = {"xmin": "double", "ymin": "double", "xmax": "double", "ymax": "double"}

SAMPLES: Final[dict[str, Any]] = {
    "id": "string",
    "position": "int64",
    "bucket": "string",
    "row": "int64",
    "geometry": "binary",
    "bbox": _BBOX,
    "crs": "string",
    "transform": ["double"],
    "height": "int32",
    "width": "int32",
    "nodata": "string",
    "split": "string",
    "classes": ["string"],
    "objects": "int32",
    "flags": ["string"],
    "label": "binary",
    "image_digest": "binary",
    "pixel_digest": "binary",
    "fidelity": "string",
    "envelope": "binary",
    "image_member": "string",
    "image_ordinal": "int64",
    "label_member": "string",
    "label_ordinal": "int64",
}
FEATURES: Final[dict[str, Any]] = {
    "id": "string",
    "position": "int64",
    "class": "string",
    "ordinal": "int32",
    "geometry": "binary",
    "bbox": _BBOX,
    "geometry_px": "binary",
    "box_px": ["double"],
    "area_px": "double",
}
MEMBERS: Final[dict[str, Any]] = {
    "name": "string",
    "ordinal": "int64",
    "kind": "string",
    "data": "binary",
}
SKIPPED: Final[dict[str, Any]] = {
    "id": "string",
    "members": ["string"],
    "rules": ["string"],
    "reason": "string",
}
REMOVED: Final[dict[str, Any]] = {"position": "int64"}
SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "samples": SAMPLES,
    "features": FEATURES,
    "members": MEMBERS,
    "skipped": SKIPPED,
    "removed": REMOVED,
}

NULLABLE: Final[dict[str, tuple[str, ...]]] = {
    "samples": ("geometry", "bbox", "crs", "transform", "nodata", "split", "pixel_digest"),
    "features": ("geometry", "bbox", "geometry_px", "box_px", "area_px"),
    "members": (),
    "skipped": (),
    "removed": (),
}
"""Columns in which a row may have no value."""

LENGTHS: Final[dict[str, int]] = {"transform": 6, "box_px": 4}
"""Lists of a fixed length."""

HEAVY: Final = ("label", "envelope", "image_digest", "pixel_digest")
"""Columns of ``samples`` that only export and verification need."""

GEOMETRY_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "samples": ("geometry",),
    "features": ("geometry", "geometry_px"),
    "members": (),
    "skipped": (),
    "removed": (),
}


def geo_metadata(
    table: str, crs: dict[str, Any], types: dict[str, set[str]], bounds: dict[str, tuple[float, float, float, float]]
) -> dict[str, Any] | None:
    """Return the ``geo`` key of a table's Parquet footer; None for a table without geometry.

    ``crs`` is the PROJJSON of EPSG:4326; pixel geometries have none. ``types`` and ``bounds`` are what columns hold.
    """
    columns: dict[str, Any] = {}
    for name in GEOMETRY_COLUMNS[table]:
        column: dict[str, Any] = {"encoding": "WKB", "geometry_types": sorted(types.get(name, ()))}
        column["crs"] = crs if name == "geometry" else None
        if name == "geometry":
            column["covering"] = {"bbox": {edge: ["bbox", edge] for edge in _BBOX}}
        if name in bounds:
            column["bbox"] = list(bounds[name])
        columns[name] = column
    return {"version": "1.1.0", "primary_column": "geometry", "columns": columns} if columns else None
