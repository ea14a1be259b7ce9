"""A stream that another process decompresses is the same stream, with the same refusals, and leaves nothing behind."""

import gzip
import hashlib
import io
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vedastore as vs
from tests.builders import assert_store_ok, make_release
from vedastore.errors import ArchiveError, StoreError
from vedastore.exchange.release import ReleaseReader
from vedastore.io import inflate, processes
from vedastore.io.gzip import GzipReader
from vedastore.io.inflate import InflatedFile
from vedastore.model import DEFAULT_LIMITS, Limits
from vedastore.ops.options import ConvertOptions
from vedastore.ops.validate import validate

NOISE = np.random.default_rng(0).integers(0, 50, 3_000_000, dtype="u1").tobytes()
WHOLE = gzip.compress(NOISE, 1)


@contextmanager
def opened(tmp_path, compressed, limits=DEFAULT_LIMITS):
    path = tmp_path / "r.tar.gz"
    path.write_bytes(compressed)
    with path.open("rb", buffering=0) as file, InflatedFile(file, "r.tar.gz", limits, lambda _: None) as stream:
        yield stream


def drain(stream, size=1 << 20):
    return b"".join(iter(lambda: stream.read(size), b""))


def outcome(read):
    try:
        return drain(read)
    except ArchiveError as error:
        return str(error), error.rule, error.hint


@pytest.fixture
def everything_apart(monkeypatch):
    monkeypatch.setattr(inflate, "WORTH_BYTES", 0)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(
    sizes=st.lists(st.integers(0, 40_000) | st.sampled_from([2**20 - 1, 2**20, 2**20 + 1, 40 * 2**20]), max_size=4),
    step=st.sampled_from([777, 2**18, 2**20, 2**24]),
)
def test_it_is_the_same_stream_in_pieces_of_any_size(tmp_path, sizes, step):
    parts = [(NOISE * 14)[:size] for size in sizes]
    with opened(tmp_path, b"".join(gzip.compress(part, 1) for part in [b"", *parts])) as stream:
        assert drain(stream, step) == b"".join(parts)
        assert stream.read(step) == b""


@pytest.mark.parametrize(
    ("compressed", "limits"),
    [
        (WHOLE[:-1], DEFAULT_LIMITS),
        (WHOLE[:1_000_000], DEFAULT_LIMITS),
        (WHOLE[:-6] + b"\0" + WHOLE[-5:], DEFAULT_LIMITS),
        (WHOLE[:900_000] + bytes([WHOLE[900_000] ^ 4]) + WHOLE[900_001:], DEFAULT_LIMITS),
        (WHOLE + b"more", DEFAULT_LIMITS),
        (b"no gzip at all", DEFAULT_LIMITS),
        (b"", DEFAULT_LIMITS),
        (gzip.compress(bytes(50_000_000)), Limits(archive_expansion=100, archive_trusted_bytes=2**20)),
    ],
)
def test_it_refuses_what_the_reader_refuses_with_the_same_words(tmp_path, compressed, limits):
    expected = outcome(GzipReader(io.BytesIO(compressed), "r.tar.gz", limits))
    with opened(tmp_path, compressed, limits) as stream:
        assert outcome(stream) == expected
    assert isinstance(expected, tuple)


def test_a_conversion_is_the_same(tmp_path, everything_apart):
    release = make_release(7)
    archive = release.tar_gz(tmp_path / "r.tar.gz")
    done = []
    collection = vs.convert(archive, tmp_path / "s.zarr", progress=lambda *step: done.append(step))
    assert_store_ok(tmp_path / "s.zarr", release)
    assert done[-1] == (archive.stat().st_size,) * 2
    assert done == sorted(done)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert collection._snapshot.version.source["sha256"] == digest


def test_several_releases_convert_at_once(tmp_path, everything_apart):
    releases = [make_release(5, seed=seed) for seed in range(3)]
    archives = [release.tar_gz(tmp_path / f"{seed}.tar.gz") for seed, release in enumerate(releases)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(vs.convert, archives, [tmp_path / f"{seed}.zarr" for seed in range(3)]))
    for seed, release in enumerate(releases):
        assert_store_ok(tmp_path / f"{seed}.zarr", release)


