"""Stores of earlier formats are read for good. They are data, made once by the script beside them, and never again."""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import geopandas
import pytest
import zarr

import vedastore as vs

FOLDER = Path(__file__).parent / "frozen" / "format-1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
VERSIONS = [(name, version) for name, of_store in EXPECTED.items() for version in of_store]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frozen")
    for name in EXPECTED:
        with tarfile.open(FOLDER / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return folder


def digest(data):
    return hashlib.sha256(data).hexdigest()


def objects(store):
    return {p.relative_to(store): digest(p.read_bytes()) for p in store.rglob("*") if p.is_file()}


def rows(frame):
    return json.loads(frame.to_json(orient="records"))


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_a_version_is_what_it_was(stores, tmp_path, name, version):
    store, expected = stores / f"{name}.zarr", EXPECTED[name][version]
    before = objects(store)
    collection = vs.open(store, version)
    report = collection.verify()
    assert report.ok, report.problems
    assert {n.rule for n in report.notes} == {"copy"}  # there were no copies of root documents then
    assert report.byte_identical == len(collection) == len(expected["samples"])
    assert (collection.name, collection.task, collection.versions) == ("Harbours", name, tuple(EXPECTED[name]))
    assert [s.id for s in collection] == [s["id"] for s in expected["samples"]]
    assert {s.id: digest(s.image.values.tobytes()) for s in collection} == expected["pixels"]
    names = ["id", "split", "classes", "objects", "flags", *collection.columns]
    assert rows(collection.samples[names]) == [{n: s[n] for n in names} for s in expected["samples"]]
    assert [None if g is None else g.wkt for g in collection.samples.geometry] == expected["footprints"]

    told = collection.export(tmp_path / "back.tar")
    assert told.identical == expected["identical"] == told.members
    assert digest((tmp_path / "back.tar").read_bytes()) == expected["archive"]
    with tarfile.open(tmp_path / "back.tar") as archive:
        assert {m.name: digest(archive.extractfile(m).read()) for m in archive} == expected["members"]
    assert objects(store) == before


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")  # the compact codec has one
@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_other_libraries_read_it(stores, name, version):
    store, expected = stores / f"{name}.zarr", EXPECTED[name][version]
    root = json.loads((store / "zarr.json").read_bytes())["attributes"]["vedastore"]
    assert root["format"] == 1
    (found,) = (v for v in root["versions"] if v["version"] == version)
    assert [entry["id"] for entry in found["skipped"]] == expected["skipped"] != []
    samples, features = (
        geopandas.read_parquet(store / found["index"][table]["key"]) for table in ("samples", "features")
    )
    assert rows(samples[[*expected["samples"][0]]]) == expected["samples"]
    group = zarr.open_group(store, mode="r")
    pixels = {s.id: group[f"chips/{s.bucket}/image"][s.row] for s in samples.itertuples()}
    assert {sample_id: digest(values.tobytes()) for sample_id, values in pixels.items()} == expected["pixels"]
    columns = ["id", "class", "ordinal", "geometry_px", "area_px"]
    assert [" ".join(map(str, f)) for f in features[columns].itertuples(index=False)] == expected["features"]


@pytest.mark.parametrize("name", EXPECTED)
def test_it_can_be_repaired(stores, tmp_path, name):
    """There were no copies of root documents: a repair makes one, which then serves, and changes nothing else."""
    store = tmp_path / "r.zarr"
    shutil.copytree(stores / f"{name}.zarr", store)
    before = objects(store)
    (made,) = vs.repair(store).repaired
    assert made.rule == "copy"
    (store / "zarr.json").unlink()
    assert [r.rule for r in vs.repair(store).repaired] == ["root"]
    assert objects(store) == before | {Path(made.where): before[Path("zarr.json")]}


def test_what_is_frozen_has_every_kind():
    """What later code could lose: kinds of buckets, versions, splits, columns of users, and files."""
    samples = [s for of_store in EXPECTED.values() for v in of_store.values() for s in v["samples"]]
    assert {s["bucket"].partition("~")[0] for s in samples} == {
        "uint8-1x256x256",
        "uint8-3x256x256",
        "uint16-1x256x256",
        "uint16-2x256x256",
    }
    assert any("~" in s["bucket"] for s in samples)
    assert {s["split"] for s in samples} >= {"train", "test", None}
    assert {s.get("cloud") for s in samples} == {0.25, 0.5, None}
    assert {s.get("seen") for s in samples} == {True, False, None}
    assert {s.get("note") for s in samples} == {"a", "ü", None}
    assert set(EXPECTED) == {"classification", "object_detection", "segmentation"}
