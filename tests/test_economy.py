"""What a job asks of the system, counted: one pass over the source, one write of a shard, no byte read in vain."""

import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from io import BytesIO

import numpy as np
import pytest

from tests.builders import geotiff
from tests.tracing import calls_of, needs_strace

SIDE, PER_SHARD, SAMPLES = 2048, 5, 11  # chips of 12 MiB: three shards, the last one not full
JOB = """
import sys
from vedastore.cli import main
from vedastore.io import inflate

inflate.WORTH_BYTES = 0
sys.exit(main(sys.argv[1:]))
"""
PATH = re.compile(r"^\d+<([^>]*)>")
DRAFT = re.compile(r"/[.]([^/]+)[.][0-9a-f]{32}$")
"""What a file is named until it is whole."""


class Trace:
    """Opens, and bytes moved, by path."""

    def __init__(self, log):
        self.opened, self.written_to, self.read, self.written = Counter(), Counter(), Counter(), Counter()
        self.programs = 0
        for name, arguments, result in calls_of(log):
            if result.startswith(("-", "?")):
                continue
            if name == "execve":
                self.programs += 1
            elif name == "openat":
                path = DRAFT.sub(r"/\1", re.search(r'"([^"]*)"', arguments)[1])
                self.opened[path] += 1
                self.written_to[path] += bool(re.search("O_WRONLY|O_RDWR", arguments))
            elif found := PATH.match(arguments):
                (self.read if "read" in name else self.written)[DRAFT.sub(r"/\1", found[1])] += int(result)


def traced(tmp_path, *arguments):
    log = tmp_path / "log"
    calls = "trace=openat,execve,read,pread64,readv,preadv,preadv2,write,pwrite64,writev,pwritev,pwritev2"
    command = ["strace", "-f", "-y", "-s", "300", "-o", log, "-e", calls, sys.executable, "-c", JOB, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    return Trace(log)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A release whose chips are large and easy to compress."""
    path = tmp_path_factory.mktemp("economy") / "big.tar.gz"
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for number in range(SAMPLES):
            pixels = np.repeat(rng.integers(0, 255, (3, SIDE, SIDE // 8), dtype="u1"), 8, axis=2)
            label = b'{"geometry": {}, "properties": {"label": {"car": [[1, 2, 30, 40]]}}}'
            for name, data in ((f"images/{number}.tif", geotiff(pixels)), (f"labels/{number}.json", label)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, BytesIO(data))
    return path


@pytest.fixture(scope="module")
def converted(release, tmp_path_factory):
    if needs_strace.args[0]:
        pytest.skip(needs_strace.kwargs["reason"])
    folder = tmp_path_factory.mktemp("converted")
    store = folder / "s.zarr"
    return store, traced(folder, "convert", release, store, "--quiet")


def shards_of(store):
    return [path for path in store.glob("chips/*/image/c/**/*") if path.is_file()]


def test_a_conversion_opens_the_source_once_and_reads_it_to_convert_and_to_hash(release, converted):
    _, trace = converted
    size = release.stat().st_size
    assert trace.opened[str(release)] == 1
    assert 2 * size <= trace.read[str(release)] <= 2 * size + 512  # the head tells what it is


def test_a_conversion_writes_each_shard_once(converted):
    store, trace = converted
    shards = shards_of(store)
    assert len(shards) == -(-SAMPLES // PER_SHARD)
    for path in shards:
        assert trace.opened[str(path)] == trace.written_to[str(path)] == 1
        assert trace.written[str(path)] == path.stat().st_size
        assert trace.read[str(path)] == 0


def test_a_conversion_keeps_nothing_beside_the_store(converted):
    store, trace = converted
    inside = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    elsewhere = sum(n for path, n in trace.written.items() if path.startswith("/") and f"{store}/" not in path)
    assert (
        inside <= sum(n for path, n in trace.written.items() if f"{store}/" in path) <= 1.02 * inside
    )  # notes of shards
    assert elsewhere <= 2**20 < inside / 10  # the ledger, and tables under way


def test_a_conversion_starts_one_process_to_decompress(converted):
    _, trace = converted
    assert trace.programs == 2


@needs_strace
@pytest.mark.parametrize("job", ["export", "verify"])
def test_chips_are_read_once_and_nothing_else_of_a_shard(converted, tmp_path, job):
    store, _ = converted
    target = tmp_path / "back.tar.gz"
    trace = traced(tmp_path, job, store, *([target] if job == "export" else []), "--quiet")
    for path in shards_of(store):
        assert path.stat().st_size <= trace.read[str(path)] <= 1.1 * path.stat().st_size, path
    if job == "export":
        (draft,) = (path for path in trace.written if path.endswith(".part"))
        assert trace.opened[draft] == 1
        assert trace.written[draft] == target.stat().st_size
    assert trace.programs == 1
