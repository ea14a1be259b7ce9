"""``xarray.open_dataset``: what a collection gives, for those who know the path alone."""

import pytest
import xarray as xr

import vedastore as vs
from tests.builders import TASKS, make_release


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
