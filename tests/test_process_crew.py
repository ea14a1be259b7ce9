"""Conversions by processes of this machine: the same bytes as by one thread, the same refusals, nothing left behind."""

import shutil
import signal
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vedastore as vs
from tests.builders import assert_store_ok, geotiff, make_release, objects_of, pixels_of, read_tiff
from vedastore.errors import ImageError, StoreError
from vedastore.io.peers import Peer
from vedastore.ops import convert as ops
from vedastore.ops import process_crew
from vedastore.ops.convert import BATCH_BYTES
from vedastore.ops.options import ConvertOptions
from vedastore.ops.process_crew import WORTH_BYTES, Processes
from vedastore.spec import arrays

IMAGE_BYTES = 3 * 32 * 40
WORTH_READING = 16 * 2**10


@pytest.fixture
def small_shards(monkeypatch):
    """Four chips of the usual shape a shard, one or two a batch."""
    arrays._spec_of.cache_clear()
    monkeypatch.setattr(arrays, "SHARD_TARGET_BYTES", 4 * IMAGE_BYTES)
    monkeypatch.setattr("vedastore.ops.convert.BATCH_BYTES", 2 * IMAGE_BYTES)
    yield
    arrays._spec_of.cache_clear()


@pytest.fixture
def one_write_id(monkeypatch):
    monkeypatch.setattr("vedastore.store.commit.uuid", SimpleNamespace(uuid4=lambda: uuid.UUID(int=0x5C0FFEE1)))


@pytest.fixture
def batches(monkeypatch):
    """Processes from the first batch on; the batches that they were given."""
    found, start, submit = [], Processes._start, Peer.submit

    def started(self, *arguments):
        start(self, *arguments)
        while not all(peer.is_ready for peer in self._peers):
            time.sleep(0.01)

    monkeypatch.setattr(process_crew, "WORTH_BYTES", 0)
    monkeypatch.setattr(Processes, "_start", started)
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
@pytest.mark.parametrize("kind", ["directory", "tar"])
@pytest.mark.parametrize("shapes", [[(3, 96, 96)], [(3, 96, 96), (1, 150, 150), (2, 8, 8)]], ids=["one shape", "three"])
@pytest.mark.parametrize("slots", [0, 3, 96])
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


@pytest.mark.parametrize("kind", ["tar_gz", "directory"])
def test_who_needs_none_starts_none(tmp_path, batches, release, kind):
    """One worker, a small release, and what this process has to decompress."""
    source = release.pack(kind, tmp_path)
    convert(source, tmp_path / "r.zarr", workers=2 if kind == "tar_gz" else 1)
    assert all(member.size_bytes < 2**14 for batch in batches for member in batch)


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


@pytest.mark.usefixtures("small_shards")
def test_a_process_that_dies_is_named_and_nothing_is_left(tmp_path, batches, monkeypatch, release):
    source = release.directory(tmp_path / "extracted")
    before, submit = {p.pid for p in psutil.Process().children()}, Peer.submit

    def deadly(self, *told):
        if len(batches) == 5:
            for process in psutil.Process().children():
                if process.pid not in before:
                    process.send_signal(signal.SIGKILL)
        return submit(self, *told)

    monkeypatch.setattr(Peer, "submit", deadly)
    with pytest.raises(StoreError, match=r"ended early \(SIGKILL"):
        convert(source, tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()
    assert {p.pid for p in psutil.Process().children()} == before


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
