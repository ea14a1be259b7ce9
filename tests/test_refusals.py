"""A bad release is refused by name: exit code 3, no store, the source as it was."""

import gzip
import hashlib
import json
import os
import subprocess
import sys

import pytest

import vedastore as vs
from tests.builders import Release, assert_store_ok, geotiff, make_release, pixels_of, plain_tiff
from vedastore.errors import ArchiveError, ImageError, LabelError, PairError, ReleaseError, UsageError
from vedastore.io.file_digest import FileDigest
from vedastore.ops.decisions import Refusals
from vedastore.ops.options import ConvertOptions
from vedastore.ops.roll import Roll
from vedastore.store.ledger import Ledger


def refuse(source, store, error, match, **options):
    before = hashlib.sha256(source.read_bytes()).digest()
    with pytest.raises(error, match=match) as caught:
        vs.convert(source, store, **options)
    assert caught.value.exit_code in {2, 3}
    assert not store.exists()
    assert not [p for p in store.parent.iterdir() if p != source]
    assert hashlib.sha256(source.read_bytes()).digest() == before
    return caught.value


def test_cut_at_every_block(tmp_path):
    whole = make_release(1, shape=(1, 16, 16)).tar_gz(tmp_path / "whole.tar.gz").read_bytes()
    source = tmp_path / "sub" / "cut.tar.gz"
    source.parent.mkdir()
    for end in [*range(0, len(whole), 512), len(whole) - 1, len(whole) - 8, len(whole) - 9]:
        source.write_bytes(whole[:end])
        refuse(source, source.parent / "r.zarr", ArchiveError, "early|cut|empty|neither|whole")


def test_a_plain_tar_cut_before_its_end_marker(tmp_path):
    whole = make_release(1, shape=(1, 16, 16)).tar_bytes()
    end_marker = len(whole.rstrip(b"\0"))
    source = tmp_path / "cut.tar"
    for end in range(0, end_marker + 512, 512):
        source.write_bytes(whole[:end])
        refuse(source, tmp_path / "r.zarr", ArchiveError, None)


@pytest.mark.parametrize("place", [-8, -4, -1, 30])
def test_a_flipped_bit_in_the_gzip(tmp_path, place):
    data = bytearray(make_release(2).tar_gz(tmp_path / "r.tar.gz").read_bytes())
    data[place] ^= 1
    (tmp_path / "r.tar.gz").write_bytes(data)
    refuse(tmp_path / "r.tar.gz", tmp_path / "r.zarr", ReleaseError, None)


def test_a_second_archive_behind_the_first(tmp_path):
    one = make_release(1).tar_bytes()
    (tmp_path / "r.tar.gz").write_bytes(gzip.compress(one) + gzip.compress(one))
    refuse(tmp_path / "r.tar.gz", tmp_path / "r.zarr", ArchiveError, None)


def test_neither_archive_nor_directory(tmp_path):
    (tmp_path / "r.tar.gz").write_bytes(b"PK\x03\x04 this is a zip" * 100)
    refuse(tmp_path / "r.tar.gz", tmp_path / "r.zarr", ArchiveError, "neither a gzip nor a tar")


def changed(release, changes):
    """The release with members replaced, added, or (None) left out."""
    members = {n: d for n, d in (release.members | changes).items() if d is not None}
    return Release(members, release.top)


