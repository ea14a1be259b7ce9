"""The next release of a collection becomes a version: what is the same is stored once, and every version comes back."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import zstandard

import vedastore as vs
from tests.builders import assert_store_ok, geotiff, gnu_tar_members, make_release, pixels_of
from vedastore.cli.run import main
from vedastore.spec.arrays import ChipSpec
from vedastore.store import shards


def say(release, version, **more):
    """The release with another version in its meta.json."""
    meta = f"{release.top}/meta.json"
    document = {**json.loads(release.members[meta]), "version": version, **more}
    return replace(release, members={**release.members, meta: json.dumps(document).encode()})


def relabel(release, *ids, shift=1e-7):
    """The release with all objects of some samples moved."""
    members = dict(release.members)
    for name in ids:
        key = f"{release.top}/labels/{name}.json"
        feature = json.loads(members[key])
        for objects in feature["properties"]["label"].values():
            for item in objects:
                item["coordinates"] = [[[x + shift, y] for x, y in ring] for ring in item["coordinates"]]
        members[key] = json.dumps(feature).encode()
    return replace(release, members=members)


def without(release, *ids):
    """The release without some samples; what it says of bounds is left as it is."""
    gone = {f"{release.top}/{name}" for i in ids for name in (f"images/{i}.tif", f"labels/{i}.json")}
    return replace(release, members={n: d for n, d in release.members.items() if n not in gone})


def repixel(release, *ids, seed=99):
    """The release with other pixels in some images."""
    members = dict(release.members)
    for number, name in enumerate(ids):
        members[f"{release.top}/images/{name}.tif"] = geotiff(
            pixels_of(seed=seed + number), (0.5, 0, 733_600 + 100 * int(name), 0, -0.5, 3_725_150)
        )
    return replace(release, members=members)


def shuffled(release):
    """The release with its members in another order."""
    names = list(release.members)
    random.Random(7).shuffle(names)
    return replace(release, members={n: release.members[n] for n in names})


def sizes(store):
    """Every object of a store with its bytes, but the root and its copy."""
    found = {p.relative_to(store).as_posix(): p for p in store.rglob("*") if p.is_file()}
    return {name: p.stat().st_size for name, p in found.items() if p.name != "root.json" and name != "zarr.json"}


def chips(found):
    return {name: size for name, size in found.items() if "/c/" in name}


FIRST = make_release(12)
SMALL = make_release(4, seed=3)
NEXT = {
    "the same": FIRST,
    "a label": relabel(FIRST, "5"),
    "pixels": repixel(FIRST, "0", "7"),
    "fewer": without(FIRST, "11"),
    "fewer and others": relabel(without(FIRST, "11"), "3"),
    "fewer in between": without(FIRST, "3"),
    "more": make_release(14),
    "all others": make_release(12, seed=5),
    "much less": without(FIRST, *map(str, range(2, 12))),
    "another order": shuffled(FIRST),
    "labels last": make_release(12, order="images_first"),
    "other sizes": make_release(5, shape=(3, 16, 16), seed=2),
    "everything": relabel(repixel(without(make_release(15), "1"), "4"), "9"),
}
PARTED = {"the same", "a label", "pixels", "fewer", "fewer and others", "more"}


@pytest.mark.parametrize("name", NEXT)
def test_every_version_comes_back(tmp_path, name):
    store, follower = tmp_path / "s.zarr", say(NEXT[name], "1.0.2")
    vs.convert(FIRST.tar_gz(tmp_path / "1.tar.gz"), store)
    before = sizes(store)
    found = vs.convert(follower.tar_gz(tmp_path / "2.tar.gz"), store, mode="append")
    assert found.version == "1.0.2"
    assert found.versions == ("1.0.1", "1.0.2")
    assert_store_ok(store, follower)
    assert bool(found._snapshot.version.parts) == (name in PARTED)
    assert sizes(store).items() >= before.items()
    for version, release in (("1.0.1", FIRST), ("1.0.2", follower)):
        vs.open(store).export(tmp_path / "back.tar.gz", version=version, overwrite=True)
        assert gnu_tar_members(tmp_path / "back.tar.gz", tmp_path / "back") == release.members
    alone = vs.convert(tmp_path / "2.tar.gz", tmp_path / "alone.zarr")
    assert found._snapshot.version.content == alone._snapshot.version.content
    for field in ("samples", "features", "bounds", "fidelity", "classes", "findings", "label_coords", "task"):
        assert getattr(found._snapshot.version, field) == getattr(alone._snapshot.version, field), field
    same = ["bucket", "row"]
    ours, theirs = found.samples.drop(columns=same), alone.samples.drop(columns=same)
    assert ours.sort_values("id", ignore_index=True).equals(theirs.sort_values("id", ignore_index=True))
    assert found.features.equals(alone.features)


def test_what_is_the_same_is_stored_once(tmp_path):
    store = tmp_path / "s.zarr"
    vs.convert(FIRST.tar(tmp_path / "1.tar"), store)
    before = sizes(store)
    vs.convert(say(relabel(FIRST, "5", "7"), "1.0.2").tar(tmp_path / "2.tar"), store, mode="append")
    assert chips(sizes(store)) == chips(before)
    vs.convert(say(repixel(FIRST, "3"), "1.0.3").tar(tmp_path / "3.tar"), store, mode="append")
    added = chips(sizes(store)).keys() - chips(before).keys()
    assert len(added) == 1
    # Going back needs no pixels, though the version before has others.
    vs.convert(say(FIRST, "1.0.4").tar(tmp_path / "4.tar"), store, mode="append")
    assert chips(sizes(store)).keys() == chips(before).keys() | added
    assert [c.samples.bucket.nunique() for c in (vs.open(store, v) for v in vs.open(store).versions)] == [1] * 4


def append_moved(store, folder):
    """Append the release with another georeference of one image: another file of the same pixels."""
    moved = dict(SMALL.members)
    pixels = vs.open(store)["2"].image.values
    moved[f"{SMALL.top}/images/2.tif"] = geotiff(pixels, (0.5, 0, 733_800.5, 0, -0.5, 3_725_150))
    follower = say(replace(SMALL, members=moved), "1.0.2")
    vs.convert(follower.tar(folder / "2.tar"), store, mode="append")
    assert_store_ok(store, follower)


def test_pixels_are_known_in_another_file(tmp_path):
    store = tmp_path / "s.zarr"
    vs.convert(SMALL.tar(tmp_path / "1.tar"), store)
    before = chips(sizes(store))
    append_moved(store, tmp_path)
    assert chips(sizes(store)) == before
    assert vs.open(store)["2"].image.rio.transform().c == 733_800.5


def test_pixels_are_known_whatever_library_encoded_them(tmp_path, monkeypatch):
    """What another version of the compressor has made are other bytes of the same pixels."""
    store = tmp_path / "s.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(shards, "_compress_zstd", lambda raw, _level: zstandard.compress(raw, 19))
        vs.convert(SMALL.tar(tmp_path / "1.tar"), store)
    before = chips(sizes(store))
    append_moved(store, tmp_path)
    assert chips(sizes(store)) == before


def test_pixels_that_are_damaged_are_not_known(tmp_path):
    """They are stored anew for another file that has them."""
    store = tmp_path / "s.zarr"
    vs.convert(SMALL.tar(tmp_path / "1.tar"), store)
    before = chips(sizes(store))
    pixels = vs.open(store)["2"].image.values
    row = int(vs.open(store).samples.set_index("id").row["2"])
    (shard,) = (store / key for key in before if "/c/" in key)
    data = bytearray(shard.read_bytes())
    index = data[-4 - 16 * ChipSpec("uint8", 3, 32, 40).samples_per_shard : -4]
    start, length = np.frombuffer(index, "<u8").reshape(-1, 2)[row]
    data[int(start) + int(length) // 2] ^= 1
    shard.write_bytes(data)
    moved = dict(SMALL.members)
    moved[f"{SMALL.top}/images/2.tif"] = geotiff(pixels, (0.5, 0, 733_800.5, 0, -0.5, 3_725_150))
    vs.convert(say(replace(SMALL, members=moved), "1.0.2").tar(tmp_path / "2.tar"), store, mode="append")
    assert len(chips(sizes(store))) == len(before) + 1
    assert (vs.open(store)["2"].image.values == pixels).all()


def test_chips_of_several_versions_are_one_array(tmp_path):
    store, follower = tmp_path / "s.zarr", say(repixel(make_release(14), "0", "3"), "1.0.2")
    vs.convert(FIRST.tar(tmp_path / "1.tar"), store)
    found = vs.convert(follower.tar(tmp_path / "2.tar"), store, mode="append")
    alone = vs.convert(tmp_path / "2.tar", tmp_path / "alone.zarr")
    assert len(found._snapshot.version.buckets) == 2
    np.testing.assert_array_equal(found.to_xarray().image.values, alone.to_xarray().image.values)
    np.testing.assert_array_equal(found.masks().values, alone.masks().values)
    for ours, theirs in zip(found.batches(5), alone.batches(5), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
    assert found.stats().bands == alone.stats().bands
    bucket = found.samples.bucket.unique().tolist()
    assert bucket == ["uint8-3x32x40"]
    assert len(found.select(where="bucket = 'uint8-3x32x40'")) == 14
    assert found.stats(bucket=bucket[0]).samples == 14


def test_splits_and_columns_stay_with_the_ids(tmp_path):
    store = tmp_path / "s.zarr"
    first = vs.convert(FIRST.tar(tmp_path / "1.tar"), store).split(train=50, test=50, validate=0)
    first = first.assign(clouds=list(range(12)))
    splits = dict(zip(first.samples.id, first.samples.split, strict=True))
    found = vs.convert(say(NEXT["everything"], "1.0.2").tar(tmp_path / "2.tar"), store, mode="append")
    kept = found.samples.set_index("id")
    assert {i: kept.split[i] for i in splits if i != "1"} == {i: s for i, s in splits.items() if i != "1"}
    assert kept.clouds.drop(["12", "13", "14"]).tolist() == [0, *range(2, 12)]
    assert kept.clouds[["12", "13", "14"]].isna().all()
    assert kept.split[["12", "13", "14"]].isna().all()


def test_parts_are_written_together_in_the_end(tmp_path):
    store, release = tmp_path / "s.zarr", make_release(40, shape=(1, 16, 16))
    vs.convert(release.tar(tmp_path / "0.tar"), store)
    parts = []
    for number in range(10):
        release = say(relabel(release, str(number)), f"1.1.{number}")
        vs.convert(release.tar(tmp_path / "next.tar"), store, mode="append")
        parts.append(len(vs.open(store)._snapshot.version.parts))
    assert parts == [1, 2, 3, 4, 5, 6, 7, 8, 0, 1]
    assert_store_ok(store, release)


def test_several_releases_at_once(tmp_path):
    sources = [FIRST.tar(tmp_path / "1.tar"), say(NEXT["a label"], "1.0.2").tar(tmp_path / "2.tar")]
    assert vs.convert(sources, tmp_path / "s.zarr").versions == ("1.0.1", "1.0.2")
    sources = [say(NEXT["more"], v).tar(tmp_path / f"{v}.tar") for v in ("1.0.3", "1.0.4")]
    found = vs.convert(sources, tmp_path / "s.zarr", mode="append")
    assert found.versions == ("1.0.1", "1.0.2", "1.0.3", "1.0.4")
    assert len(found) == 14


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--append"], 4, "has a version '1.0.1' already"),
        (["--append", "--version", "1.0.2", "--task", "object_detection"], 2, "the release is for object_detection"),
        (["--append", "--overwrite"], 2, "not allowed with"),
        ([], 4, "there is a store already"),
    ],
)
def test_refusals(tmp_path, capsys, options, code, told):
    store, source = tmp_path / "s.zarr", SMALL.tar(tmp_path / "1.tar")
    vs.convert(source, store)
    before = sizes(store)
    assert main(["convert", str(source), str(store), *options]) == code
    assert told in capsys.readouterr().err
    assert sizes(store) == before


def test_a_name_that_is_given_is_refused_before_the_release_is_read(tmp_path):
    store = tmp_path / "s.zarr"
    vs.convert(SMALL.tar(tmp_path / "1.tar"), store)
    (tmp_path / "2.tar").write_bytes(b"no archive")
    with pytest.raises(vs.errors.ConflictError, match=r"s\.zarr: the store has a version '1\.0\.1' already"):
        vs.convert(tmp_path / "2.tar", store, mode="append", version="1.0.1")
    with pytest.raises(vs.errors.ArchiveError):
        vs.convert(tmp_path / "2.tar", store, mode="append", version="1.0.2")


def test_another_collection_is_refused(tmp_path, capsys):
    store = tmp_path / "s.zarr"
    vs.convert(SMALL.tar(tmp_path / "1.tar"), store)
    source = say(SMALL, "2", name="Airports").tar(tmp_path / "2.tar")
    assert main(["convert", str(source), str(store), "--append"]) == 2
    assert "the release is of 'Airports', the store of 'Harbours'" in capsys.readouterr().err
    assert main(["convert", str(source), str(store), "--append", "--name", "Harbours"]) == 0
    assert vs.open(store).name == "Harbours"


def test_a_store_is_needed(tmp_path, capsys):
    assert main(["convert", str(SMALL.tar(tmp_path / "1.tar")), str(tmp_path / "s.zarr"), "--append"]) == 5
    assert "there is no store" in capsys.readouterr().err
    assert not (tmp_path / "s.zarr").exists()


def test_a_release_that_fails_leaves_those_before_it(tmp_path):
    sources = [FIRST.tar(tmp_path / "1.tar"), tmp_path / "2.tar", say(FIRST, "1.0.3").tar(tmp_path / "3.tar")]
    sources[1].write_bytes(sources[0].read_bytes()[:5000])
    with pytest.raises(vs.errors.ArchiveError, match="1 of 3 releases are versions by now"):
        vs.convert(sources, tmp_path / "s.zarr")
    assert vs.open(tmp_path / "s.zarr").versions == ("1.0.1",)
    assert_store_ok(tmp_path / "s.zarr", FIRST)


def test_a_name_of_a_version_stays_on_its_line(tmp_path, capsys):
    vs.convert(make_release(1).tar_gz(tmp_path / "r.tar.gz"), tmp_path / "s.zarr", version="a\nb")
    assert main(["versions", str(tmp_path / "s.zarr")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(r"a\nb  ")
