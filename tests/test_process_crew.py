"""Conversions by processes of this machine: the same bytes as by one thread, the same refusals, nothing left behind."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vedastore as vs
from tests.builders import assert_store_ok, geotiff, make_release, objects_of, pixels_of, read_tiff
from vedastore.errors import ImageError
from vedastore.io.peers import Peer
from vedastore.io.processes import not_started
from vedastore.ops import convert as ops
from vedastore.ops import process_crew
from vedastore.ops.convert import BATCH_BYTES
from vedastore.ops.intake import Intake
from vedastore.ops.options import ConvertOptions
from vedastore.ops.process_crew import WORTH_BYTES, Processes

WORTH_READING = 16 * 2**10


@pytest.fixture
def batches(monkeypatch):
    """Processes from the first batch on; the batches that they were given."""
    found, submit = [], Peer.submit
    monkeypatch.setattr(process_crew, "WORTH_BYTES", 0)
    monkeypatch.setattr(Peer, "is_ready", True)  # who is not yet there finds its calls later
    monkeypatch.setattr(Peer, "submit", lambda self, *told: (found.append(told[0]), submit(self, *told))[1])
    return found


def convert(source, store, **options):
    return vs.convert(source, store, **{"workers": 2} | options)


def make_mixed(shapes):
    """Most are not read from a plain archive before they are needed."""
    release = make_release(len(shapes), task="object_detection")
    images = [name for name in release.members if name.endswith(".tif")]
    for number, (name, shape) in enumerate(zip(images, shapes, strict=True)):
        release.members[name] = geotiff(pixels_of(shape, seed=number))
    return release


@pytest.fixture
def release():
    return make_mixed([(3, 96, 96)] * 24)


@pytest.mark.usefixtures("small_shards", "one_write_id")
@pytest.mark.parametrize(("kind", "slots"), [("directory", 0), ("tar", 3), ("directory", 96)])
@pytest.mark.parametrize("shapes", [[(3, 96, 96)], [(3, 96, 96), (1, 150, 150), (2, 8, 8)]], ids=["one shape", "three"])
def test_the_same_bytes_as_by_one_thread(tmp_path, batches, monkeypatch, *, kind, shapes, slots):
    """Whether there is shared memory for the chunks of all batches, of some, or of none."""
    release = make_mixed(shapes * (24 // len(shapes)))
    source = release.pack(kind, tmp_path)
    convert(source, tmp_path / "thread.zarr", workers=1)
    assert not batches
    monkeypatch.setattr(process_crew, "_SLOTS", slots or 1)
    if not slots:
        monkeypatch.setattr(process_crew, "_SLOT_BYTES", 1)  # nothing fits
    convert(source, tmp_path / "processes.zarr")
    assert len(batches) > 5
    assert objects_of(tmp_path / "processes.zarr") == objects_of(tmp_path / "thread.zarr")
    assert_store_ok(tmp_path / "processes.zarr")


@pytest.mark.usefixtures("small_shards", "one_write_id")
def test_chunks_that_are_spilled_come_back(tmp_path, batches, monkeypatch, release):
    """Their memory is used again at once: three slots are enough for any release."""
    source = release.directory(tmp_path / "extracted")
    convert(source, tmp_path / "thread.zarr", workers=1)
    monkeypatch.setattr(process_crew, "_SLOTS", 3)
    monkeypatch.setattr(Processes, "drafts_bytes", 1)
    convert(source, tmp_path / "processes.zarr")
    assert batches
    assert objects_of(tmp_path / "processes.zarr") == objects_of(tmp_path / "thread.zarr")


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([(3, 96, 96), (1, 150, 150), (2, 8, 8)]), min_size=1, max_size=20), st.integers(1, 6))
def test_any_release_is_the_same(tmp_path, batches, small_shards, shapes, slots):
    """Chips of a batch go to shards that are written at different times, and slots to batches of other sizes."""
    shutil.rmtree(tmp_path / "t", ignore_errors=True)
    source = make_mixed(shapes).directory(tmp_path / "t" / "extracted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_crew, "_SLOTS", slots)
        convert(source, tmp_path / "t" / "r.zarr")
    assert_store_ok(tmp_path / "t" / "r.zarr")


def test_threads_begin_and_processes_go_on(tmp_path, monkeypatch, batches):
    """At the size from which on it is worth it."""
    monkeypatch.setattr(process_crew, "WORTH_BYTES", WORTH_BYTES)
    release = make_release(130, shape=(3, 256, 256), task="classification")
    source = release.directory(tmp_path / "extracted")
    convert(source, tmp_path / "r.zarr")
    passed = sum(member.size_bytes for batch in batches for member in batch)
    assert 0 < passed <= sum(map(len, release.members.values())) - WORTH_BYTES + 2 * BATCH_BYTES
    report = vs.open(tmp_path / "r.zarr").verify(source)
    assert report.ok
    assert report.byte_identical == len(release.members)


def test_one_worker_needs_none(tmp_path, monkeypatch, release):
    monkeypatch.setattr(process_crew, "WORTH_BYTES", 0)
    monkeypatch.setattr(process_crew, "Peer", None)
    convert(release.directory(tmp_path / "extracted"), tmp_path / "r.zarr", workers=1)
    assert_store_ok(tmp_path / "r.zarr")


def test_what_is_decompressed_here_is_read_here(tmp_path, monkeypatch, release):
    monkeypatch.setattr(process_crew, "WORTH_BYTES", 0)
    monkeypatch.setattr(process_crew, "Peer", None)
    convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    assert_store_ok(tmp_path / "r.zarr", release)


def test_an_append_starts_none(tmp_path, batches, release):
    """Which chips are known, threads ask this process."""
    source = release.directory(tmp_path / "extracted")
    convert(source, tmp_path / "r.zarr", workers=1)
    (source / "labels" / "3.json").write_bytes((source / "labels" / "4.json").read_bytes())
    (source / "images" / "5.tif").write_bytes(geotiff(pixels_of((3, 96, 96), seed=99)))
    convert(source, tmp_path / "r.zarr", mode="append", version="2")
    assert not batches
    assert_store_ok(tmp_path / "r.zarr")


def test_a_small_release_starts_none(tmp_path, monkeypatch, release):
    monkeypatch.setattr(process_crew, "Peer", None)
    convert(release.directory(tmp_path / "extracted"), tmp_path / "r.zarr")
    assert_store_ok(tmp_path / "r.zarr")


@pytest.mark.usefixtures("small_shards")
def test_a_bad_image_is_refused_by_name(tmp_path, batches, release):
    source = release.directory(tmp_path / "extracted")
    (source / "images" / "17.tif").write_bytes(b"II*\0nothing")
    with pytest.raises(ImageError, match=r"17\.tif"):
        convert(source, tmp_path / "r.zarr")
    assert batches
    assert not (tmp_path / "r.zarr").exists()
    report = ops.convert(source, tmp_path / "r.zarr", ConvertOptions(on_error="skip"), workers=2)
    assert report.skipped == 1
    assert len(assert_store_ok(tmp_path / "r.zarr")) == 23


@pytest.mark.usefixtures("small_shards", "batches")
@pytest.mark.parametrize("kind", ["directory", "tar"])
def test_a_source_that_changes_is_refused(tmp_path, monkeypatch, release, kind):
    """After a file of it was listed, and before a process reads it."""
    source = release.pack(kind, tmp_path)
    submit, changed = Peer.submit, []

    def later(self, batch, *told):
        image = next((member for member in batch if member.size_bytes > WORTH_READING), None)
        if image and not changed:
            changed.append(image.name)
            path, at = (source, image.offset) if kind == "tar" else (image.source, image.size_bytes)
            with Path(path).open("r+b") as file:
                file.seek(at)
                file.write(b"II*\0")
        return submit(self, batch, *told)

    monkeypatch.setattr(Peer, "submit", later)
    with pytest.raises(vs.errors.ArchiveError, match="changed while it was read"):
        convert(source, tmp_path / "r.zarr")
    assert changed
    assert not (tmp_path / "r.zarr").exists()


@pytest.mark.usefixtures("small_shards", "one_write_id")
@pytest.mark.parametrize("how_many", ["one", "all"])
def test_a_process_that_dies_is_not_needed(tmp_path, batches, monkeypatch, release, how_many):
    """What it had is read again by threads, and comes at its place."""
    source = release.directory(tmp_path / "extracted")
    convert(source, tmp_path / "thread.zarr", workers=1)
    before, submit = {p.pid for p in psutil.Process().children()}, Peer.submit

    def deadly(self, *told):
        found = submit(self, *told)
        if len(batches) == 5:
            own = [p for p in psutil.Process().children() if p.pid not in before]
            for process in own[: 1 if how_many == "one" else None]:
                process.send_signal(signal.SIGKILL)
        return found

    monkeypatch.setattr(Peer, "submit", deadly)
    convert(source, tmp_path / "processes.zarr")
    assert len(batches) >= 5
    assert objects_of(tmp_path / "processes.zarr") == objects_of(tmp_path / "thread.zarr")
    assert {p.pid for p in psutil.Process().children()} == before


def test_shared_memory_is_let_go_when_chunks_are_written(batches, tmp_path, monkeypatch, release):
    """Not when the conversion ends: its index needs memory, too."""
    rooms, used = [], []
    room, take, finish = process_crew._Room, Intake.take, Intake.finish

    def note(call):
        found = call()
        used.append(os.fstat(rooms[0].descriptor).st_blocks)
        return found

    monkeypatch.setattr(process_crew, "_Room", lambda: rooms.append(room()) or rooms[0])
    monkeypatch.setattr(Intake, "take", lambda self, outcome: note(lambda: take(self, outcome)))
    monkeypatch.setattr(Intake, "finish", lambda self: note(lambda: finish(self)))
    convert(release.directory(tmp_path / "extracted"), tmp_path / "r.zarr")
    assert batches
    assert max(used) > 0
    assert used[-1] == 0
    assert_store_ok(tmp_path / "r.zarr")


@pytest.mark.parametrize("what", ["memory", "process", "thread"])
def test_who_can_have_no_processes_has_threads(tmp_path, monkeypatch, release, what):
    refusal = {"memory": OSError(12, "no memory"), "process": not_started("no"), "thread": RuntimeError("no")}[what]
    monkeypatch.setattr(process_crew, "WORTH_BYTES", 0)
    monkeypatch.setattr(process_crew, "_Room" if what == "memory" else "Peer", Mock(side_effect=refusal))
    before = psutil.Process().num_fds()
    convert(release.directory(tmp_path / "extracted"), tmp_path / "r.zarr")
    assert psutil.Process().num_fds() == before
    assert_store_ok(tmp_path / "r.zarr")


WATCHED = """if True:
    import signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts in the background ignores it
    from vedastore.ops import convert, process_crew
    from vedastore.io.peers import Peer
    from vedastore.cli import main
    submit = Peer.submit
    def slow(self, *told):
        print("reads", flush=True)
        time.sleep(0.2)
        return submit(self, *told)
    Peer.submit, Peer.is_ready, process_crew.WORTH_BYTES, convert.BATCH_BYTES = slow, True, 0, 1
    sys.exit(main(["convert", "--workers", "2", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whoever_ends_it_ends_its_processes(tmp_path, release, number):
    """In the middle of the work; what was killed leaves what another one clears."""
    source = release.directory(tmp_path / "extracted")
    command = [sys.executable, "-c", WATCHED, source, tmp_path / "r.zarr"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert [process.stdout.readline() for _ in range(3)] == ["reads\n"] * 3
        own = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert len(own) == 2
    assert not psutil.wait_procs(own, timeout=30)[1]
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    assert number == signal.SIGKILL or not (tmp_path / "r.zarr").exists()
    convert(source, tmp_path / "r.zarr")
    assert_store_ok(tmp_path / "r.zarr")


def test_a_limit_on_files_is_none_on_memory(tmp_path):
    """Shared memory is a file to the system: where it may not be so large, threads go on."""
    source = make_release(130, shape=(3, 256, 256), task="classification").directory(tmp_path / "extracted")
    code = """if True:
        import resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
        from vedastore.cli import main
        sys.exit(main(["convert", "--workers", "2", *sys.argv[1:]]))
    """
    subprocess.run([sys.executable, "-c", code, source, tmp_path / "r.zarr"], check=True, capture_output=True)
    assert vs.open(tmp_path / "r.zarr").verify(source).ok


@pytest.mark.usefixtures("small_shards", "batches")
def test_nothing_is_left_open(tmp_path, release):
    """Neither processes nor descriptors, and no memory that is shared."""
    source = release.directory(tmp_path / "extracted")
    convert(source, tmp_path / "first.zarr")
    before, processes = psutil.Process().num_fds(), psutil.Process().children()
    convert(source, tmp_path / "second.zarr")
    assert psutil.Process().num_fds() == before
    assert psutil.Process().children() == processes
    assert "memfd:vedastore" not in Path("/proc/self/maps").read_text(encoding="utf-8")


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_conversion_goes_on(tmp_path, batches, monkeypatch, release):
    """What was stored is proved by the processes, and not encoded again."""
    source = release.directory(tmp_path / "extracted")
    put, put_keys = Processes.put, []

    def dying(self, write, key, draft):
        put_keys.append(key)
        if len(put_keys) == 4:
            raise vs.errors.UnknownOutcomeError("as good as killed")
        return put(self, write, key, draft)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "put", dying)
        with pytest.raises(vs.errors.UnknownOutcomeError):
            convert(source, tmp_path / "r.zarr")
    batches.clear()
    report = ops.convert(source, tmp_path / "r.zarr", ConvertOptions(), workers=2)
    assert batches
    assert report.resumed == 3  # those that had been noted down
    assert_store_ok(tmp_path / "r.zarr")


def test_pixels_are_those_of_the_files(tmp_path, batches, release):
    """Read by rasterio, before and after."""
    source = release.directory(tmp_path / "extracted")
    store = convert(source, tmp_path / "r.zarr").store
    assert batches
    for sample in vs.open(store):
        data = release.members[f"{release.top}/images/{sample.id}.tif"]
        np.testing.assert_array_equal(sample.image.values, read_tiff(data))
