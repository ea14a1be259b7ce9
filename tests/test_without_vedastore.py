"""Plain zarr, xarray and geopandas read a store in a process that never imports vedastore, with equal values."""

import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np

import vedastore as vs
from tests.builders import make_release, read_tiff

READER = """
import json, sys, warnings
warnings.simplefilter("error")
import geopandas, xarray, zarr
store = sys.argv[1]
group = zarr.open(store, mode="r")
version = group.attrs["vedastore"]["versions"][-1]
samples = geopandas.read_parquet(f"{store}/{version['index']['samples']['key']}")
features = geopandas.read_parquet(f"{store}/{version['index']['features']['key']}")
told = {"sums": {}, "features": [g.wkt for g in features.geometry], "crs": samples.crs == "EPSG:4326"}
for row in samples.itertuples():
    by_zarr = group[f"chips/{row.bucket}/image"][row.row]
    by_xarray = xarray.open_zarr(store, group=f"chips/{row.bucket}").image[row.row].values
    assert (by_zarr == by_xarray).all()
    told["sums"][row.id] = by_zarr.tolist()
inside = geopandas.read_parquet(f"{store}/{version['index']['samples']['key']}", bbox=tuple(samples.geometry[1].bounds))
told["bbox"] = inside["id"].tolist()
told["vedastore"] = "vedastore" in sys.modules
print(json.dumps(told))
"""


def test_other_libraries_read_a_store(tmp_path):
    for dtype in ("uint8", "uint16", "float32"):
        release = make_release(3, dtype=dtype, shape=(2, 24, 28))
        store = tmp_path / f"{dtype}.zarr"
        collection = vs.convert(release.tar_gz(tmp_path / f"{dtype}.tar.gz"), store)
        done = subprocess.run([sys.executable, "-c", READER, store], check=True, capture_output=True, text=True)
        told = json.loads(done.stdout)
        assert told["vedastore"] is False
        assert told["crs"] is True
        assert told["features"] == [g.wkt for g in collection.features.geometry]
        assert "1" in told["bbox"]
        for name, data in release.images().items():
            np.testing.assert_array_equal(np.array(told["sums"][name], dtype), read_tiff(data))


def test_duckdb_reads_a_version_in_parts(tmp_path):
    """By the query of the format's page, with the keys of a version in the place of its placeholders."""
    first = vs.convert(make_release(6).tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    label = {"car": [{"type": "Polygon", "coordinates": [[[1, 2], [9, 2], [9, 8], [1, 8], [1, 2]]]}]}
    with first.update_labels({"4": first["2"].feature}).edit() as e:
        e.remove(["1"])
        e.add({"new": (np.zeros((3, 32, 40), "uint8"), label)})
    version = json.loads((tmp_path / "r.zarr/zarr.json").read_text())["attributes"]["vedastore"]["versions"][-1]
    page = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
    query = re.search(r"```sql\n(.*?)```", page, re.DOTALL)[1]
    keys = [version["index"]["samples"]["key"], *(part["samples"]["key"] for part in version["parts"])]
    for name, key in zip(("first", "a", "b"), keys, strict=True):
        query = query.replace(f"index/<{name}>", f"{tmp_path}/r.zarr/{key.rpartition('/')[0]}")
    found = duckdb.sql(query).fetchdf()
    assert found.id.tolist() == [s.id for s in e.collection] == ["0", "2", "3", "4", "5", "new"]
    assert [bytes(label) for label in found.label] == [s.read_files()[1] for s in e.collection]
