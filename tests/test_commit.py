"""All or nothing: killed, full, raced for, or overwritten, a store is the old one or the new one."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

import vedastore as vs
from tests.builders import assert_store_ok, make_release
from vedastore.errors import ConflictError, StoreError
from vedastore.io.objects import LocalObjects

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
    (bucket,) = set(collection.samples["bucket"])
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


@pytest.mark.parametrize("objects", range(1, 8))
def test_killed_after_any_object(tmp_path, objects):
    """SIGKILL when so many objects have been written; then nothing is visible, and a retry succeeds."""
    release = make_release(4)
    source = release.tar_gz(tmp_path / "r.tar.gz")
    script = f"""
import os, signal, sys, vedastore as vs
from vedastore.io.objects import LocalObjects
write, swap, count = LocalObjects.write, LocalObjects.swap, 0
def counted(operation):
    def call(*arguments):
        global count
        count += 1
        if count == {objects}:
            os.kill(os.getpid(), signal.SIGKILL)
        return operation(*arguments)
    return call
LocalObjects.write, LocalObjects.swap = counted(write), counted(swap)
vs.convert(sys.argv[1], sys.argv[2])
"""
    done = subprocess.run([sys.executable, "-c", script, source, tmp_path / "r.zarr"], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (tmp_path / "r.zarr" / "zarr.json").exists()
    with pytest.raises(StoreError, match="has not finished"):
        vs.open(tmp_path / "r.zarr")
    vs.convert(source, tmp_path / "r.zarr")
    assert_store_ok(tmp_path / "r.zarr", release)


SIGNAL_AFTER_RENAME = """
import os, pathlib, signal, sys, vedastore as vs
from vedastore.cli import main
replace = pathlib.Path.replace
def renamed(path, target):
    replace(path, target)
    os.kill(os.getpid(), signal.SIGINT)
pathlib.Path.replace = renamed
sys.exit(main(["convert", sys.argv[1], sys.argv[2], *sys.argv[3:]]))
"""


@pytest.mark.parametrize("option", [[], ["--overwrite"]], ids=str)
def test_interrupted_after_the_commit(tmp_path, option):
    """The new version is there, whole: what landed is never taken back."""
    first, release = make_release(2, seed=1), make_release(3, seed=2)
    if option:
        vs.convert(first.tar_gz(tmp_path / "1.tar.gz"), tmp_path / "r.zarr")
    source = release.tar_gz(tmp_path / "r.tar.gz")
    command = [sys.executable, "-c", SIGNAL_AFTER_RENAME, source, tmp_path / "r.zarr", *option]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert vs.open(tmp_path / "r.zarr").verify(against=source).ok


def test_killed_between_draft_and_rename(tmp_path):
    release = make_release(2)
    source = release.tar_gz(tmp_path / "r.tar.gz")
    script = f"import os, pathlib\npathlib.Path.replace = lambda *a: os.kill(os.getpid(), 9)\n{CONVERT}"
    done = subprocess.run([sys.executable, "-c", script, source, tmp_path / "r.zarr"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [p.name for p in (tmp_path / "r.zarr").glob(".zarr.json.*")]
    vs.convert(source, tmp_path / "r.zarr")
    assert_store_ok(tmp_path / "r.zarr", release)


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


def limited(command, file_bytes):
    """Run a command that may write no file larger than this: what a full disk is to a program."""
    import resource

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    return subprocess.run(command, check=False, capture_output=True, preexec_fn=limit)


@pytest.mark.parametrize("file_bytes", [1, 2_000, 20_000])
def test_a_full_disk_leaves_nothing(tmp_path, file_bytes):
    source = make_release(20).tar_gz(tmp_path / "r.tar.gz")
    done = limited([sys.executable, "-m", "vedastore.cli", "convert", source, tmp_path / "r.zarr"], file_bytes)
    assert done.returncode == 5, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert not (tmp_path / "r.zarr").exists()


def test_a_full_disk_leaves_no_export(tmp_path):
    vs.convert(make_release(20).tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    done = limited(
        [sys.executable, "-m", "vedastore.cli", "export", tmp_path / "r.zarr", tmp_path / "b.tar.gz"], 20_000
    )
    assert done.returncode == 5, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.tar.gz", "r.zarr"]


def test_durable_before_visible(tmp_path):
    """Every file is synced, and every directory, before the root is renamed into place; the root's directory after."""
    source = make_release(2).tar_gz(tmp_path / "r.tar.gz")
    script = f"""
import os, re, sys, pathlib
events = []
def name(descriptor):
    return re.sub(r"/[.]([^/]+)[.][0-9a-f]{{32}}$", r"/\\1", os.readlink(f"/proc/self/fd/{{descriptor}}"))
fsync, replace = os.fsync, pathlib.Path.replace
os.fsync = lambda d: (events.append(("sync", name(d))), fsync(d))[1]
pathlib.Path.replace = lambda s, t: (events.append(("rename", str(t))), replace(s, t))[1]
{CONVERT}
for event in events:
    print(*event)
"""
    command = [sys.executable, "-c", script, source, tmp_path / "r.zarr"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    events = [tuple(line.split(maxsplit=1)) for line in done.stdout.splitlines()]
    rename = events.index(("rename", str(tmp_path / "r.zarr" / "zarr.json")))
    before = {path for kind, path in events[:rename] if kind == "sync"}
    root = tmp_path / "r.zarr"
    files = {str(p) for p in root.rglob("*") if p.is_file() and p != root / "zarr.json"}
    folders = {str(p) for p in root.rglob("*") if p.is_dir()}
    assert files | folders | {str(tmp_path), str(root)} <= before
    assert ("sync", str(root)) in events[rename:]


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
    assert vs.open(tmp_path / "r.zarr")[0].id == "0"
