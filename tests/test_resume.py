"""A first conversion that is killed goes on where it was: what it stored is proved, and not made again."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

import vedastore as vs
from tests.builders import assert_store_ok, geotiff, make_release, pixels_of
from vedastore.cli import main
from vedastore.io.objects import LocalObjects
from vedastore.ops import roll
from vedastore.ops.convert import convert
from vedastore.ops.options import ConvertOptions
from vedastore.spec import arrays, keys

SAMPLES, PER_SHARD = 22, 4
KILLED = f"""
import os, sys, vedastore as vs
from vedastore.io.objects import LocalObjects
from vedastore.spec import arrays
arrays.SHARD_TARGET_BYTES = {PER_SHARD * 3 * 32 * 40}
write, swap, count, at = LocalObjects.write, LocalObjects.swap, 0, int(sys.argv[3])
def counted(operation):
    def call(*arguments):
        global count
        count += 1
        if count == at:
            os.kill(os.getpid(), 9)
        return operation(*arguments)
    return call
LocalObjects.write, LocalObjects.swap = counted(write), counted(swap)
vs.convert(sys.argv[1], sys.argv[2])
"""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    arrays._spec_of.cache_clear()
    monkeypatch.setattr(arrays, "SHARD_TARGET_BYTES", PER_SHARD * 3 * 32 * 40)
    yield
    arrays._spec_of.cache_clear()


@pytest.fixture
def work(monkeypatch):
    """The keys that are written, and the images that are decoded."""
    written, decoded = [], []
    write, read = LocalObjects.write, roll.read_image
    monkeypatch.setattr(LocalObjects, "write", lambda self, key, p: (written.append(key), write(self, key, p))[1])
    monkeypatch.setattr(roll, "read_image", lambda m, *more: (decoded.append(m.name), read(m, *more))[1])
    return written, decoded


def kill(source, store, at):
    done = subprocess.run([sys.executable, "-c", KILLED, source, store, str(at)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def shards_of(store):
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("c/*/0/0/0")}


def assert_clean(store, release):
    """Nothing is left but the store, whole."""
    collection = assert_store_ok(store, release)
    report = vs.clean(store, grace_days=0, dry_run=True)
    assert (report.removed, report.waiting, report.foreign) == (0, 0, 0)
    return collection


@pytest.fixture(scope="module")
def release():
    return make_release(SAMPLES)


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory, release):
    """A release, and what a conversion left that was killed after four shards."""
    folder = tmp_path_factory.mktemp("killed")
    kill(release.tar_gz(folder / "r.tar.gz"), folder / "r.zarr", 10)
    return folder / "r.tar.gz", folder / "r.zarr"


@pytest.fixture
def source(killed_once, tmp_path):
    """That release; `tmp_path` has a copy of what was left."""
    shutil.copytree(killed_once[1], tmp_path / "r.zarr")
    return killed_once[0]


@pytest.mark.parametrize("at", [pytest.param(at, marks=pytest.mark.slow) for at in (2, 7, 14)] + [19])
def test_killed_and_gone_on(tmp_path, release, work, at):
    """After so many objects; the shards that were noted down are read, and neither made nor written again."""
    written, decoded = work
    source = release.tar_gz(tmp_path / "r.tar.gz")
    kill(source, tmp_path / "r.zarr", at)
    noted = len([*(tmp_path / "r.zarr").glob("index/*/shard-*.json")])
    there = {p: p.stat().st_mtime_ns for p in (tmp_path / "r.zarr").rglob("c/*/0/0/0")}
    report = convert(source, tmp_path / "r.zarr", ConvertOptions())
    taken = min(noted * PER_SHARD, SAMPLES)
    assert report.resumed == taken
    assert len(decoded) == SAMPLES - taken
    assert sum(keys.parse_shard(key) is not None for key in written) == 6 - noted
    assert sum(p.stat().st_mtime_ns == before for p, before in there.items()) >= noted
    collection = assert_clean(tmp_path / "r.zarr", release)
    again = convert(source, tmp_path / "whole.zarr", ConvertOptions())
    assert report.version.content == again.version.content
    assert shards_of(tmp_path / "r.zarr") == shards_of(tmp_path / "whole.zarr")
    for name in ("r", "whole"):
        vs.open(tmp_path / f"{name}.zarr").export(tmp_path / f"{name}-back.tar.gz")
    assert (tmp_path / "r-back.tar.gz").read_bytes() == (tmp_path / "whole-back.tar.gz").read_bytes()
    assert len(collection) == SAMPLES


@pytest.mark.slow
def test_killed_again_and_again(tmp_path, release):
    """Each time after six objects more: it ends all the same."""
    source = release.tar_gz(tmp_path / "r.tar.gz")
    noted = [0]
    for _ in range(3):
        kill(source, tmp_path / "r.zarr", 6)
        noted.append(len([*(tmp_path / "r.zarr").glob("index/*/shard-*.json")]))
    assert noted == sorted({*noted})
    assert convert(source, tmp_path / "r.zarr", ConvertOptions()).resumed == min(SAMPLES, PER_SHARD * noted[-1])
    assert_clean(tmp_path / "r.zarr", release)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["chunk", "index", "cut", "absent", "more", "document"])
def test_what_is_damaged_is_made_again(tmp_path, source, work, damage):
    """Of the first shard one chip, all chips, or none are taken over; the store has no trace of it."""
    written, _ = work
    (shard,) = (tmp_path / "r.zarr").rglob("c/0/0/0/0")
    taken = {"chunk": 15, "index": 16, "cut": 16, "absent": 12, "more": 16, "document": 0}[damage]
    match damage:
        case "chunk":
            flip(shard, 100)
        case "index":
            flip(shard, -6)
        case "cut":
            shard.write_bytes(shard.read_bytes()[:-1])
        case "absent":
            shard.unlink()
        case "more":
            shard.write_bytes(shard.read_bytes() + b"x")
        case "document":
            (document,) = (tmp_path / "r.zarr").glob("index/*/shard-0.json")
            flip(document, 300)
            taken = 12
    assert convert(source, tmp_path / "r.zarr", ConvertOptions()).resumed == taken
    assert next(key for key in written if keys.parse_shard(key)).endswith("c/0/0/0/0")
    assert vs.open(tmp_path / "r.zarr").verify(against=source).ok


def forge(store, change):
    """Change what a document says, with a checksum that fits."""
    for path in store.glob("index/*/shard-*.json"):
        told = json.loads(path.read_bytes().partition(b"\n")[2])
        change(told)
        body = json.dumps(told).encode()
        path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.clear(),
        lambda told: told.update(shard="../../secret"),
        lambda told: told.update(shard="chips/../image/c/0/0/0/0"),
        lambda told: told.update(images=[None, 3]),
        lambda told: told.update(places=[[-1, *rest] for _, *rest in told["places"]]),
        lambda told: told.update(places=[[2**70, *rest] for _, *rest in told["places"]]),
        lambda told: told.update(places=[[start, [2**50]] for start, _ in told["places"]]),
        lambda told: [image.update(height=2**40) for image in told["images"]],
        lambda told: [image.update(height=16) for image in told["images"]],
        lambda told: [image.update(look="odd") for image in told["images"]],
        lambda told: [image.update(transform="0102") for image in told["images"]],
        lambda told: [image.update(pixel_digest="AAAA") for image in told["images"]],
        lambda told: [image.update(more=1) for image in told["images"]],
        lambda told: [image.update(member="\ud800") for image in told["images"]],
        lambda told: told.update(shard="\ud800"),
        lambda told: [image.update(id="\ud800") for image in told["images"]],
        lambda told: [image.update(id=f"x{image['id']}") for image in told["images"]],
        lambda told: [image.update(pages=2**70) for image in told["images"]],
        lambda told: [image.update(crs=[]) for image in told["images"]],
        lambda told: [image.update(nodata="\ud800") for image in told["images"]],
    ],
)
def test_forged_documents_are_of_no_use(tmp_path, source, change):
    forge(tmp_path / "r.zarr", change)
    assert convert(source, tmp_path / "r.zarr", ConvertOptions()).resumed == 0
    assert vs.open(tmp_path / "r.zarr").verify(against=source).ok


def test_a_shard_of_which_there_is_much_to_tell_is_not_noted_down(tmp_path, work):
    release = make_release(PER_SHARD)
    release.members |= {n: d + os.urandom(3 << 20) for n, d in release.members.items() if n.endswith(".tif")}
    vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    assert_store_ok(tmp_path / "r.zarr", release)
    written, _ = work
    assert sum(keys.parse_shard(key) is not None for key in written) == 1
    assert not [key for key in written if "/shard-" in key]


@pytest.mark.parametrize("changed", ["options", "source", "time"])
def test_another_conversion_begins_anew(tmp_path, source, changed):
    """With other options, or of another source: what was there is cleared."""
    options, status = ConvertOptions(name="Piers" if changed == "options" else None), source.stat()
    if changed == "source":
        source = make_release(3, seed=9).tar_gz(tmp_path / "r.tar.gz")
    if changed == "time":
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert convert(source, tmp_path / "r.zarr", options).resumed == 0
    assert vs.open(tmp_path / "r.zarr").verify(against=source).ok
    assert vs.clean(tmp_path / "r.zarr", grace_days=0, dry_run=True).removed == 0
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.slow
def test_a_directory_goes_on_with_the_files_that_are_the_same(tmp_path, release):
    folder = release.directory(tmp_path / "x")
    kill(folder, tmp_path / "r.zarr", 10)
    noted = len([*(tmp_path / "r.zarr").glob("index/*/shard-*.json")])
    (folder / "images" / "0.tif").write_bytes(geotiff(pixels_of(seed=77)))
    assert convert(folder, tmp_path / "r.zarr", ConvertOptions()).resumed == noted * PER_SHARD - 1
    assert vs.open(tmp_path / "r.zarr").verify(against=folder).ok


def test_a_refusal_leaves_nothing_to_go_on_with(tmp_path, source):
    status = source.stat()
    data = source.read_bytes()
    source.write_bytes(data[:-8] + bytes(8))  # the same size and time: the checksum in it tells
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(vs.errors.ArchiveError):
        vs.convert(source, tmp_path / "r.zarr")
    source.write_bytes(data)
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not [*(tmp_path / "r.zarr").iterdir()]


def test_the_command_line_tells_it(tmp_path, source, capsys):
    assert main(["convert", str(source), str(tmp_path / "r.zarr"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resumed"] == 4 * PER_SHARD
