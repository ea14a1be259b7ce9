"""The tables of the index as GeoDataFrames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vedastore.io import geometry
from vedastore.spec.tables import HEAVY

if TYPE_CHECKING:
    import geopandas as gpd

    from vedastore.store.snapshot import Snapshot


def sample_frame(snapshot: Snapshot, positions: Any) -> gpd.GeoDataFrame:
    """Return one row a sample at some positions, without the bytes that only export needs."""
    table = snapshot.table("samples")
    columns = [name for name in table.schema.names if name not in HEAVY]
    rows = snapshot.read_places(positions, columns)
    frame = _geo_frame(rows, ("geometry",))
    for name in table.added:
        if rows.column(name).null_count:  # truths and whole numbers stay what they are beside missing ones
            frame[name] = rows.column(name).to_pandas(types_mapper=_nullable)
    return frame


def feature_frame(snapshot: Snapshot, positions: Any) -> gpd.GeoDataFrame:
    """Return one row an object of the samples at some positions; of all samples without them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    reader = snapshot.table("features")
    table = reader.read(groups=None if positions is None else reader.groups_with(positions))
    if positions is not None:
        table = table.filter(pc.is_in(table.column("position"), pa.array(positions, "int64")))
    if snapshot.version.parts:  # what a part has stands behind all that it does not replace
        positions = table.column("position").to_numpy()
        table = table.take(positions.argsort(kind="stable"))
    return _geo_frame(table, ("geometry", "geometry_px"))


def _nullable(kind: Any) -> Any:
    import pandas as pd

    return {"int64": pd.Int64Dtype(), "bool": pd.BooleanDtype()}.get(str(kind))


def _geo_frame(table: Any, shape_columns: tuple[str, ...]) -> gpd.GeoDataFrame:
    import geopandas as gpd

    frame = table.drop_columns(["bbox"]).to_pandas()
    for name in shape_columns:
        shapes = geometry.parse_wkb(table.column(name).to_pylist())
        frame[name] = gpd.GeoSeries(shapes, crs="EPSG:4326" if name == "geometry" else None)
    return gpd.GeoDataFrame(frame, geometry="geometry")
