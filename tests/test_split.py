"""Splits: the same for the same ids, committed as versions, and nothing else of the store changes."""

import json
from pathlib import Path

import geopandas
import geopandas.testing
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

import vedastore as vs
from tests.builders import assert_store_ok, make_release, plain_tiff
from tests.test_docs import run_cli
from vedastore.errors import ConflictError, SampleNotFoundError, StoreError, UsageError
from vedastore.io.contact import touching
from vedastore.ops import split as split_op
from vedastore.ops.allotment import SplitOptions
from vedastore.ops.shares import Shares

SHARES = {"train": 70, "test": 20, "validate": 10}


@pytest.fixture
def collection(tmp_path):
    return vs.convert(make_release(40).tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")


def splits_of(collection):
    return {s.id: s.split for s in collection}


def test_a_split_is_a_version(tmp_path, collection):
    found = collection.split(seed=3)
    assert found.versions == ("1.0.1", "1.0.1+1")
    assert (collection.version, found.version) == ("1.0.1", "1.0.1+1")
    assert set(splits_of(collection).values()) == {None}
    assert set(splits_of(found).values()) <= set(SHARES)
    for name in SHARES:
        part = found.select(split=name)
        assert len(part) == sum(v == name for v in splits_of(found).values())
        if len(part):
            assert sum(len(images) for images, _ in found.batches(7, split=name)) == len(part)
    assert found.to_xarray().split.to_numpy().tolist() == list(splits_of(found).values())


def test_nothing_else_changes(tmp_path, collection):
    before = {p: p.read_bytes() for p in Path(collection.store).rglob("*") if p.is_file() and p.name != "zarr.json"}
    found = collection.split()
    assert all(p.read_bytes() == data for p, data in before.items())
    old, new = collection.samples.drop(columns="split"), found.samples.drop(columns="split")
    geopandas.testing.assert_geodataframe_equal(old, new)
    for version in found.versions:
        report = vs.open(found.store, version).verify(against=tmp_path / "r.tar.gz")
        assert report.ok, report.problems
    exports = [tmp_path / f"{n}.tar.gz" for n in (0, 1)]
    for path, version in zip(exports, found.versions, strict=True):
        vs.open(found.store, version).export(path)
    assert exports[0].read_bytes() == exports[1].read_bytes()
    key = found._snapshot.version.index["samples"].key
    frame = geopandas.read_parquet(Path(found.store, key))
    assert frame.split.tolist() == list(splits_of(found).values())
    assert frame.crs == "EPSG:4326"


def test_splits_follow_each_other(collection):
    second = collection.split().split(50, 50, 0, seed=1)
    assert second.versions == ("1.0.1", "1.0.1+1", "1.0.1+2")
    assert second._snapshot.version.parent == "1.0.1+1"
    assert set(splits_of(second).values()) == {"train", "test"}


def test_a_store_that_has_changed_is_a_conflict(collection):
    collection.split()
    before = sorted(Path(collection.store).rglob("*"))
    with pytest.raises(ConflictError, match="has changed since it was opened"):
        collection.split(seed=1)
    assert sorted(Path(collection.store).rglob("*")) == before


@given(st.sets(st.text(max_size=8), max_size=30), st.sets(st.text(max_size=8), max_size=30), st.integers(0, 5))
def test_samples_that_are_added_move_none(ids, more, seed):
    before = dict(zip(sorted(ids), Shares.of(SHARES, seed).choose(sorted(ids)), strict=True))
    both = sorted(ids | more, reverse=True)
    after = dict(zip(both, Shares.of(SHARES, seed).choose(both), strict=True))
    assert {name: after[name] for name in ids} == before


def test_shares_come_out():
    ids = [*map(str, range(20_000))]
    names = Shares.of(SHARES, 0).choose(ids)
    for name, share in SHARES.items():
        assert abs(names.count(name) / 200 - share) < 1.5
    assert names != Shares.of(SHARES, 1).choose(ids)
    assert {*Shares.of({"train": 100, "test": 0}, 0).choose(ids)} == {"train"}


@pytest.mark.parametrize(
    "shares", [(70, 20, 20), (101, -1, 0), (float("nan"), 0, 100), (0, 0, 0), ("70", 20, 10), (True, 99, 0)]
)
def test_shares_that_make_no_sense(collection, shares):
    with pytest.raises(UsageError, match="add up to 100"):
        collection.split(*shares)
    assert vs.open(collection.store).versions == ("1.0.1",)


def test_splits_that_are_given(collection):
    given = {s.id: ("train", "held out")[n % 2] for n, s in enumerate(collection) if n < 30}
    found = collection.split(given=given)
    assert splits_of(found) == {s.id: given.get(s.id) for s in collection}
    assert len(found.select(split="held out")) == 15
    with pytest.raises(SampleNotFoundError, match="'nobody'"):
        found.split(given={"nobody": "train"})
    for wrong, words in (
        ({"0": ""}, "no name"),
        ({"0": "\ud800"}, "no name"),
        ({7: "a"}, "no text"),
        (["0"], "mapping"),
    ):
        with pytest.raises(UsageError, match=words):
            found.split(given=wrong)
    for seed in ("1", 1.5, [1], None):
        with pytest.raises(UsageError, match="the seed is"):
            found.split(seed=seed)


def test_no_version_is_committed_that_no_reader_takes(collection, monkeypatch):
    monkeypatch.setattr("vedastore.spec.root._PARSED_LIMIT_BYTES", 120_000)
    refused = None
    for _ in range(50):
        try:
            collection = collection.split()
        except StoreError as error:
            refused = error
            break
    assert refused is not None
    assert "too large for any reader" in refused.message
    files = sorted(Path(collection.store).rglob("*"))
    assert vs.open(collection.store).versions == collection.versions
    assert len([f for f in files if f.name == "samples.parquet"]) == len(collection.versions)


def test_a_selection_is_split_and_others_keep_theirs(collection):
    first = collection.split(100, 0, 0)
    some = first[30:10:-3]
    found = some.split(0, 50, 50, seed=4)
    assert [s.id for s in found] == [s.id for s in some]
    assert {s.split for s in found} == {"test", "validate"}
    whole = assert_store_ok(collection.store)
    assert whole.version == found.version == "1.0.1+2"
    assert splits_of(whole) == splits_of(first) | splits_of(found)
    given = found.split(given={found[0].id: "mine"})
    assert [s.split for s in given] == ["mine", *[None] * (len(found) - 1)]
    assert sorted(map(str, splits_of(vs.open(collection.store)).values())).count("train") == 40 - len(found)
    with pytest.raises(SampleNotFoundError):
        given.split(given={first[39].id: "mine"})
    with pytest.raises(ConflictError):
        found.split()


def test_split_on_the_command_line(collection):
    code, out = run_cli(["split", collection.store, "--train", "60", "--test", "40", "--validate", "0", "--json"])
    told = json.loads(out)
    assert (code, told["version"], sum(told["samples"].values())) == (0, "1.0.1+1", 40)
    code, out = run_cli(["query", collection.store, "--split", "test", "--json"])
    assert json.loads(out)["count"] == told["samples"]["test"]
    assert run_cli(["split", collection.store, "--train", "60"])[0] == 2


# ------------------------------------------------------------------------------------------------------------ by place


def grid_collection(tmp_path, side=12, step=0.5, west=10.0):
    """Chips on a grid, each of which overlaps its neighbours by half."""
    release = make_release(0, task="classification")
    for number in range(side * side):
        x, y = west + step * (number % side) * 1e-3, 50 + step * (number // side) * 1e-3
        lons = [(lon + 180) % 360 - 180 for lon in (x, x + 1e-3, x + 1e-3, x, x)]
        ring = [[lon, lat] for lon, lat in zip(lons, (y, y, y + 1e-3, y + 1e-3, y), strict=True)]
        feature = {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"label": {"car": number % 2}},
        }
        release.members[f"{release.top}/images/{number}.tif"] = plain_tiff(np.full((1, 4, 4), number % 200, "u1"))
        release.members[f"{release.top}/labels/{number}.json"] = json.dumps(feature).encode()
    return vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr")


def touching_pairs(collection):
    """Pairs of samples of different splits whose footprints touch, as shapely finds them."""
    frame = collection.samples
    shapes = [shapely.transform(g, lambda p: np.where(p < [0, -90], np.add(p, [360, 0]), p)) for g in frame.geometry]
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    split = frame.split.fillna("").to_numpy()
    apart = [(a, b) for a, b in zip(one, other, strict=True) if split[a] and split[b] and split[a] != split[b]]
    return {a for pair in apart for a in pair}


@pytest.mark.parametrize("west", [10.0, 179.997])
def test_chips_of_different_splits_do_not_touch(tmp_path, west):
    collection = grid_collection(tmp_path, west=west)
    plain = split_op.split(collection._snapshot, SHARES)
    assert plain.touching == len(touching_pairs(vs.open(collection.store))) > 50
    collection = vs.open(collection.store)
    report = split_op.split(collection._snapshot, SHARES, 2, SplitOptions("place", 2e-3))
    found = vs.open(collection.store)
    assert touching_pairs(found) == set()
    assert report.touching == 0
    assert report.samples[""] == report.left_out > 0
    assert {"train", "test"} <= set(report.samples)
    assert len(found) - report.left_out > 40


def test_samples_without_a_footprint_are_split_by_id(tmp_path):
    collection = vs.convert(
        make_release(30, footprints=False, georeferenced=False).tar(tmp_path / "r.tar"), tmp_path / "r.zarr"
    )
    by_place = collection.split(by="place")
    assert splits_of(by_place) == splits_of(by_place.split())


def test_the_same_place_is_of_the_same_split(tmp_path):
    collection = grid_collection(tmp_path)
    first = splits_of(collection.split(by="place", block=2e-3))
    again = splits_of(vs.open(collection.store).split(by="place", block=2e-3))
    assert first == again
    for wrong in (
        {"given": {"0": "a"}, "by": "place"},
        {"by": "place", "block": "a"},
        {"by": "place", "block": 1e-300},
        {"by": "class"},
        {"by": "place", "block": 0},
        {"by": "place", "block": float("nan")},
    ):
        with pytest.raises(UsageError):
            vs.open(collection.store).split(**wrong)


@given(st.lists(st.tuples(st.integers(-20, 19), st.integers(-8, 8), st.integers(0, 9), st.integers(0, 9)), max_size=40))
def test_boxes_that_touch(numbers):
    boxes = np.array([(x * 9.0, y, x * 9.0 + w, y + h) for x, y, w, h in numbers]).reshape(-1, 4)
    cut = len(boxes) // 2
    found = touching(boxes[:cut], boxes[cut:])
    wanted = []
    for box in boxes[:cut]:
        turned = [np.add(other, (turn, 0, turn, 0)) for other in boxes[cut:] for turn in (-360, 0, 360)]
        near = [not (o[0] > box[2] or o[2] < box[0] or o[1] > box[3] or o[3] < box[1]) for o in turned]
        wanted.append(any(near))
    assert found.tolist() == wanted
