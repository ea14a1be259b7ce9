"""Measure vedastore and its peers side by side: make the data, run everything in alternating rounds, write the tables.

Whole processes are timed, by the wall clock, from a warm page cache. Every round runs each contender once, so that a
machine that is slow for a while is slow for all; ratios are taken within a round. Results: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
STAGES = ("convert", "export", "verify", "read", "start")
LIBRARIES = ("vedastore", "numpy", "xarray", "zarr", "dask", "rasterio", "rioxarray", "pyarrow", "isal", "zstandard")
MAKE_RELEASE = "VEDASTORE_BENCH_MAKE_RELEASE"
SIZE_PX, BANDS, SUBSET = 256, 3, 200
MB, MIB = 10**6, 2**20
RELIEF, NOISE = 22.0, 5.0  # gzip -6 makes 1.3 : 1 of it, as of aerial imagery
VEDASTORE = str(Path(sys.executable).parent / "vedastore")

# The usual way without vedastore. Coordinates differ from chip to chip, so they are left out.
RIOXARRAY = """
import sys, warnings
warnings.simplefilter("ignore")
import rioxarray, xarray, zarr
paths = sys.argv[2:]
if paths:
    chips = [rioxarray.open_rasterio(p).drop_vars(["x", "y", "spatial_ref"]) for p in paths]
    xarray.concat(chips, "sample").to_dataset(name="image").to_zarr(sys.argv[1], zarr_format=3)
"""
READ_STORE = "import sys, vedastore; print(int(vedastore.open(sys.argv[1]).to_xarray().image.sum().compute()))"
READ_TIFFS = """
import sys, pathlib, rasterio
from concurrent.futures import ThreadPoolExecutor
def total(path):
    with rasterio.open(path) as file:
        return int(file.read().sum())
with ThreadPoolExecutor(2) as pool:
    print(sum(pool.map(total, sorted(pathlib.Path(sys.argv[1]).rglob("*.tif")))))
