"""Plain zarr, xarray and geopandas read a store in a process that never imports vedastore, with equal values."""

import json
import subprocess
import sys

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