def test_no_process_is_left_behind_by_those_who_stop_early(tmp_path):
    with opened(tmp_path, gzip.compress(NOISE * 20, 1)) as stream:
        assert stream.read(10) == NOISE[:10]
        assert psutil.pid_exists(stream._process.pid)
    assert not psutil.pid_exists(stream._process.pid)


def test_no_process_is_left_behind_by_a_refused_release(tmp_path, everything_apart):
    release = make_release(3)
    release.members["images/00.tif"] = b"II no image"
    archive = release.tar_gz(tmp_path / "r.tar.gz")
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(vs.errors.ReleaseError) as refused:
        vs.convert(archive, tmp_path / "s.zarr")
    assert {child.pid for child in psutil.Process().children()} <= before, refused
    assert not (tmp_path / "s.zarr").exists()


def test_no_process_is_left_behind_by_a_validation_that_fails(tmp_path, everything_apart, monkeypatch):
    archive = make_release(3).tar_gz(tmp_path / "r.tar.gz")
    before = {child.pid for child in psutil.Process().children()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vedastore.ops.validate.Roll.add", full)
    with pytest.raises(OSError, match="No space") as failed:
        validate(archive, ConvertOptions())
    assert {child.pid for child in psutil.Process().children()} <= before, failed


def test_descriptors_may_have_the_numbers_of_standard_streams(tmp_path):
    """A process that was started without its standard streams gives their numbers to the first files that it opens."""
    (tmp_path / "x.gz").write_bytes(gzip.compress(NOISE * 20, 1))
    code = (
        "import sys; from vedastore.io.inflate import InflatedFile; from vedastore.model import DEFAULT_LIMITS\n"
        "file = open(sys.argv[1], 'rb', buffering=0)\n"
        "assert file.fileno() == 0\n"
        "with InflatedFile(file, 'x', DEFAULT_LIMITS, lambda done: None) as stream:\n"
        "    total = 0\n"
        "    while data := stream.read(1 << 20):\n"
        "        total += len(data)\n"
        f"sys.exit(total != {len(NOISE) * 20})"
    )
    command = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-c", code, str(tmp_path / "x.gz")]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0


def test_a_process_that_is_killed_is_a_named_error(tmp_path):
    with opened(tmp_path, gzip.compress(NOISE * 20, 1)) as stream:
        stream.read(1)
        stream._process.send_signal(signal.SIGKILL)
        with pytest.raises(ArchiveError, match=r"r\.tar\.gz: the process that decompresses it ended early \(SIGKILL\)"):
            drain(stream)


def test_the_process_ends_with_the_one_that_reads(tmp_path):
    (tmp_path / "r.tar.gz").write_bytes(gzip.compress(NOISE * 40, 1))
    code = """
import os, sys
from vedastore.io.inflate import InflatedFile
from vedastore.model import DEFAULT_LIMITS
file = open(sys.argv[1], "rb", buffering=0)
stream = InflatedFile(file, "r", DEFAULT_LIMITS, lambda _: None)
stream.read(1)
print(stream._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "r.tar.gz"], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    psutil.wait_procs([psutil.Process(pid) for pid in [int(done.stdout)] if psutil.pid_exists(pid)], timeout=20)
    assert not psutil.pid_exists(int(done.stdout)) or psutil.Process(int(done.stdout)).status() == "zombie"


def test_it_is_read_where_memory_cannot_be_shared(tmp_path, everything_apart, monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    release = make_release(2)
    found = ReleaseReader(release.tar_gz(tmp_path / "r.tar.gz")).iter_members()
    assert {member.name: member.data for member in found} == release.members


def test_an_interpreter_that_does_not_start_is_a_named_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/python")
    with pytest.raises(StoreError, match="a process that this one needs cannot be started: No such file"):
        processes.start(print, keep=())
