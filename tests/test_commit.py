"""All or nothing: killed, full, raced for, or overwritten, a store is the old one or the new one."""

import hashlib
import os
import pickle
import subprocess
import sys
import threading
import time

import pytest

import vedastore as vs
from tests.builders import assert_store_ok, make_release
from vedastore.errors import ConflictError
from vedastore.io.objects import LocalObjects
from vedastore.spec import keys

CONVERT = "import sys, vedastore as vs; vs.convert(sys.argv[1], sys.argv[2])"


def everything_below(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_existing_store_is_a_conflict(tmp_path):
    source = make_release(2).tar_gz(tmp_path / "r.tar.gz")
    vs.convert(source, tmp_path / "r.zarr")
    before = everything_below(tmp_path / "r.zarr")
    with pytest.raises(ConflictError, match="there is a store already"):
        vs.convert(source, tmp_path / "r.zarr")
    assert everything_below(tmp_path / "r.zarr") == before


def test_other_files_are_never_touched(tmp_path):
    source = make_release(1).tar_gz(tmp_path / "r.tar.gz")
    (tmp_path / "mine" / "chips").mkdir(parents=True)
    (tmp_path / "mine" / "chips" / "thesis.txt").write_text("three years of work")
    before = everything_below(tmp_path)
    for target in (tmp_path / "mine", source):
        with pytest.raises(ConflictError):
            vs.convert(source, target)
        with pytest.raises(ConflictError):
            vs.convert(source, target, mode="overwrite")
    assert everything_below(tmp_path) == before


def test_an_empty_directory_may_become_a_store(tmp_path):
    (tmp_path / "r.zarr").mkdir()
    vs.convert(make_release(1).tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    assert_store_ok(tmp_path / "r.zarr")


def test_overwrite_publishes_at_once_and_leaves_readers_their_version(tmp_path):
    one, other = make_release(3, seed=1), make_release(5, seed=2)
    reader = vs.convert(one.tar_gz(tmp_path / "1.tar.gz"), tmp_path / "r.zarr")
    pixels = reader.to_xarray().image
    vs.convert(other.tar_gz(tmp_path / "2.tar.gz"), tmp_path / "r.zarr", mode="overwrite")
    assert (pixels.values == vs.convert(tmp_path / "1.tar.gz", tmp_path / "again.zarr").to_xarray().image).all()
    assert len(reader.samples) == 3
    collection = assert_store_ok(tmp_path / "r.zarr", other)
    (bucket,) = collection._snapshot.version.buckets
    assert bucket.startswith("uint8-3x32x40~")
    vs.convert(tmp_path / "1.tar.gz", tmp_path / "r.zarr", mode="overwrite")
    assert assert_store_ok(tmp_path / "r.zarr", one).version == "1.0.1"
    assert collection.verify(against=tmp_path / "2.tar.gz").ok
    assert [s.id for s in collection] == ["0", "1", "2", "3", "4"]


def test_of_two_overwrites_one_wins_whole(tmp_path):
    sources = [make_release(3, seed=n).tar_gz(tmp_path / f"{n}.tar.gz") for n in range(4)]
    vs.convert(sources[0], tmp_path / "r.zarr")
    script = "import sys, vedastore as vs; vs.convert(sys.argv[1], sys.argv[2], mode='overwrite')"
    processes = [
        subprocess.Popen([sys.executable, "-c", script, source, tmp_path / "r.zarr"], stderr=subprocess.PIPE)
        for source in sources[1:]
    ]
    errors = [p.communicate()[1].decode() for p in processes]
    won = [n for n, p in enumerate(processes, 1) if p.returncode == 0]
    assert won
    assert sum("ConflictError" in e for e in errors) == 3 - len(won)
    assert_store_ok(tmp_path / "r.zarr")
    assert any(vs.open(tmp_path / "r.zarr").verify(against=sources[n]).ok for n in won)


def test_a_failed_overwrite_leaves_the_store(tmp_path):
    release = make_release(3)
    vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    before = everything_below(tmp_path / "r.zarr")
    (tmp_path / "bad.tar.gz").write_bytes((tmp_path / "r.tar.gz").read_bytes()[:-4])
    with pytest.raises(vs.errors.ArchiveError):
        vs.convert(tmp_path / "bad.tar.gz", tmp_path / "r.zarr", mode="overwrite")
    assert everything_below(tmp_path / "r.zarr") == before
    assert_store_ok(tmp_path / "r.zarr", release)


@pytest.mark.parametrize("lands", [False, True])
def test_an_outcome_that_nobody_knows_leaves_the_place_as_it_is(tmp_path, monkeypatch, lands):
    """Ctrl-C in the swap, and no root can be read: it may be there or not, and both are whole."""
    source, store = make_release(3).tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr"
    swap, read = LocalObjects.swap, LocalObjects.read_tagged

    def interrupted(self, *arguments):
        if lands:
            swap(self, *arguments)
        patch.setattr(LocalObjects, "read_tagged", unreadable)
        raise KeyboardInterrupt

    def unreadable(self, key, most):
        if key == keys.ROOT:
            raise vs.errors.StoreError("no answer")
        return read(self, key, most)

    with monkeypatch.context() as patch:
        patch.setattr(LocalObjects, "swap", interrupted)
        with pytest.raises(KeyboardInterrupt):
            vs.convert(source, store)
    assert (store / keys.INCOMPLETE).exists()
    if not lands:
        vs.convert(source, store)
    assert vs.open(store).verify(against=source).ok


def test_a_refused_conversion_leaves_no_parents(tmp_path):
    (tmp_path / "bad.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(vs.errors.ArchiveError):
        vs.convert(tmp_path / "bad.tar.gz", tmp_path / "a" / "b" / "r.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.tar.gz"]


def test_a_store_never_lies_in_its_source(tmp_path):
    folder = make_release(2).directory(tmp_path)
    before = everything_below(folder)
    for target in (folder, folder / "r.zarr", folder / "images" / "r.zarr"):
        with pytest.raises(vs.errors.UsageError, match="lies in the release"):
            vs.convert(folder, target)
    assert everything_below(folder) == before
    collection = vs.convert(folder, tmp_path / "r.zarr")
    with pytest.raises(vs.errors.UsageError, match="lies in the store"):
        collection.export(tmp_path / "r.zarr" / "x.tar")


def test_interrupted(tmp_path):
    fifo = tmp_path / "slow"
    folder = make_release(2).directory(tmp_path / "x")
    os.mkfifo(fifo)
    source = tmp_path / "r.tar"
    source.write_bytes(make_release(2).tar_bytes())
    script = "import sys, time, vedastore.ops.roll as r\nr.read_image = lambda *a: time.sleep(60)\n" + CONVERT
    process = subprocess.Popen([sys.executable, "-c", script, source, tmp_path / "r.zarr"], stderr=subprocess.PIPE)
    while not (tmp_path / "r.zarr" / ".vedastore-incomplete").exists():
        time.sleep(0.01)
        assert process.poll() is None, process.stderr.read()
    with pytest.raises(ConflictError, match="another writer"):
        vs.convert(folder, tmp_path / "r.zarr")
    process.kill()
    process.communicate()
    vs.convert(folder, tmp_path / "r.zarr")
    assert_store_ok(tmp_path / "r.zarr")


def test_only_one_of_many_creates(tmp_path):
    source = make_release(3).tar_gz(tmp_path / "r.tar.gz")
    command = [sys.executable, "-c", CONVERT, source, tmp_path / "r.zarr"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    errors = [p.communicate()[1].decode() for p in processes]
    assert [p.returncode for p in processes].count(0) == 1
    assert sum("ConflictError" in e for e in errors) == 3
    assert_store_ok(tmp_path / "r.zarr")


def test_only_one_of_many_swaps(tmp_path):
    objects = LocalObjects(tmp_path)
    won = []

    def swap(number):
        try:
            objects.swap("zarr.json", b"%d" % number, None)
        except ConflictError:
            return
        won.append(number)

    threads = [threading.Thread(target=swap, args=(n,)) for n in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(won) == 1
    assert (tmp_path / "zarr.json").read_bytes() == b"%d" % won[0]
    assert [p.name for p in tmp_path.iterdir()] == ["zarr.json"]


def test_a_root_is_read_whole_while_others_take_its_place(tmp_path):
    objects, documents = LocalObjects(tmp_path), [b"short", b"l" * 2**16]
    objects.replace("zarr.json", documents[0])
    done = threading.Event()

    def swap():
        try:
            for turn in range(1000):
                objects.replace("zarr.json", documents[turn % 2])
        finally:
            done.set()

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = set()
    while not done.is_set():
        seen.add(objects.read_tagged("zarr.json", 2**20))
    swapper.join()
    assert seen == {(document, hashlib.sha256(document).hexdigest()) for document in documents}


def test_collections_pickle(tmp_path):
    collection = vs.convert(make_release(3).tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    copy = pickle.loads(pickle.dumps(collection[1:]))
    assert [s.id for s in copy] == ["1", "2"]
    assert (copy[0].image == collection[1].image).all()


def test_an_overwrite_follows_no_link_out_of_the_store(tmp_path):
    source = make_release(2).tar_gz(tmp_path / "r.tar.gz")
    vs.convert(source, tmp_path / "r.zarr")
    mine = tmp_path / "mine.txt"
    mine.write_text("keep me")
    link = tmp_path / "r.zarr" / "chips" / "zarr.json"
    link.unlink()
    link.symlink_to(mine)
    vs.convert(source, tmp_path / "r.zarr", mode="overwrite")
    assert mine.read_text() == "keep me"
    assert not link.is_symlink()
    assert vs.open(tmp_path / "r.zarr").verify().ok