"""


@dataclass
class Contender:
    """One command of a stage: what it writes is removed before each run; ``note`` says what must be known about it."""

    name: str
    command: list[str]
    writes: Path | None = None
    note: str = ""
    is_partial: bool = False
    scaled: Callable[[float], float] = field(default=lambda seconds: seconds)
    seconds: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)

    def run(self) -> None:
        """Run it once, and note its time and its peak memory."""
        if self.writes is not None:
            subprocess.run(["rm", "-rf", self.writes], check=True)
            if self.command[0] == "tar":
                self.writes.mkdir()
        with tempfile.TemporaryFile() as errors:
            start = time.perf_counter()
            process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=errors)
            _, status, usage = os.wait4(process.pid, 0)
            self.seconds.append(self.scaled(time.perf_counter() - start))
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                errors.seek(0)
                sys.exit(f"{self.name} failed: {errors.read().decode(errors='replace')[-2000:]}")
        self.rss_bytes.append(usage.ru_maxrss * 1024)


# ------------------------------------------------------------------------------------------------------------- the data


def make_release(path: Path, samples: int) -> None:
    """Write a release: with the program that the environment names, or else of smooth fields with noise."""
    if MAKE_RELEASE in os.environ:
        subprocess.run([sys.executable, os.environ[MAKE_RELEASE], path, "--samples", str(samples)], check=True)
        return
    with path.open("wb") as file:
        gzip = subprocess.Popen(["gzip", "-6", "-n"], stdin=subprocess.PIPE, stdout=file)
        with tarfile.open(fileobj=gzip.stdin, mode="w|", format=tarfile.GNU_FORMAT) as archive:
            for number in range(samples):
                image, label = make_pair(number)
                for name, data in ((f"images/{number}.tif", image), (f"labels/{number}.json", label)):
                    info = tarfile.TarInfo(f"bench-1.0.0/{name}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        gzip.stdin.close()
        if gzip.wait():
            sys.exit("gzip failed")


def make_pair(number: int) -> tuple[bytes, bytes]:
    """Return an uncompressed GeoTIFF and its label file."""
    import numpy as np
    from rasterio.io import MemoryFile
    from rasterio.transform import from_bounds

    rng = np.random.default_rng([104, number])
    coarse = rng.normal(0, 1, (BANDS, 17, 17))
    at = np.linspace(0, 15.999, SIZE_PX)
    low, part = at.astype(int), at % 1
    rows = coarse[:, low] * (1 - part)[:, None] + coarse[:, low + 1] * part[:, None]
    smooth = rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
    pixels = (110 + RELIEF * smooth + rng.normal(0, NOISE, smooth.shape)).clip(0, 255).astype("u1")
    west, south = rng.uniform(-120, 120), rng.uniform(-60, 60)
    east, north = west + SIZE_PX * 4.5e-6, south + SIZE_PX * 4.5e-6
    profile = {"driver": "GTiff", "width": SIZE_PX, "height": SIZE_PX, "count": BANDS, "dtype": "uint8"}
    transform = from_bounds(west, south, east, north, SIZE_PX, SIZE_PX)
    with MemoryFile() as memory:
        with memory.open(**profile, crs="EPSG:4326", transform=transform) as file:
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


class Data:
    """Everything that the stages need, made once in a temporary folder."""

    def __init__(self, folder: Path, samples: int) -> None:
        self.folder, self.samples = folder, samples
        self.release, self.half = folder / "release.tar.gz", folder / "half.tar.gz"
        self.tar, self.files, self.store = folder / "release.tar", folder / "files", folder / "release.zarr"
        self.exported = folder / "exported.tar.gz"
        for path, count in ((self.release, samples), (self.half, samples // 2)):
            # In a process of its own: what this one has in memory would count as the peak of every contender.
            maker = get_context("spawn").Process(target=make_release, args=(path, count))
            maker.start()
            maker.join()
            if maker.exitcode:
                sys.exit("no release could be made")
        with self.tar.open("wb") as file:
            subprocess.run(["gzip", "-dc", self.release], stdout=file, check=True)
        self.files.mkdir()
        subprocess.run(["tar", "xf", self.tar, "-C", self.files], check=True)
        subprocess.run([VEDASTORE, "convert", self.release, self.store, "--quiet"], check=True)
        self.raw_bytes = self.tar.stat().st_size


# ----------------------------------------------------------------------------------------------------------- the stages


def plan(data: Data) -> dict[str, list[Contender]]:
    """Return the contenders of every stage, vedastore first."""
    python, release, half, store = [sys.executable, "-c"], str(data.release), str(data.half), str(data.store)
    out, exported, tar = data.folder / "out", data.exported, str(data.tar)
    tiffs = [str(p) for p in sorted(data.files.rglob("*.tif"))[:SUBSET]]
    imports = Contender("imports of the next one", [*python, RIOXARRAY, str(out)], out, is_partial=True)

    def scaled(seconds: float) -> float:
        return imports.seconds[-1] + (seconds - imports.seconds[-1]) * data.samples / len(tiffs)

    convert = [VEDASTORE, "convert", "--quiet"]
    note = f"measured on {len(tiffs)} chips, scaled per chip"
    return {
        "convert": [
            Contender("vedastore convert", [*convert, release, str(out)], out),
            Contender("vedastore convert, half the chips", [*convert, half, str(out)], out, is_partial=True),
            Contender("gzip -dc > /dev/null", ["gzip", "-dc", release], note="decompresses only"),
            Contender("pigz -dc > /dev/null", ["pigz", "-dc", release], note="decompresses only"),
            Contender("tar xzf", ["tar", "xzf", release, "-C", str(out)], out, "GNU tar: files on disk"),
            imports,
            Contender("rioxarray, concat, to_zarr", [*python, RIOXARRAY, str(out), *tiffs], out, note, scaled=scaled),
        ],
        "export": [
            Contender("vedastore export", [VEDASTORE, "export", store, str(exported), "--quiet"], exported),
            Contender("gzip -6 of the ready tar", ["gzip", "-6", "-c", tar], note="compresses only"),
            Contender("pigz -6 of the ready tar", ["pigz", "-6", "-c", tar], note="compresses only"),
        ],
        "verify": [
            Contender("vedastore verify", [VEDASTORE, "verify", store, "--quiet"]),
            Contender("gzip -t of the release", ["gzip", "-t", release], note="one checksum over all of it"),
        ],
        "read": [
            Contender("to_xarray().image.sum()", [*python, READ_STORE, store]),
            Contender("rasterio, files one by one", [*python, READ_TIFFS, str(data.files)], note="two threads"),
        ],
        "start": [
            Contender("import vedastore", [*python, "import vedastore"]),
            Contender("python alone", [*python, "pass"]),
            Contender("import numpy", [*python, "import numpy"]),
            Contender("vedastore info", [VEDASTORE, "info", store]),
        ],
    }


def measure(contenders: list[Contender], rounds: int) -> None:
    """Run every contender once a round, the order turned by one each time."""
    present = [c for c in contenders if shutil.which(c.command[0])]
    for number in range(rounds):
        shift = number % len(present)
        for contender in present[shift:] + present[:shift]:
            contender.run()
            print(f"  {contender.name}: {contender.seconds[-1]:.2f} s", file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------ the page


def spread(values: list[float], digits: int = 2) -> str:
    """Return a median with its range."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(stage: str, contenders: list[Contender], data: Data) -> str:
    """Return a stage's table: seconds, speed, how many times as long as vedastore, and peak memory."""
    lines = [f"## {stage.capitalize()}", ""]
    lines += ["| | seconds | MB/s | time / vedastore's | peak memory, MiB | |", "|---|---|---|---|---|---|"]
    ours, second = contenders[:2]
    for c in contenders:
        if not c.seconds:
            lines.append(f"| `{c.name}` | not installed | | | | {c.note} |")
            continue
        ratio = spread([theirs / mine for theirs, mine in zip(c.seconds, ours.seconds, strict=True)])
        speed = f"{data.raw_bytes / MB / median(c.seconds):.0f}" if stage != "start" and not c.is_partial else ""
        peak = max(c.rss_bytes) / MIB
        lines.append(f"| `{c.name}` | {spread(c.seconds)} | {speed} | {ratio} | {peak:.0f} | {c.note} |")
    if stage == "start":
        alone, numpy = median(second.seconds), contenders[2].seconds
        more = [f"{(median(found) - alone) * 1000:.0f}" for found in (ours.seconds, numpy)]
        lines += ["", f"`import vedastore` takes {more[0]} ms more than Python alone, `import numpy` {more[1]} ms."]
    if stage == "convert":
        whole, half = max(ours.rss_bytes) / MIB, max(second.rss_bytes) / MIB
        told = f"{half:.0f} MiB for {data.samples // 2} chips, {whole:.0f} MiB for {data.samples}"
        lines += ["", f"Peak memory of a conversion: {told} ({whole / half:.2f} times for twice the chips)."]
    return "\n".join([*lines, ""])


