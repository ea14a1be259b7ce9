"""What a run found, as JSON: the machine, the data, and of every contender each run, the median, and the spread."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.benchmarks.contender import Row

FORMAT = 1
LIBRARIES = (
    *("vedastore", "numpy", "xarray", "zarr", "dask", "pyarrow", "isal", "orjson", "zstandard"),
    *("backports.zstd", "imagecodecs", "rasterio", "rioxarray", "h5py", "webdataset", "torch", "litdata"),
)
TOOLS = ("gzip", "pigz", "tar")

Stage = list[dict[str, Any]]


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on besides the data."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "tools": {name: found for name in TOOLS if (found := _tool(name))},
        "memory_is": "PSS" if Path("/proc/self/smaps_rollup").exists() else "RSS",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _tool(name: str) -> str | None:
    try:
        said = subprocess.run([name, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)
    return found[0] if found else "?"


def summarise(rows: list[Row]) -> Stage:
    """Return the rows of a stage with what follows from their runs.

    ``ratio`` is how many times as long as the first contender one takes for a chip: taken within each round, then the
    median of the rounds.
    """
    stage = [row.to_dict() for row in rows]
    for row in stage:
        if not row["seconds"]:
            continue
        middle = median(row["seconds"])
        row["seconds_median"], row["seconds_range"] = middle, [min(row["seconds"]), max(row["seconds"])]
        row["chips_per_second"] = row["chips"] / middle
        if stage[0]["seconds"]:
            row["ratio"] = ratio(row, stage[0])
            of_rounds = ratios(row, stage[0])
            row["ratio_range"] = [min(of_rounds), max(of_rounds)]
    return stage


def failed_row(label: str, error: Exception) -> dict[str, Any]:
    """Return the only row of a stage that could not be prepared."""
    row = {"key": "failed", "label": label, "note": "", "status": f"failed: {str(error).splitlines()[-1]}"}
    return row | {"chips": 1, "seconds": [], "pss_mib": 0, "rss_mib": 0}


def ratios(row: dict[str, Any], other: dict[str, Any]) -> list[float]:
    """Return how many times as long as another one takes for a chip, by rounds."""
    scale = other["chips"] / row["chips"]
    return [scale * mine / theirs for mine, theirs in zip(row["seconds"], other["seconds"], strict=True)]


def ratio(row: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the median of the ratios within rounds."""
    return median(ratios(row, other))


def find(results: dict[str, Any], stage: str, key: str) -> dict[str, Any] | None:
    """Return a row that has been measured."""
    for row in results["stages"].get(stage, []):
        if row["key"] == key and row["seconds"]:
            found: dict[str, Any] = row
            return found
    return None
