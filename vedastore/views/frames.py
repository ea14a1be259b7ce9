"""The tables of the index as GeoDataFrames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vedastore.io import geometry
from vedastore.spec.tables import HEAVY, SAMPLES

if TYPE_CHECKING:
    import geopandas as gpd

    from vedastore.store.snapshot import Snapshot


def sample_frame(snapshot: Snapshot, positions: Any) -> gpd.GeoDataFrame:
    """Return one row a sample at some positions, without the bytes that only export needs."""
    columns = [name for name in SAMPLES if name not in HEAVY]
    return _geo_frame(snapshot.table("samples").read_rows(positions, columns), ("geometry",))


def feature_frame(snapshot: Snapshot, positions: Any) -> gpd.GeoDataFrame:
    """Return one row an object of the samples at some positions; of all samples without them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    reader = snapshot.table("features")
    table = reader.read(groups=None if positions is None else reader.groups_with(positions))
    if positions is not None:
        table = table.filter(pc.is_in(table.column("position"), pa.array(positions, "int64")))
    return _geo_frame(table, ("geometry", "geometry_px"))


def _geo_frame(table: Any, shape_columns: tuple[str, ...]) -> gpd.GeoDataFrame:
    import geopandas as gpd

    frame = table.drop_columns(["bbox"]).to_pandas()
    for name in shape_columns:
        shapes = geometry.parse_wkb(table.column(name).to_pylist())
        frame[name] = gpd.GeoSeries(shapes, crs="EPSG:4326" if name == "geometry" else None)
    return gpd.GeoDataFrame(frame, geometry="geometry")
