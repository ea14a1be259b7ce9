"""Edits: all else comes back byte for byte, and writers of different samples do not collide."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely

import vedastore as vs
from tests.builders import (
    assert_store_ok,
    footprint_of,
    geotiff,
    gnu_tar_members,
    make_release,
    pixels_of,
    plain_tiff,
    read_tiff,
)  # fmt: skip
from tests.test_append import chips, relabel, say, sizes

TRANSFORM = (0.5, 0, 735_600, 0, -0.5, 3_725_150)
BOX = {"type": "Polygon", "coordinates": [[[2, 3], [9, 3], [9, 8], [2, 8], [2, 3]]]}


def labels_of(release):
    """The Feature of every sample by id."""
    found = {n: json.loads(d) for n, d in release.members.items() if "/labels/" in n}
    return {n.rpartition("/")[2].removesuffix(".json"): feature for n, feature in found.items()}


def feature_of(number, label, transform=TRANSFORM):
    geometry = footprint_of(transform, 32, 40)
    return {"type": "Feature", "geometry": geometry, "properties": {"label": label, "id": number}}


def exported(collection, folder):
    path = folder / "edited.tar.gz"
    collection.export(path, overwrite=True)
    return path, gnu_tar_members(path, folder / "edited")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    release = make_release(8)
    folder = tmp_path_factory.mktemp("edits")
    return release, vs.convert(release.tar_gz(folder / "r.tar.gz"), folder / "s.zarr")


@pytest.fixture
def store(tmp_path):
    """A store of its own for a test."""
    release = make_release(8)
    return release, vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "s.zarr")


def assert_true(collection, folder):
    """Check the store, and that a conversion of its export has the same content, classes and bounds."""
    assert_store_ok(collection.store)
    path, members = exported(collection, folder)
    again = vs.convert(path, folder / "again.zarr", mode="overwrite")
    ours, theirs = collection._snapshot.version, again._snapshot.version
    for field in ("content", "samples", "features", "bounds", "classes", "fidelity", "version"):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert not {f["rule"] for f in theirs.findings} & {"meta-classes", "meta-nclasses", "meta-bbox", "bounds-count"}
    drop = ["bucket", "row", "split", "image_ordinal", "label_ordinal"]
    assert collection.samples.drop(columns=drop).equals(again.samples.drop(columns=drop))
    assert collection.features.equals(again.features)
    return members


def test_labels_are_updated(store, tmp_path):
    release, first = store
    before, wanted = sizes(tmp_path / "s.zarr"), labels_of(release)
    two, five = [i for i, f in wanted.items() if any(f["properties"]["label"].values())][1:3]
    moved = labels_of(relabel(release, two, five, shift=2e-6))
    found = first.update_labels(
        {i: moved[i]["properties"]["label"] for i in (two, five)}, author="Ada", message="moved"
    )
    assert found.version == "1.0.1+1"
    assert found.versions == ("1.0.1", "1.0.1+1")
    version = found._snapshot.version
    assert (version.author, version.message, version.parent) == ("Ada", "moved", "1.0.1")
    for sample in found:
        expected = moved if sample.id in {two, five} else wanted
        assert sample.feature == expected[sample.id]
    members = assert_true(found, tmp_path)
    touched = {f"{release.top}/labels/{i}.json" for i in (two, five)}
    rewritten = {n for n, d in release.members.items() if members[n] != d}
    assert rewritten == touched | {f"{release.top}/meta.json"}
    assert list(members) == list(release.members)
    assert chips(sizes(tmp_path / "s.zarr")) == chips(before)
    assert gnu_tar_members(*_back(vs.open(first.store, "1.0.1"), tmp_path)) == release.members


def _back(collection, folder):
    path = folder / "back.tar.gz"
    collection.export(path, overwrite=True)
    return path, folder / "back"


def test_samples_are_removed(store, tmp_path):
    release, first = store
    found = first.remove(["0", "3", "7"])
    assert [s.id for s in found] == ["1", "2", "4", "5", "6"]
    members = assert_true(found, tmp_path)
    gone = {
        f"{release.top}/{kind}/{i}.{suffix}" for i in "037" for kind, suffix in (("images", "tif"), ("labels", "json"))
    }
    assert set(members) == set(release.members) - gone
    assert all(members[n] == d for n, d in release.pairs.items() if n not in gone)
    features = json.loads(members[f"{release.top}/bounds.geojson"])["features"]
    assert len(features) == 5


def test_samples_are_added(store, tmp_path):
    release, first = store
    pixels = pixels_of(seed=77)
    image = geotiff(pixels, TRANSFORM)
    found = first.add({"new": (image, feature_of("new", {"plane": [], "car": []}))})
    assert [s.id for s in found] == [*map(str, range(8)), "new"]
    assert found.classes == ("boat", "building", "car", "plane")
    members = assert_true(found, tmp_path)
    assert members[f"{release.top}/images/new.tif"] == image
    assert list(members)[:-2] == list(release.members)
    assert json.loads(members[f"{release.top}/meta.json"])["classes"] == ["boat", "building", "car", "plane"]
    assert json.loads(members[f"{release.top}/meta.json"])["nclasses"] == 4
    np.testing.assert_array_equal(found["new"].image.values, pixels)
    np.testing.assert_array_equal(found.to_xarray().image.values[-1], pixels)
    # What is stored already is not stored again.
    before = chips(sizes(tmp_path / "s.zarr"))
    again = found.add({"twice": (image, feature_of("twice", {}))})
    assert chips(sizes(tmp_path / "s.zarr")) == before
    assert_true(again, tmp_path)


def test_many_edits_are_one_commit(store, tmp_path):
    release, first = store
    label = copy.deepcopy(labels_of(release)["4"]["properties"]["label"]) | {"ship": []}
    with first.edit(message="all at once") as e:
        e.update_labels({"4": label})
        e.remove("6")
        e.add({"9": (geotiff(pixels_of((1, 20, 20), "uint16"), TRANSFORM), feature_of("9", {"ship": []}))})
        e.set_split({"1": "train", "2": "test"})
        e.update_meta({"description": "corrected", "extra": None})
    found = e.collection
    assert found.versions == ("1.0.1", "1.0.1+1")
    assert found["1"].split == "train"
    members = assert_split_free(found, tmp_path)
    meta = json.loads(members[f"{release.top}/meta.json"])
    assert meta["description"] == "corrected"
    assert meta["extra"] is None
    assert meta["version"] == "1.0.1+1"
    assert meta["public"] is True
    assert found.meta["description"] == "corrected"


def assert_split_free(collection, folder):
    assert_store_ok(collection.store)
    return exported(collection, folder)[1]


def test_edits_follow_one_another(store, tmp_path):
    release, found = store
    expected = labels_of(release)
    for number in range(11):
        name = str(number % 8)
        expected[name]["properties"]["label"] = {"car": [], f"class {number}": []}
        found = found.update_labels({name: expected[name]["properties"]["label"]})
        assert {s.id: s.feature for s in found} == expected
    assert len(found.versions) == 12
    assert max(len(v.parts) for v in found._snapshot.root.versions) > 2
    assert_true(found, tmp_path)
    halfway = vs.open(found.store, "1.0.1+5")
    assert halfway.verify().ok
    found = found.split(train=50, test=50, validate=0)
    assert not found._snapshot.version.parts
    assert_true(found.remove("3").add({"3": (plain_tiff(pixels_of()), {"car": []})}), tmp_path)


def test_images_and_labels_of_many_kinds(store, tmp_path):
    _, first = store
    (tmp_path / "image.tif").write_bytes(geotiff(pixels_of(seed=5), TRANSFORM))
    (tmp_path / "label.json").write_text(json.dumps(feature_of("p", {})))
    array = first["1"].image
    with first.edit() as e:
        e.add({"path": (tmp_path / "image.tif", tmp_path / "label.json")})
        e.add({"array": (array, feature_of("array", {"car": []}, tuple(array.rio.transform())[:6]))})
        e.add(
            {
                "plain": (
                    np.zeros((3, 32, 40), "uint8"),
                    {"car": [shapely.box(1, 2, 8, 9)], "boat": [np.array([1, 2, 3, 4])]},
                )
            }
        )
        e.update_labels({"2": first["2"].feature})
    found = e.collection
    np.testing.assert_array_equal(found["array"].image, array)
    assert found["array"].image.rio.crs == array.rio.crs
    assert found["array"].image.rio.transform() == array.rio.transform()
    assert [box.tolist() for box in found["plain"].boxes] == [[[1, 2, 3, 4]], [], [[1, 2, 8, 9]]]
    assert read_tiff((tmp_path / "image.tif").read_bytes()).tolist() == found["path"].image.values.tolist()
    assert_true(found, tmp_path)


def test_samples_of_another_store(store, tmp_path):
    _, first = store
    other = make_release(9, seed=8, top="other")
    source = vs.convert(other.tar(tmp_path / "o.tar"), tmp_path / "o.zarr")
    found = first.remove(["0"]).add(source.select(ids=["0", "8"]))
    assert [s.id for s in found] == [*map(str, range(1, 8)), "0", "8"]
    members = assert_true(found, tmp_path)
    assert members["ts_104-1.0.1/images/8.tif"] == other.members["other/images/8.tif"]
    assert members["ts_104-1.0.1/labels/8.json"] == other.members["other/labels/8.json"]


def test_samples_whose_labels_mean_something_else_are_refused(released, tmp_path):
    """Their label files would be copied as they are."""
    _, collection = released
    other = make_release(3, coords="pixel", seed=4)
    pixel = vs.convert(other.tar(tmp_path / "p.tar"), tmp_path / "p.zarr")
    with pytest.raises(vs.errors.UsageError, match="pixel coordinates, those here are geographic"):
        collection.add(pixel.select(where="objects > 0"))
    default = vs.convert(tmp_path / "p.tar", tmp_path / "d.zarr", default_label="car")
    with pytest.raises(vs.errors.UsageError, match="has another default"):
        collection.add(default)
    assert vs.open(collection.store).versions == ("1.0.1",)


def test_rotated_images_stay_where_they_are(store):
    _, first = store
    rotated = (0.4, 0.3, 733_600, 0.3, -0.4, 3_725_150)
    found = first.add({"r": (geotiff(pixels_of(seed=5), rotated), feature_of("r", {}, rotated))})
    found = found.add({"copy": (found["r"].image, feature_of("copy", {}, rotated))})
    assert tuple(found["copy"].image.rio.transform())[:6] == rotated
    assert found["copy"].image.rio.crs == found["r"].image.rio.crs


def test_a_sample_that_was_skipped_can_be_added(tmp_path):
    release = make_release(4)
    image, label = (release.members[f"{release.top}/{name}"] for name in ("images/2.tif", "labels/2.json"))
    broken = replace(release, members={**release.members, f"{release.top}/images/2.tif": b"no image"})
    first = vs.convert(broken.tar(tmp_path / "r.tar"), tmp_path / "s.zarr", on_error="skip")
    assert [entry["id"] for entry in first.remove("1").skipped] == ["2"]
    found = vs.open(first.store).add({"2": (image, label)})
    assert found.skipped == ()
    assert_true(found, tmp_path)


@pytest.mark.parametrize(
    ("classes", "now"),
    [
        (
            [{"name": "boat", "x": 1.50}, {"name": "car"}],
            [{"name": "boat", "x": 1.50}, {"name": "car"}, {"name": "new"}],
        ),
        ({"boat": 1, "car": {}}, {"boat": 1, "car": {}, "new": None}),
        ([["a"], {"name": "boat"}, {"name": "car"}], [["a"], {"name": "boat"}, {"name": "car"}, {"name": "new"}]),
        ([1, True, "boat", "car"], [1, True, "boat", "car", "new"]),
        ("boat", "boat"),
    ],
)
def test_classes_of_any_form_get_another_one(tmp_path, classes, now):
    label = {"boat": [], "car": []}
    release = make_release(2)
    members = {
        n: json.dumps(feature_of(n, label)).encode() if "/labels/" in n else d for n, d in release.members.items()
    }
    release = say(replace(release, members=members), "1.0.1", classes=classes, nclasses=0)
    first = vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "s.zarr")
    found = first.update_labels({"1": label | {"new": []}})
    members = exported(found, tmp_path)[1]
    assert json.loads(members[f"{release.top}/meta.json"])["classes"] == now


def test_bounds_keep_their_features_where_ids_are_those_of_others(tmp_path):
    release = make_release(5)
    bounds = f"{release.top}/bounds.geojson"
    document = json.loads(release.members[bounds])
    for number, feature in enumerate(document["features"]):
        feature["properties"] = {"id": number + 1, "k": f"of {number}"}
    release = replace(release, members={**release.members, bounds: json.dumps(document).encode()})
    first = vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "s.zarr")
    features = json.loads(assert_true(first.remove("1"), tmp_path)[bounds])["features"]
    assert features == [document["features"][n] for n in (0, 2, 3, 4)]


def test_a_label_file_is_named_by_a_text(store, tmp_path):
    _, first = store
    (tmp_path / "image.tif").write_bytes(geotiff(pixels_of(seed=5), TRANSFORM))
    (tmp_path / "label.json").write_text(json.dumps(feature_of("p", {"car": []})))
    found = first.add(
        {"p": (str(tmp_path / "image.tif"), str(tmp_path / "label.json")), "n": (plain_tiff(pixels_of()), "car")}
    )
    assert found["p"].feature == feature_of("p", {"car": []})
    assert found["n"].label == "car"
    assert found.classes == ("boat", "building", "car")


def test_a_selection_stays_one(store):
    _, first = store
    chosen = first.select(ids=["1", "2", "3"])
    assert [s.id for s in chosen.remove("2")] == ["1", "3"]


def remove_and_fail(collection):
    with collection.edit() as e:
        e.remove("1")
        e.update_meta({"bbox": []})


def edit_meta(collection, **values):
    with collection.edit() as e:
        e.update_meta(values)


def twice(collection):
    with collection.edit() as e:
        e.update_labels({"1": b"{"})
        e.update_labels({"1": {"car": []}})


def both(collection):
    with collection.edit() as e:
        e.remove("1")
        e.update_labels({"1": {}})


def after_the_block(collection):
    with collection.edit() as e:
        pass
    e.remove("1")


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda c: c.update_labels({"x": {}}), vs.errors.SampleNotFoundError, "there is no sample 'x'"),
        (lambda c: c.remove("x"), vs.errors.SampleNotFoundError, "there is no sample 'x'"),
        (lambda c: c.remove(list(map(str, range(8)))), vs.errors.UsageError, "no sample would be left"),
        (lambda c: c.add({"1": (plain_tiff(pixels_of()), {})}), vs.errors.UsageError, "there is a sample '1' already"),
        (lambda c: c.add({"a/b": (plain_tiff(pixels_of()), {})}), vs.errors.UsageError, "cannot be the name of a file"),
        (lambda c: c.add({"..": (b"", {})}), vs.errors.UsageError, "cannot be the name of a file"),
        (lambda c: c.add({"n": (b"no tiff", {})}), vs.errors.ImageError, "images/n.tif"),
        (lambda c: c.add({"n": ("/nowhere.tif", {})}), vs.errors.UsageError, "cannot be read"),
        (lambda c: c.add([1]), vs.errors.UsageError, "is no sample"),
        (lambda c: c.add({"n": (np.zeros((3, 3)), {})}), vs.errors.UsageError, "an image is given as"),
        (lambda c: c.update_labels({"1": {"car": 1}}), vs.errors.LabelError, "segmentation"),
        (lambda c: c.update_labels({"1": b"{"}), vs.errors.LabelError, "labels/1.json"),
        (lambda c: c.update_labels({"1": {"car": [object()]}}), vs.errors.UsageError, "cannot be written as JSON"),
        (lambda c: c.update_labels({"1": {"car": [float("nan")]}}), vs.errors.UsageError, "cannot be written as JSON"),
        (lambda c: c.update_labels([]), vs.errors.UsageError, "labels come by id"),
        (lambda c: c.update_labels({1: {}}), vs.errors.UsageError, "1 is no id"),
        (lambda c: c.update_labels({"1": {}}, version="1.0.1"), vs.errors.ConflictError, "a version '1.0.1' already"),
        (lambda c: c.add({"": (plain_tiff(pixels_of()), {})}), vs.errors.UsageError, "'' cannot be the name of a file"),
        (lambda c: c.remove(3), vs.errors.UsageError, "3 is no id"),
        (lambda c: c.remove("1", author=3), vs.errors.UsageError, "author is 3"),
        (lambda c: c.remove("1", message="m" * 5000), vs.errors.UsageError, "message has 5000 characters"),
        (lambda c: c.remove("1", version=2), vs.errors.UsageError, "version is 2"),
        (lambda c: c.edit().set_split("train"), vs.errors.UsageError, "splits come by id"),
        (lambda c: c.edit().update_meta([]), vs.errors.UsageError, "values come by key"),
        (lambda c: c.diff(3), vs.errors.UsageError, "3 is nothing to compare with"),
        (after_the_block, vs.errors.UsageError, "these edits have ended"),
        (lambda c: edit_meta(c, bbox=[]), vs.errors.UsageError, "bbox cannot be set"),
        (both, vs.errors.UsageError, "is changed and removed"),
        (twice, vs.errors.UsageError, "no GeoJSON Feature"),
        (lambda c: c.remove(5), vs.errors.UsageError, "5 is no id"),
        (lambda c: c.remove("\ud800"), vs.errors.UsageError, "is no id"),
        (lambda c: c.remove("1", version=5), vs.errors.UsageError, "version is 5"),
        (lambda c: c.remove("1", author=""), vs.errors.UsageError, "author is ''"),
        (lambda c: c.remove("1", message=b"x"), vs.errors.UsageError, "message is b'x'"),
        (lambda c: c.add({"": (plain_tiff(pixels_of()), {})}), vs.errors.UsageError, "cannot be the name of a file"),
        (
            lambda c: c.add({"n": (np.ma.zeros((1, 3, 3)), {})}),
            vs.errors.UsageError,
            "an image is given as MaskedArray",
        ),
    ],
)
def test_refusals_leave_the_store_as_it_was(released, change, error, told):
    _, collection = released
    before = sizes(Path(collection.store))
    with pytest.raises(error, match=told):
        change(collection)
    assert sizes(Path(collection.store)) == before


def test_an_error_in_the_block_commits_nothing(released):
    _, collection = released
    with pytest.raises(vs.errors.UsageError, match="bbox cannot be set"):
        remove_and_fail(collection)
    assert vs.open(collection.store).versions == ("1.0.1",)


def test_writers_of_different_samples_do_not_collide(store, tmp_path):
    release, first = store
    others = [vs.open(first.store) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda n: others[n].update_labels({str(n): {"car": []}}, message=f"by {n}"), range(4)))
    last = vs.open(first.store)
    assert len(last.versions) == 5
    assert {c.version for c in done} == set(last.versions) - {"1.0.1"}
    assert all(last[str(n)].label == {"car": []} for n in range(4))
    assert last["5"].feature == labels_of(release)["5"]
    added = [c.add({f"new{n}": (plain_tiff(pixels_of(seed=n)), {})}) for n, c in enumerate(others)]
    assert len(added[-1]) == 12
    assert_true(added[-1], tmp_path)


def test_writers_of_one_sample_collide(store):
    _, first = store
    late = [vs.open(first.store) for _ in range(3)]
    first.update_labels({"1": {"car": []}})
    for change in (lambda: late[0].update_labels({"1": {}}), lambda: late[1].remove(["0", "1"])):
        with pytest.raises(vs.errors.ConflictError, match="changed sample '1' first"):
            change()
    late[2].add({"n": (plain_tiff(pixels_of()), {})})
    with pytest.raises(vs.errors.ConflictError, match="changed sample 'n' first"):
        late[0].add({"n": (plain_tiff(pixels_of(seed=2)), {})})
    with pytest.raises(vs.errors.ConflictError, match="has changed since"):
        vs.open(first.store, "1.0.1").remove("2") and late[0].split()


def test_many_small_buckets_become_one(store, tmp_path):
    """Every commit that adds samples makes a bucket: a version has few, and no chip is copied often."""
    _, found = store
    copied = written = 0
    for number in range(30):
        before = found._snapshot.version.buckets
        found = found.add({f"n{number}": (plain_tiff(pixels_of(seed=100 + number)), {})})
        after = found._snapshot.version.buckets
        gathered = [b.rows for name, b in after.items() if name not in before and b.rows > 1]
        copied, written = copied + sum(gathered), written + bool(gathered)
    assert max(len(v.buckets) for v in found._snapshot.root.versions) <= 2 * 9
    assert 1 <= written <= 30 // 8
    assert copied <= 38 * 3
    for version in found.versions[5::12]:
        assert vs.open(found.store, version).verify().ok
    np.testing.assert_array_equal(found["n0"].image.values, pixels_of(seed=100))
    assert_true(found, tmp_path)
    vs.clean(found.store, grace_days=0)
    assert vs.open(found.store, "1.0.1").verify().ok


def test_damaged_chips_are_not_gathered(store, tmp_path):
    _, found = store
    for number in range(8):
        found = found.add({f"n{number}": (plain_tiff(pixels_of(seed=100 + number)), {})})
    row = found._snapshot.table("samples").read(["bucket"]).column(0).to_pylist()[-1]
    shard = tmp_path / f"s.zarr/chips/{row}/image/c/0/0/0/0"
    shard.write_bytes(b"\0" + shard.read_bytes()[1:])
    with pytest.raises(vs.errors.StoreError, match="pixels are damaged"):
        remove_each(found, map(str, range(8)))
    assert not [
        name for name, b in vs.open(found.store)._snapshot.version.buckets.items() if "~" in name and b.rows > 1
    ]


def remove_each(collection, ids):
    for sample_id in ids:
        collection = collection.remove(sample_id)


def test_a_split_is_not_by_who_has_edited_before(store):
    _, first = store
    found = first.remove("1", author="Ada", message="blurred").split(train=50, test=50, validate=0)
    told = [(v.author, v.message) for v in found._snapshot.root.versions]
    assert told == [(None, None), ("Ada", "blurred"), (None, None)]