LABEL = b'{"type": "Feature", "geometry": {}, "properties": {"label": {"car": []}}}'
TOP = "ts_104-1.0.1"


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({f"{TOP}/labels/1.json": None}, PairError, "sample '1' has no label"),
        ({f"{TOP}/images/1.tif": None}, PairError, "sample '1' has no image"),
        ({f"{TOP}/images/1.tiff": plain_tiff(pixels_of())}, PairError, "the id '1' has two files"),
        ({f"{TOP}/labels/1.geojson": LABEL}, PairError, "the id '1' has two files"),
        ({"other/images/7.tif": plain_tiff(pixels_of()), "other/labels/7.json": LABEL}, PairError, "two releases"),
        ({f"{TOP}/images/1.tif": b"not a TIFF"}, ImageError, "images/1.tif"),
        ({f"{TOP}/images/1.tif": b"<VRTDataset/>"}, ImageError, "images/1.tif"),
        ({f"{TOP}/images/1.tif": geotiff(pixels_of())[:-100]}, ImageError, "images/1.tif"),
        ({f"{TOP}/labels/1.json": b"{"}, LabelError, "labels/1.json.*not JSON"),
        ({f"{TOP}/labels/1.json": b'{"properties": {}}'}, LabelError, "there is no label"),
        ({f"{TOP}/labels/1.json": LABEL.replace(b"[]", b"NaN")}, LabelError, "NaN"),
        ({f"{TOP}/labels/1.json": LABEL.replace(b"[]", b"1")}, LabelError, "the task is segmentation"),
        ({f"{TOP}/labels/1.json": LABEL.replace(b"[]", b"[[0, 0, 1]]")}, LabelError, "three|3 numbers"),
        ({f"{TOP}/bounds.geojson": b"{}", f"./{TOP}/bounds.geojson": b"{}"}, PairError, "there are two"),
        ({f"{TOP}/meta.json": None, f"{TOP}/labels/1.json": LABEL.replace(b"[]", b"1")}, ReleaseError, "0/1 values"),
        ({f"{TOP}/meta.json": b"[]"}, ReleaseError, "meta.json"),
        ({f"{TOP}/meta.json": b'{"mlType": "regression"}'}, ReleaseError, "none of classification"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_bad_members(tmp_path, changes, error, match):
    source = changed(make_release(3), changes).tar_gz(tmp_path / "r.tar.gz")
    refused = refuse(source, tmp_path / "r.zarr", error, match)
    assert "r.tar.gz" in str(refused)


def test_no_sample_at_all(tmp_path):
    source = Release({"ts/meta.json": b'{"mlType": "segmentation"}'}).tar_gz(tmp_path / "r.tar.gz")
    refuse(source, tmp_path / "r.zarr", PairError, "no sample")


def test_a_task_that_is_given_goes_before_an_unknown_one(tmp_path):
    release = changed(make_release(2), {f"{TOP}/meta.json": b'{"mlType": "instance"}'})
    source = release.tar_gz(tmp_path / "r.tar.gz")
    refuse(source, tmp_path / "r.zarr", ReleaseError, "none of classification")
    assert vs.convert(source, tmp_path / "r.zarr", task="segmentation").task == "segmentation"


@pytest.mark.parametrize("place", ["", "gs://bucket/x"])
def test_places_that_are_none(tmp_path, place):
    source = make_release(1).tar_gz(tmp_path / "r.tar.gz")
    collection = vs.convert(source, tmp_path / "r.zarr")
    for call in (lambda: vs.convert(place, tmp_path / "x.zarr"), lambda: vs.convert(source, place),
                 lambda: vs.open(place), lambda: collection.export(f"{place}/x.tar" if place else "")):  # fmt: skip
        with pytest.raises(UsageError):
            call()
    with pytest.raises(ArchiveError, match="neither a regular file"):
        vs.convert("/dev/zero", tmp_path / "x.zarr")


def test_a_meta_json_elsewhere_is_no_meta_json(tmp_path):
    stray = {f"{TOP}/images/meta.json": b"[]", "images/meta.json": b"[]", "docs/bounds.geojson": b"{}"}
    release = changed(make_release(2), stray)
    collection = vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    assert_store_ok(tmp_path / "r.zarr", release)
    assert collection.meta["name"] == "Harbours"
    assert collection.verify(against=tmp_path / "r.tar.gz").ok


def test_mixed_coordinates(tmp_path):
    one, other = make_release(3, coords="pixel"), make_release(3, coords="geographic")
    mixed = changed(one, {n: d for n, d in other.members.items() if n.endswith("labels/1.json")})
    source = mixed.tar_gz(tmp_path / "r.tar.gz")
    refused = refuse(source, tmp_path / "r.zarr", ReleaseError, r"degrees in others.*degrees: 1 sample \(1\)")
    assert "label_coords" in refused.hint
    assert len(vs.convert(source, tmp_path / "r.zarr", label_coords="pixel")) == 3


@pytest.mark.parametrize("option", [{"mode": "add"}, {"on_error": "ignore"}, {"task": "x"}, {"workers": 0}], ids=str)
def test_options_that_make_no_sense(tmp_path, option):
    source = make_release(1).tar_gz(tmp_path / "r.tar.gz")
    refuse(source, tmp_path / "r.zarr", UsageError, None, **option)


def test_skip_leaves_bad_samples_out_and_lists_them(tmp_path):
    changes = {
        f"{TOP}/images/1.tif": b"not a TIFF",
        f"{TOP}/labels/2.json": b"{",
        f"{TOP}/labels/4.json": None,
        f"{TOP}/labels/5.json": LABEL.replace(b"[]", b"1"),
        f"{TOP}/labels/9.json": LABEL,
        f"{TOP}/images/6.tiff": plain_tiff(pixels_of()),
    }
    release = changed(make_release(8), changes)
    source = release.tar_gz(tmp_path / "r.tar.gz")
    collection = vs.convert(source, tmp_path / "r.zarr", on_error="skip")
    assert_store_ok(tmp_path / "r.zarr")
    assert list(collection.samples["id"]) == ["0", "3", "7"]
    version = json.loads((tmp_path / "r.zarr" / "zarr.json").read_bytes())["attributes"]["vedastore"]["versions"][0]
    assert [s["id"] for s in version["skipped"]] == ["1", "2", "4", "5", "6", "9"]
    skipped = [m for s in version["skipped"] for m in s["members"]]
    stored = [*collection.samples["image_member"], *collection.samples["label_member"]]
    given = [n for n in release.members if "/images/" in n or "/labels/" in n]
    assert sorted(skipped + stored) == sorted(given)
    assert all(s["reason"] for s in version["skipped"])
    images = collection.to_xarray().image
    assert (images[1].values == pixels_of(seed=3)).all()


def test_a_plain_tar_cut_in_a_large_member(tmp_path):
    whole = make_release(2, shape=(1, 256, 256)).tar_bytes()
    source = tmp_path / "cut.tar"
    for end in range(1024, len(whole.rstrip(b"\0")), 16_000):
        source.write_bytes(whole[:end])
        refuse(source, tmp_path / "r.zarr", ArchiveError, "cut short")


@pytest.mark.parametrize("to", ["grow", "shrink", "touch"])
def test_an_archive_that_changes_while_it_is_read(tmp_path, to):
    source = make_release(40, shape=(1, 256, 256)).tar(tmp_path / "r.tar")
    size = source.stat().st_size
    calls = []

    def change(done, total):
        calls.append((done, total))
        if len(calls) == 20:
            if to == "touch":
                os.utime(source, (1, 1))
            else:
                os.truncate(source, size + 512 if to == "grow" else size - 200_000)

    with pytest.raises(ArchiveError, match=r"changed while it was read|cut short"):
        vs.convert(source, tmp_path / "r.zarr", progress=change)
    assert not (tmp_path / "r.zarr").exists()
    done = [done for done, _ in calls]
    assert done == sorted(done)
    assert {total for _, total in calls} == {size}


def test_large_members_of_a_plain_tar_are_hashed_and_told(tmp_path):
    release = make_release(90, shape=(3, 256, 256))
    source = release.tar(tmp_path / "r.tar")
    calls = []
    collection = vs.convert(source, tmp_path / "r.zarr", progress=lambda *told: calls.append(told))
    assert_store_ok(tmp_path / "r.zarr", release)
    assert collection._snapshot.version.source["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert calls[-1] == (source.stat().st_size, source.stat().st_size)


@pytest.mark.parametrize("restored", [False, True])
def test_members_are_those_that_were_hashed(tmp_path, monkeypatch, restored):
    """The archive changes once it is hashed and before workers read; whether its time is put back or not."""
    source = make_release(6, shape=(1, 256, 256)).tar(tmp_path / "r.tar")
    complete = FileDigest.complete

    def complete_and_change(digest):
        complete(digest)
        status = source.stat()
        with source.open("r+b") as file:
            file.seek(status.st_size // 2)
            file.write(bytes(64))
        if restored:
            os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))

    monkeypatch.setattr(FileDigest, "complete", complete_and_change)
    with pytest.raises(ArchiveError, match="the archive changed while it was read"):
        vs.convert(source, tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()


def test_skip_never_takes_a_bad_archive(tmp_path):
    data = make_release(2).tar_gz(tmp_path / "r.tar.gz").read_bytes()
    (tmp_path / "r.tar.gz").write_bytes(data[:-3])
    refuse(tmp_path / "r.tar.gz", tmp_path / "r.zarr", ArchiveError, None, on_error="skip")


@pytest.mark.parametrize("command", ["convert", "validate"])
def test_no_room_for_temporary_files(tmp_path, command):
    """A limit on the size of files stands for a full disk."""
    release = make_release(2)
    release.members["README"] = bytes(40 << 20)
    source = release.tar_gz(tmp_path / "r.tar.gz")
    code = """if True:
        import resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))
        from vedastore.cli import main
        sys.exit(main(sys.argv[1:]))
    """
    given = [command, source, *([tmp_path / "r.zarr"] if command == "convert" else [])]
    done = subprocess.run([sys.executable, "-c", code, *given], check=False, capture_output=True, text=True)
    assert done.returncode == 5, done.stderr
    assert done.stderr.count("\n") == 1
    assert "a temporary file cannot be used" in done.stderr
    assert not (tmp_path / "r.zarr").exists()


def test_two_releases_are_told_apart_however_their_folders_are_written(tmp_path):
    """A stranger may write the name of a folder in as many ways as there are files: few are remembered."""
    release = make_release(12)
    spelt = {"./" * number + name: data for number, (name, data) in enumerate(release.members.items())}
    source = Release(spelt).tar(tmp_path / "r.tar")
    with Ledger() as ledger:
        roll = Roll(ledger, ConvertOptions(), "r.tar", Refusals())
        for name in spelt:
            roll._check_top(name)
        assert len(roll._folders) <= 8
    assert len(vs.convert(source, tmp_path / "r.zarr")) == 12
    assert_store_ok(tmp_path / "r.zarr")
    more = tmp_path / "more"
    more.mkdir()
    others = make_release(13, top="other").members
    last = {name: others[name] for name in ("other/images/12.tif", "other/labels/12.json")}
    refuse(Release(spelt | last).tar(more / "r.tar"), more / "r.zarr", PairError, "two releases")