def sizes(data: Data) -> str:
    """Return the table of sizes."""
    store = sum(p.stat().st_size for p in data.store.rglob("*") if p.is_file())
    rows = {
        "the tar without compression": data.raw_bytes,
        "the release": data.release.stat().st_size,
        "the store": store,
    }
    if data.exported.exists():
        rows["the exported release"] = data.exported.stat().st_size
    lines = [f"| {name} | {n / MB:.1f} | {data.raw_bytes / n:.2f} : 1 |" for name, n in rows.items()]
    return "\n".join(["## Sizes", "", "| | MB | compression |", "|---|---|---|", *lines, ""])


def page(results: dict[str, list[Contender]], data: Data, rounds: int, command: str) -> str:
    """Return the whole page as Markdown."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    machine = f"{len(os.sched_getaffinity(0))} cores ({cpu[1] if cpu else platform.machine()}), {platform.system()}"
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    made = "of smooth fields and noise"
    if MAKE_RELEASE in os.environ:
        made = f"by the script that `{MAKE_RELEASE}` names, from real ones; without it of smooth fields and noise"
    head = f"""# Benchmarks

Written by `scripts/bench`. The same again:

```sh
{command}
```

{data.samples} chips of {SIZE_PX} x {SIZE_PX} x {BANDS} uint8 in uncompressed GeoTIFFs, with labelled objects,
made {made}; {data.raw_bytes / MB:.0f} MB as a tar.
Whole processes by the wall clock, from a warm page cache, {rounds} alternating rounds: median (least to greatest).
MB/s are bytes of the tar without compression. A conversion and an export are checked and durable (`fsync`) when they
end; what they are compared with is not.

{machine}, Python {platform.python_version()};
{libraries}.
Load over the last 15 minutes of the run: {os.getloadavg()[2]:.1f}. Above the number of cores, other work slowed all
contenders, and ratios say more than seconds.
"""
    return "\n".join([head, *(table(stage, found, data) for stage, found in results.items()), sizes(data)])


def main() -> None:
    """Parse, make the data, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000, help="chips (default 2000)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender (default 5)")
    parser.add_argument("--only", choices=STAGES, action="append", help="measure this stage only; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single measurement, too")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page to write (default docs/benchmarks.md)")
    options = parser.parse_args()
    if min(options.samples // 2, options.rounds) < 1:
        parser.error("needs at least 2 samples and 1 round")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="vedastore-bench-") as folder:
        print(f"making {options.samples} chips", file=sys.stderr)
        data = Data(Path(folder), options.samples)
        results = {stage: found for stage, found in plan(data).items() if stage in (options.only or STAGES)}
        for stage, contenders in results.items():
            print(stage, file=sys.stderr)
            measure(contenders, options.rounds)
        flags = [f"--samples {options.samples}", f"--rounds {options.rounds}", *(f"--only {s}" for s in results)]
        text = page(results, data, options.rounds, " ".join(["scripts/bench", *flags[: None if options.only else 2]]))
    if options.json:
        stages = {
            stage: {c.name: {"seconds": c.seconds, "rss_bytes": c.rss_bytes} for c in contenders}
            for stage, contenders in results.items()
        }
        options.json.write_text(json.dumps({"samples": options.samples, "stages": stages}, indent=1) + "\n")
    options.output.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
