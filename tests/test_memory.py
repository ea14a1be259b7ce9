"""Memory is bounded by the configuration, not by the size of the release."""

import gc
import io
import sys
import tarfile

import numpy as np
import pytest

from scripts.benchmarks.processes import run
from tests.builders import geotiff, pixels_of
from vedastore.io.member import Member
from vedastore.ops.options import ConvertOptions
from vedastore.ops.roll import Rejected, read_batch

MIB = 2**20
JOBS = {
    "convert": "vs.convert(sys.argv[1], sys.argv[2])",
    "export": "vs.open(sys.argv[2]).export(sys.argv[3])",
    "verify": "assert vs.open(sys.argv[2]).verify(against=sys.argv[1]).ok",
}


def big_release(path, samples):
    """Chips of 256 x 256 x 3 with noise in them, in a tar without compression."""
    rng = np.random.default_rng(0)
    images = [
        geotiff(pixels_of((3, 256, 256), seed=n) + rng.integers(0, 4, (3, 256, 256), dtype="u1")) for n in range(8)
    ]
    label = b'{"geometry": {}, "properties": {"label": {"car": [[1, 2, 30, 40], [5, 5, 9, 9]]}}}' + b" " * 2000
    with tarfile.open(path, "w") as archive:
        for number in range(samples):
            for name, data in ((f"images/{number}.tif", images[number % 8]), (f"labels/{number}.json", label)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_release(tmp_path):
    """That of the whole tree of processes."""
    peaks = {}
    for samples in (1200, 3200):
        source = big_release(tmp_path / f"{samples}.tar", samples)
        arguments = [str(tmp_path / name) for name in (source.name, f"{samples}.zarr", f"{samples}-back.tar")]
        for job, code in JOBS.items():
            done = run([sys.executable, "-c", f"import sys, vedastore as vs; {code}", *arguments], watch=True)
            peaks[job, samples] = done.pss_bytes / MIB
    for job in JOBS:
        assert 50 < peaks[job, 3200] < 400, peaks
        assert peaks[job, 3200] - peaks[job, 1200] < 100, peaks  # what may be in flight; 2000 chips more have 375 MiB


def test_a_refused_file_is_let_go():
    """What was wrong is remembered, and nothing of the file: not even until somebody looks for cycles."""
    files = {"images/1.tif": b"II*\0" + bytes(2**20), "images/2.tif": bytes(2**20), "labels/1.json": b"{" * 2**20}
    members = [Member(name, data, at, is_dir=False) for at, (name, data) in enumerate(files.items())]
    gc.collect()
    gc.disable()
    try:
        before = [sys.getrefcount(member.data) for member in members]
        outcomes = read_batch(members, ConvertOptions(on_error="skip"), "r")
        assert [type(outcome) for outcome in outcomes] == [Rejected] * 3
        assert [sys.getrefcount(member.data) for member in members] == before
    finally:
        gc.enable()
