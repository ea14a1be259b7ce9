"""What a user would write without vedastore: ``python -m scripts.benchmarks.usual WHAT ARGUMENTS``.

Prints ``{"parts": {"work": seconds}}``: the work without the imports.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.benchmarks.data import list_tiffs

THREADS = 2


def convert(out: str, release: str) -> dict[str, float]:
    """Extract a release by GNU tar, and stack its chips by rioxarray, without their coordinates, which differ."""
    warnings.simplefilter("ignore")
    import rioxarray
    import xarray
    import zarr  # noqa: F401 - imported by to_zarr

    with TemporaryDirectory(dir=Path(out).parent) as folder:
        start = time.perf_counter()
        subprocess.run(["tar", "xzf", release, "-C", folder], check=True)
        extracted = time.perf_counter()
        chips = [rioxarray.open_rasterio(p).drop_vars(["x", "y", "spatial_ref"]) for p in list_tiffs(folder)]
        xarray.concat(chips, "sample").to_dataset(name="image").to_zarr(out, zarr_format=3)
        end = time.perf_counter()
    return {"work": end - start, "stack": end - extracted}


def decode(files: str) -> dict[str, float]:
    """Decode all TIFFs of a directory by imagecodecs, on two threads."""
    import imagecodecs

    paths = list_tiffs(files)
    start = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda p: imagecodecs.tiff_decode(Path(p).read_bytes()) is None, paths):
            pass
    return {"work": time.perf_counter() - start}


def total(store: str) -> int:
    """Return the sum of all pixels of a store, or of what `convert` wrote, read by zarr-python alone."""
    import zarr

    group = zarr.open_group(store, mode="r")
    arrays = [b["image"] for _, b in group["chips"].groups()] if "chips" in group else [group["image"]]
    steps = [(array, start) for array in arrays for start in range(0, array.shape[0], 256)]
    return sum(int(array[start : start + 256].sum(dtype="u8")) for array, start in steps)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "total":
        print(json.dumps({"total": total(*arguments)}))
    else:
        print(json.dumps({"parts": {"convert": convert, "decode": decode}[what](*arguments)}))
