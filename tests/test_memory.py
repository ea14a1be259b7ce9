"""Memory is bounded by the configuration, not by the size of the release."""

import io
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from tests.builders import geotiff, pixels_of

MIB = 2**20
PEAK = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
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
    peaks = {}
    for samples in (1200, 3200):
        source = big_release(tmp_path / f"{samples}.tar", samples)
        arguments = [source, tmp_path / f"{samples}.zarr", tmp_path / f"{samples}-back.tar"]
        for job, code in JOBS.items():
            command = [sys.executable, "-c", f"import sys, vedastore as vs; {code}; {PEAK}", *arguments]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks[job, samples] = int(done.stdout.split()[-1]) * 1024 / MIB
    for job in JOBS:
        assert peaks[job, 3200] < 700, peaks
        assert peaks[job, 3200] - peaks[job, 1200] < 160, peaks  # what may be in flight; 2000 chips more have 375 MiB
