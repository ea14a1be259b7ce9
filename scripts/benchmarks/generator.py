"""Make a release to measure with: ``python -m scripts.benchmarks.generator OUT.tar.gz --samples N [--compress C]``.

Chips are smooth fields with noise, of which gzip -6 makes as much as of aerial imagery. Chip i is the same in a release
of any size.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from rasterio.io import MemoryFile
from rasterio.transform import from_bounds

SIZE_PX, BANDS = 256, 3
RELIEF, NOISE = 22.0, 5.0  # gzip -6 makes 1.3 : 1 of it, as of aerial imagery
DEGREES_PER_PX = 4.5e-6


def make_release(path: Path, samples: int, compress: str) -> None:
    """Write a release, compressed by gzip -6."""
    with path.open("wb") as file:
        gzip = subprocess.Popen(["gzip", "-6", "-n"], stdin=subprocess.PIPE, stdout=file)
        with tarfile.open(fileobj=gzip.stdin, mode="w|", format=tarfile.GNU_FORMAT) as archive:
            for number in range(samples):
                image, label = make_pair(number, compress)
                for name, data in ((f"images/{number}.tif", image), (f"labels/{number}.json", label)):
                    info = tarfile.TarInfo(f"bench-1.0.0/{name}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        if gzip.stdin:
            gzip.stdin.close()
        if gzip.wait():
            sys.exit("gzip failed")


def make_pair(number: int, compress: str) -> tuple[bytes, bytes]:
    """Return a GeoTIFF and its label file."""
    rng = np.random.default_rng([104, number])
    coarse = rng.normal(0, 1, (BANDS, 17, 17))
    at = np.linspace(0, 15.999, SIZE_PX)
    low, part = at.astype(int), at % 1
    rows = coarse[:, low] * (1 - part)[:, None] + coarse[:, low + 1] * part[:, None]
    smooth = rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
    pixels = (110 + RELIEF * smooth + rng.normal(0, NOISE, smooth.shape)).clip(0, 255).astype("u1")
    west, south = rng.uniform(-120, 120), rng.uniform(-60, 60)
    east, north = west + SIZE_PX * DEGREES_PER_PX, south + SIZE_PX * DEGREES_PER_PX
    profile = {"driver": "GTiff", "width": SIZE_PX, "height": SIZE_PX, "count": BANDS, "dtype": "uint8"}
    transform = from_bounds(west, south, east, north, SIZE_PX, SIZE_PX)
    with MemoryFile() as memory:
        with memory.open(**profile, compress=compress, crs="EPSG:4326", transform=transform) as file:
            file.write(pixels)
        image = memory.read()
    corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    geometry = {"type": "Polygon", "coordinates": [corners]}
    label = {}
    for name in ("building", "car", "road", "tree"):
        x, y, *size = rng.uniform((0, 0, 8, 8), (200, 200, 50, 50))
        ring = [(x, y), (x + size[0], y + 2), (x + size[0] - 3, y + size[1]), (x, y + size[1]), (x, y)]
        label[name] = [{"type": "Polygon", "coordinates": [[transform @ corner for corner in ring]]}]
    return image, json.dumps({"type": "Feature", "geometry": geometry, "properties": {"label": label}}).encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--compress", default="none")
    options = parser.parse_args()
    make_release(options.out, options.samples, options.compress)
