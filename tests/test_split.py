"""Splits: the same for the same ids, committed as versions, and nothing else of the store changes."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import geopandas
import geopandas.testing
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

import vedastore as vs
from tests.builders import assert_store_ok, make_release, pixels_of, plain_tiff
from tests.test_docs import run_cli
from vedastore.errors import ConflictError, SampleNotFoundError, StoreError, UsageError
from vedastore.exchange.splits import dump_splits, parse_splits, read_splits
from vedastore.io.contact import touching
from vedastore.ops import split as split_op
from vedastore.ops.allotment import SplitOptions
from vedastore.ops.shares import Shares, stratify

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
    files, roots = (p for p in Path(collection.store).rglob("*") if p.is_file()), {"zarr.json", "root.json"}
    before = {p: p.read_bytes() for p in files if p.name not in roots}
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


def test_numbers_of_numpy_are_numbers(collection):
    found = collection.split(np.int64(50), np.float32(30), np.float64(20), np.int8(3), by="place", block=np.float32(1))
    again = found.split(50, 30, 20, 3, by="place", block=1)
    assert found.samples.split.tolist() == again.samples.split.tolist()


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
    with pytest.raises(UsageError, match="no sample in the selection"):
        given[:0].split()


def test_split_on_the_command_line(collection):
    code, out = run_cli(["split", collection.store, "--train", "60", "--test", "40", "--validate", "0", "--json"])
    told = json.loads(out)
    assert (code, told["version"], sum(told["samples"].values())) == (0, "1.0.1+1", 40)
    code, out = run_cli(["query", collection.store, "--split", "test", "--json"])
    assert json.loads(out)["count"] == told["samples"]["test"]
    assert run_cli(["split", collection.store, "--train", "60"])[0] == 2


# ------------------------------------------------------------------------------------------------------------ by place


def grid_collection(tmp_path, side=12, step=0.5, west=10.0, pixels=None):
    """Chips on a grid, each of which overlaps its neighbours by half; ``pixels`` gives those of a number."""
    release = make_release(0, task="classification")
    pixels = pixels or (lambda number: np.full((1, 4, 4), number % 200, "u1"))
    for number in range(side * side):
        x, y = west + step * (number % side) * 1e-3, 50 + step * (number // side) * 1e-3
        lons = [(lon + 180) % 360 - 180 for lon in (x, x + 1e-3, x + 1e-3, x, x)]
        ring = [[lon, lat] for lon, lat in zip(lons, (y, y, y + 1e-3, y + 1e-3, y), strict=True)]
        feature = {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"label": {"car": number % 2}},
        }
        release.members[f"{release.top}/images/{number}.tif"] = plain_tiff(pixels(number))
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
    plain, _ = split_op.split(collection._snapshot, SHARES)
    assert plain.touching == len(touching_pairs(vs.open(collection.store))) > 50
    collection = vs.open(collection.store)
    report, _ = split_op.split(collection._snapshot, SHARES, 2, SplitOptions("place", 2e-3))
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
        {"by": ["id"]},
        {"by": "place", "block": 0},
        {"by": "place", "block": float("nan")},
        {"block": 1.0},
        {"buffer": 1.0},
        {"by": "place", "buffer": -1},
        {"by": "place", "buffer": float("nan")},
        {"by": "place", "buffer": "1"},
        {"by": "place", "buffer": 200},
        {"stratify": 1},
        {"stratify": True, "given": {}},
        {"duplicates": 7},
        {"duplicates": -1},
        {"duplicates": 1.5},
        {"duplicates": "yes"},
    ):
        with pytest.raises(UsageError):
            vs.open(collection.store).split(**wrong)


@pytest.mark.parametrize("west", [10.0, 179.997])
@pytest.mark.parametrize("stratify", [False, True])
def test_a_buffer_lies_between_splits(tmp_path, west, stratify):
    collection = grid_collection(tmp_path, west=west)
    report, _ = split_op.split(collection._snapshot, SHARES, 2, SplitOptions("place", 2e-3, 1e-3, stratify))
    found = assert_store_ok(collection.store)
    splits = np.array([s.split or "" for s in found])
    bounds = np.array([shapely.bounds(s.geometry) for s in found])
    wests = np.where(bounds[:, 2] - bounds[:, 0] > 180, bounds[:, 2], bounds[:, 0]) % 360
    assert len({*splits} - {""}) > 1
    for a, b in combinations(np.flatnonzero(splits), 2):
        if splits[a] == splits[b]:
            continue
        gaps = np.maximum(np.abs([wests[a] - wests[b], bounds[a, 1] - bounds[b, 1]]) - 1e-3, 0)
        assert np.hypot(*gaps) > 1e-3 - 1e-9
    assert (report.touching, report.near, report.left_out) == (0, 0, int((splits == "").sum()))
    assert any("a buffer of 0.001 degrees: 0 samples" in line for line in report.checked)


@pytest.mark.parametrize("side", [2, 8, 12])
def test_blocks_are_as_large_as_each_split_gets_three(tmp_path, side):
    collection = grid_collection(tmp_path, side=side, step=2)

    def blocks_each(degrees):
        report, _ = split_op.split(vs.open(collection.store)._snapshot, SHARES, 0, SplitOptions("place", degrees))
        found = vs.open(collection.store)
        assert report.left_out == 0
        assert report.samples == Counter(s.split for s in found)
        points = [shapely.box(*s.geometry.bounds).centroid for s in found]
        cells = {
            ((p.x + 180) // report.block, p.y // report.block, s.split) for p, s in zip(points, found, strict=True)
        }
        return report.block, min(sum(split == name for *_, split in cells) for name in SHARES)

    chosen, least = blocks_each(None)
    tried = [blocks_each(chips * 1e-3) for chips in (16, 8, 4, 2)]
    wanted = next(((block, count) for block, count in tried if count >= 3), tried[-1])
    assert (pytest.approx(chosen), least) == wanted


# ------------------------------------------------------------------------------------------------------------ by class


def counted(rows):
    """The classes of samples as groups of one, with all samples and those without a class as classes."""
    most = max((code for row in rows for code in row), default=-1) + 1
    pairs = [(n, c) for n, row in enumerate(rows) for c in (*sorted(row), most, *([most + 1] if not row else []))]
    group, code = np.array(pairs).reshape(-1, 2).T
    return group, code, np.ones(len(group), "i8")


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(0, 3), st.randoms(use_true_random=False))
def test_shares_hold_for_every_class(codes, seed, random):
    names = [f"chip {n}" for n in range(len(codes))]
    shares = Shares.of(SHARES, seed)
    found = dict(zip(names, stratify(shares, names, counted([(c,) for c in codes])), strict=True))
    for code in {*codes}:
        own = [found[name] for name, c in zip(names, codes, strict=True) if c == code]
        for split, share in SHARES.items():
            assert abs(own.count(split) - len(own) * share / 100) < 2
    order = random.sample(range(len(codes)), len(codes))
    again = stratify(shares, [names[n] for n in order], counted([(codes[n],) for n in order]))
    assert dict(zip((names[n] for n in order), again, strict=True)) == found


@pytest.mark.parametrize("seed", range(12))
def test_shares_hold_for_samples_of_several_classes(seed):
    rng = np.random.default_rng(seed)
    likely = rng.random(int(rng.integers(2, 12))) ** 2
    rows = [np.flatnonzero(rng.random(len(likely)) < likely).tolist() for _ in range(int(rng.integers(20, 300)))]
    found = stratify(Shares.of(SHARES, seed), [*map(str, range(len(rows)))], counted(rows))
    for code in range(len(likely)):
        own = [split for split, row in zip(found, rows, strict=True) if code in row]
        for split, share in SHARES.items():
            assert abs(own.count(split) - len(own) * share / 100) <= 2.5
    assert all(abs(found.count(split) - len(rows) * share / 100) <= 2.5 for split, share in SHARES.items())


def test_a_stratified_collection(tmp_path):
    found = vs.convert(make_release(100).tar(tmp_path / "r.tar"), tmp_path / "r.zarr").split(stratify=True)
    assert_store_ok(found.store)
    for name in found.classes:
        own = found.select(classes=name)
        assert all(abs(len(own.select(split=s)) - len(own) * share / 100) <= 2 for s, share in SHARES.items())
    assert splits_of(found.split(stratify=True)) == splits_of(found)
    assert splits_of(vs.open(found.store).split(stratify=True, seed=1)) != splits_of(found)


# ------------------------------------------------------------------------------------------------ images that are alike


def pictured(number):
    """Pictures that come back: number 100 and those above look like those 100 before; every tenth one is black."""
    if number % 10 == 0:
        return np.zeros((1, 24, 24), "u1")
    picture = pixels_of((1, 24, 24), "uint8", seed=number % 100).astype("f8")
    return (picture * (0.8 if number >= 100 else 1) + 10 * (number >= 100)).astype("u1")


@pytest.mark.parametrize("by", ["id", "place"])
@pytest.mark.parametrize("balance", [False, True])
def test_images_that_look_alike_stay_together(tmp_path, by, balance):
    collection = grid_collection(tmp_path, step=2, pixels=pictured)
    plain, _ = split_op.split(collection._snapshot, SHARES, 1, SplitOptions(by, 2e-3 if by == "place" else None))
    assert plain.near_duplicates is None
    assert any("look alike" in line for line in plain.not_checked)
    given = {s.id: s.split for s in vs.open(collection.store)}
    told, _ = split_op.split(vs.open(collection.store)._snapshot, SHARES, 0, SplitOptions(duplicates=True), given=given)
    assert splits_of(vs.open(collection.store)) == given
    assert told.near_duplicates > 15
    options = SplitOptions(by, 2e-3 if by == "place" else None, 0.0, balance, duplicates=True)
    report, _ = split_op.split(vs.open(collection.store)._snapshot, SHARES, 1, options)
    found = splits_of(assert_store_ok(collection.store))
    assert report.near_duplicates == 0
    assert all(found[str(n)] == found[str(n + 100)] for n in range(44))
    assert len({found[str(n)] for n in range(0, 144, 10)}) == 1
    assert len({*found.values()}) > 1
    assert report.largest >= 15
    plain = [line for line in report.checked if "images say too little" in line]
    assert int(plain[0].split()[0]) >= 15
    assert not any("look alike" in line for line in report.not_checked)


def test_groups_follow_the_samples_that_keep_their_split(tmp_path):
    collection = grid_collection(tmp_path, step=2, pixels=pictured)
    old = collection.select(where="id::INT < 100")
    first = old.split(given={s.id: "abc"[int(s.id) % 3] for s in old})
    new = vs.open(first.store).select(where="id::INT >= 100")
    found = splits_of(new.split(duplicates=True))
    assert all(found[str(n)] == "abc"[(n - 100) % 3] for n in range(100, 144) if n % 10)
    assert {found[str(n)] for n in range(100, 144, 10)} < {"train", "test", "validate"}  # alike, but of all three
    whole = vs.open(first.store)
    assert splits_of(whole) == {s.id: s.split for s in first} | found | {str(n): "abc"[n % 3] for n in range(100)}
    placed = vs.open(first.store).select(ids="101").split(by="place", block=1.0)
    assert {s.split for s in placed} < {*SHARES}  # its block has several splits, of which no sample touches it
    report, _ = split_op.split(
        vs.open(first.store)._snapshot, SHARES, 0, SplitOptions("place", 1.0, 1.0), positions=np.array([101])
    )
    assert report.left_out == 1


# ---------------------------------------------------------------------------------------------------- splits from files


def test_splits_go_out_and_come_back(tmp_path, collection, monkeypatch):
    odd = dict(zip([s.id for s in collection][:4], ["a,b", 'say "c"', "line\nbreak", "é"], strict=True))
    given = collection.split(given=odd)
    code, text = run_cli(["query", collection.store, "--csv"])
    assert code == 0
    (tmp_path / "out.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "out.json").write_text(json.dumps(splits_of(given)))
    for name in ("out.csv", "out.json"):
        vs.open(collection.store).split()
        assert run_cli(["split", collection.store, "--given", str(tmp_path / name)])[0] == 0
        found = assert_store_ok(collection.store)
        assert splits_of(found) == splits_of(given)
        assert run_cli(["query", collection.store, "--csv"]) == (0, text)
    assert run_cli(["query", collection.store, "--csv", "--json"])[0] == 2
    told = json.loads(run_cli(["query", collection.store, "--json"])[1], parse_constant=pytest.fail)["samples"]
    assert {t["id"]: t["split"] for t in told} == splits_of(given)


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8")), st.none() | st.text(st.characters(codec="utf-8"), min_size=1)
    )
)
def test_files_of_splits_say_what_was_written(splits):
    assert parse_splits("".join(dump_splits(splits.items())).encode(), "x") == splits
    assert parse_splits(json.dumps(splits).encode(), "x") == splits


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "first line"),
        (b"name,split\n1,a\n", "first line"),
        (b"id,split\n1\n", "line 2 has 1 fields"),
        (b"id,split\n1,a,b\n", "line 2 has 3 fields"),
        (b"id,split\n1,a\n\n1,b\n", "line 4 names the sample '1' again"),
        (b'id,split\n1,"a\n', "line 2 is no CSV"),
        (b"id,split\n" + b"1" * 200_000 + b",a\n", "line 2 is no CSV"),
        (b"id,split\n\xff,a\n", "not UTF-8 at byte 9"),
        (b'{"1": "a", "1": "b"}', "twice"),
        (b'{"1": 7}', "the split of '1' is 7"),
        (b'{"1": {"a": 1}}', "no name"),
        (b'{"1": "a"', "not JSON"),
        (b"{" * 100_000, "nested"),
        (b'["1"]', "first line"),
    ],
)
def test_files_that_are_no_splits(data, words):
    with pytest.raises(UsageError, match=words):
        parse_splits(data, "x.csv")


def test_splits_that_cannot_be_taken(tmp_path, collection, monkeypatch):
    path = tmp_path / "given.csv"
    for text, words in (("id,split\nnobody,a\n", "'nobody'"), ("id,split\nnobody,\n", "'nobody'")):
        path.write_text(text)
        code, told = run_cli(["split", collection.store, "--given", str(path)])
        assert (code, words in told) == (2, True)
    monkeypatch.setattr("vedastore.exchange.splits.LIMIT_BYTES", 10)
    for place in (str(path), str(tmp_path), str(tmp_path / "none.csv"), "/dev/zero", "\0"):
        with pytest.raises(UsageError, match=r"above 10 bytes|cannot be read"):
            read_splits(place)
    assert run_cli(["split", collection.store, "--bits", "2"])[0] == 2
    assert vs.open(collection.store).versions == ("1.0.1",)


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


def test_boxes_of_one_place_are_searched_once(monkeypatch):
    """Chips of one place and many dates: a search among boxes that are all alike would take quadratic time."""
    sizes = []
    tree = shapely.STRtree
    monkeypatch.setattr(shapely, "STRtree", lambda boxes: sizes.append(len(boxes)) or tree(boxes))
    boxes = np.tile([[10.0, 50, 10.01, 50.01], [20, 50, 20.01, 50.01]], (50, 1))
    assert touching(boxes, boxes[::2]).tolist() == [True, False] * 50
    assert sizes == [1]
