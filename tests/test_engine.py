"""``xarray.open_dataset`` and ``open_datatree``: what a collection gives, for those who know the path alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import vedastore as vs
from tests.builders import TASKS, geotiff, make_release, pixels_of, plain_tiff


@pytest.fixture(scope="module", params=TASKS)
def collection(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    return vs.convert(make_release(9, task=request.param).tar(folder / "r.tar"), folder / "r.zarr")


@pytest.mark.parametrize("chunks", [None, {}])
def test_a_dataset_is_that_of_the_collection(collection, chunks):
    wanted = collection.to_xarray()
    with xr.open_dataset(collection.store, engine="vedastore", chunks=chunks) as found:
        xr.testing.assert_identical(found.load(), wanted.load())


def test_a_chunk_is_a_shard(collection):
    with xr.open_dataset(collection.store, engine="vedastore", chunks={}) as found:
        assert found.image.chunks == collection.to_xarray().image.chunks


def test_a_store_is_known_by_itself(collection, tmp_path):
    engine = xr.backends.list_engines()["vedastore"]
    assert engine.guess_can_open(collection.store)
    assert not engine.guess_can_open(tmp_path)
    assert not engine.guess_can_open(b"bytes")
    (tmp_path / "zarr.json").write_text("{}")
    assert not engine.guess_can_open(str(tmp_path))


def test_options(collection):
    with xr.open_dataset(collection.store, engine="vedastore", labels=False, drop_variables=["split"]) as found:
        assert set(found.data_vars) == {"image"}
        assert "split" not in found.coords
    with pytest.raises(vs.errors.UsageError, match="no version"):
        xr.open_dataset(collection.store, engine="vedastore", version="9")
    with pytest.raises(vs.errors.StoreError):
        xr.open_dataset(collection.store + "x", engine="vedastore")
    for work in (xr.open_dataset, xr.open_datatree):
        with pytest.raises(vs.errors.UsageError, match="storage_options"):
            work(collection.store, engine="vedastore", storage_options={"anon": True})


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    """Chips of two shapes and two types, in a georeferenced collection of object detection."""
    folder = tmp_path_factory.mktemp("ragged")
    release = make_release(3, task="object_detection")
    for first, kind in ((3, {"dtype": "uint16"}), (6, {"shape": (1, 16, 24)})):
        other = make_release(first + 3, task="object_detection", **kind)
        last = {str(number) for number in range(first, first + 3)}
        release.members |= {n: d for n, d in other.members.items() if Path(n).stem in last}
    return vs.convert(release.tar(folder / "r.tar"), folder / "r.zarr")


def test_a_tree_has_a_dataset_of_each_bucket(ragged):
    buckets = sorted(set(ragged.samples.bucket))
    tree = ragged.to_datatree()
    assert (len(buckets), sorted(tree.children)) == (3, buckets)
    for name in buckets:
        xr.testing.assert_identical(tree[name].to_dataset().load(), ragged.to_xarray(bucket=name).load())
    assert sorted(i for name in buckets for i in tree[name]["id"].values.tolist()) == sorted(ragged.samples.id)
    assert {tree.attrs[a] for a in ("title", "source", "task")} == {"Harbours", ragged.store, "object_detection"}
    part = ragged[::-4]
    assert [tree.path for tree in part.to_datatree().leaves] == [f"/{b}" for b in sorted(set(part.samples.bucket))]
    for name, node in part.to_datatree(labels=False).children.items():
        assert set(node.data_vars) == {"image"}
        xr.testing.assert_identical(node.to_dataset().load(), part.to_xarray(labels=False, bucket=name).load())


def test_xarray_opens_the_tree(ragged):
    wanted = ragged.to_datatree()
    with xr.open_datatree(ragged.store) as found:  # the engine is guessed
        xr.testing.assert_identical(found, wanted)
    with xr.open_datatree(ragged.store, engine="vedastore", chunks={}, labels=False, drop_variables="split") as found:
        for name, node in found.children.items():
            assert node["image"].chunks == wanted[name]["image"].chunks
            assert (set(node.data_vars), "split" in node.coords) == ({"image"}, False)
    groups = xr.open_groups(ragged.store, engine="vedastore")
    assert set(groups) == {"/", *(f"/{name}" for name in wanted.children)}
    with pytest.raises(vs.errors.UsageError, match="no version"):
        xr.open_datatree(ragged.store, engine="vedastore", version="9")


def test_a_dataset_of_several_shapes_is_refused_and_says_what_to_do(ragged):
    for work in (ragged.to_xarray, lambda: xr.open_dataset(ragged.store, engine="vedastore")):
        with pytest.raises(vs.errors.UsageError, match="several shapes or types") as caught:
            work()
        assert "xr.open_datatree" in caught.value.hint
    bucket = ragged.samples.bucket[0]
    with xr.open_dataset(ragged.store, engine="vedastore", bucket=bucket) as found:
        assert found.sizes["sample"] == 3


def test_attributes_say_units_classes_and_source(collection):
    dataset = collection.to_xarray()
    assert dataset.attrs["Conventions"].startswith("CF-")
    assert (dataset.attrs["source"], dataset.attrs["release"][-5:]) == (collection.store, "r.tar")
    assert tuple(dataset.attrs["classes"]) == collection.classes
    assert dataset["image"].attrs["units"] == "1"
    assert dataset["image"].encoding["grid_mapping"] == "spatial_ref"
    assert dataset.rio.crs == "EPSG:32616"
    name = {"classification": "label", "segmentation": "mask", "object_detection": "box_class"}[collection.task]
    flags = dataset[name].attrs
    assert len(flags["flag_values"]) == len(flags["flag_meanings"].split())
    assert flags["flag_values"].dtype == dataset[name].dtype
    if name != "label":
        assert flags["flag_meanings"].split()[1:] == list(collection.classes)
    if name == "box_class":
        assert (dataset["boxes"].attrs["units"], dataset["boxes"].dims) == ("px", ("sample", "box", "edge"))
        assert dataset["box_count"].values.tolist() == dataset["boxes"].notnull().all("edge").sum("box").values.tolist()
        assert dataset["box_count"].sum() == len(collection.features)


def test_the_crs_is_told_of_all_or_of_each(tmp_path):
    release = make_release(4)
    zones = ["EPSG:32616", "EPSG:32617", "", "EPSG:32616"]
    for number, zone in enumerate(zones[:2]):
        name = f"{release.top}/images/{number}.tif"
        release.members[name] = geotiff(pixels_of(), crs=zone)
    label = json.loads(release.members[f"{release.top}/labels/2.json"])
    label["geometry"] = {}
    label["properties"]["label"] = {}
    release.members[f"{release.top}/labels/2.json"] = json.dumps(label).encode()
    release.members[f"{release.top}/images/2.tif"] = plain_tiff(pixels_of())
    collection = vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    mixed = collection.to_xarray()
    assert mixed.crs.values.tolist() == zones
    assert "spatial_ref" not in mixed.coords
    assert np.isnan(mixed.transform.values).all(axis=1).tolist() == [not zone for zone in zones]
    mixed.to_zarr(tmp_path / "again.zarr", consolidated=False)
    same = collection[::3].to_xarray()
    assert "crs" not in same.coords
    assert same.rio.crs == "EPSG:32616"


@pytest.mark.parametrize("nodata", [None, "0", "255.0", "-9999", "nan", "1.5"])
def test_nodata_is_a_value_of_the_image_or_none(tmp_path, nodata):
    release = make_release(2)
    for name in [n for n in release.members if n.endswith(".tif")] if nodata else ():
        tag = (42113, "s", 0, nodata, True)
        release.members[name] = plain_tiff(np.ones((3, 32, 40), "uint8"), extratags=[tag])
    collection = vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    wanted = {"0": 0, "255.0": 255}.get(nodata)
    for image in (collection[0].image, collection.to_xarray().image):
        assert image.rio.nodata == wanted
        assert image.attrs.get("_FillValue") == wanted
    images, _ = next(collection.batches(2, fit="pad", size_px=(50, 50)))
    assert (images[..., 32:, 40:] == (wanted or 0)).all()
    assert collection.stats().bands[0].min is not None
    collection.to_xarray().to_zarr(tmp_path / "again.zarr", consolidated=False)


def test_it_can_be_written_and_read_again(collection, tmp_path):
    dataset = collection.to_xarray()
    dataset.to_zarr(tmp_path / "again.zarr", consolidated=False)
    collection.multi_hot().to_zarr(tmp_path / "hot.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "again.zarr", consolidated=False, mask_and_scale=False)
    assert again.attrs == dataset.attrs
    name = next(iter(set(dataset.data_vars) - {"image"}))
    assert again[name].attrs.get("flag_meanings") == dataset[name].attrs.get("flag_meanings")
