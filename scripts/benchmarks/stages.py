"""The stages, and who takes part in each; the first contender of a stage is what the others are compared with."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

from scripts.benchmarks.contender import Contender
from scripts.benchmarks.data import PYTHON, VEDASTORE, list_tiffs
from scripts.benchmarks.processes import FailedError, Run, run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from scripts.benchmarks.data import Data

USUAL, READERS, INDEX = (f"scripts.benchmarks.{name}" for name in ("usual", "readers", "index"))
STACKED = 10_000
"""More chips than these are not stacked by rioxarray, which holds them all in memory, twice."""
CONVERT = (VEDASTORE, "convert", "--quiet")
NONE = "decompresses only"


def plan_convert(data: Data, samples: int) -> list[Contender]:
    """Return who gets from a release to arrays, or part of the way."""
    at, out = data.places(samples), data.made / "out"
    check = partial(_check_pixels, out, data.total(samples))
    ours = partial(Contender, chips=samples, writes=out, check=check)
    theirs = partial(Contender, chips=samples)
    return [
        ours("vedastore", "vedastore convert, tar.gz", (*CONVERT, at.release, str(out))),
        ours("vedastore-tar", "vedastore convert, plain tar", (*CONVERT, at.tar, str(out))),
        ours("vedastore-files", "vedastore convert, directory", (*CONVERT, at.files, str(out))),
        ours(
            "vedastore-compact",
            "vedastore convert --codec compact",
            (*CONVERT, "--codec", "compact", at.release, str(out)),
        ),
        theirs("gzip", "gzip -dc > /dev/null", ("gzip", "-dc", at.release), note=NONE),
        theirs("pigz", "pigz -dc > /dev/null", ("pigz", "-dc", at.release), note=NONE, needs=("pigz",)),
        theirs(
            "tar",
            "tar xzf",
            ("tar", "xzf", at.release, "-C", str(out)),
            writes=out,
            into_folder=True,
            note="files on disk",
        ),
        *(plan_stack(data, samples) if samples <= STACKED else []),
    ]


def plan_stack(data: Data, samples: int) -> list[Contender]:
    """Return who does the same with what is at hand."""
    release, out = data.places(samples).release, data.made / "out"
    command, check = (*PYTHON, USUAL, "convert", str(out), release), partial(_check_pixels, out, data.total(samples))
    stacked = partial(Contender, chips=samples, reports=True)
    note = "without imports; files on disk"
    return [
        stacked(
            "rioxarray",
            "tar xzf, then rioxarray, concat, to_zarr",
            command,
            clock="work",
            writes=out,
            check=check,
            note="without imports",
        ),
        stacked("rioxarray-stack", "rioxarray, concat, to_zarr", run_of="rioxarray", clock="stack", note=note),
    ]


def plan_deflate(data: Data, samples: int) -> list[Contender]:
    """Return who decodes compressed TIFFs."""
    at, out = data.places(samples), data.made / "out"
    ours = partial(Contender, chips=samples, writes=out, check=partial(_check_pixels, out, data.total(samples)))
    theirs = partial(Contender, chips=samples, note="two threads, decodes only", needs=("imagecodecs",))
    return [
        ours("vedastore", "vedastore convert, tar.gz", (*CONVERT, at.deflate, str(out))),
        ours("vedastore-tar", "vedastore convert, plain tar", (*CONVERT, at.deflate_tar, str(out))),
        theirs("imagecodecs", "imagecodecs.tiff_decode", (*PYTHON, USUAL, "decode", at.deflate_files), reports=True),
        theirs("imagecodecs-work", "imagecodecs.tiff_decode, imports left out", run_of="imagecodecs", clock="work"),
    ]


def plan_export(data: Data, samples: int) -> list[Contender]:
    """Return who makes a tar.gz."""
    at, out = data.places(samples), data.made / "out.tar.gz"
    check = partial(_check_tiffs, str(out), at.files)
    export = (VEDASTORE, "export", at.store, str(out), "--quiet")
    theirs = partial(Contender, chips=samples, note="compresses only")
    return [
        Contender("vedastore", "vedastore export", export, samples, writes=out, check=check),
        theirs("gzip", "gzip -6 of the ready tar", ("gzip", "-6", "-c", at.tar)),
        theirs("pigz", "pigz -6 of the ready tar", ("pigz", "-6", "-c", at.tar), needs=("pigz",)),
    ]


def plan_verify(data: Data, samples: int) -> list[Contender]:
    """Return who looks for damage."""
    at = data.places(samples)
    return [
        Contender("vedastore", "vedastore verify", (VEDASTORE, "verify", at.store, "--quiet"), samples),
        Contender("gzip", "gzip -t", ("gzip", "-t", at.release), samples, note="one checksum over all of it"),
    ]


_MEMMAP = ("memmap", "NumPy memmap", "the roof: one file without compression", ())
_HDF5 = ("hdf5", "HDF5 as in pyveda's VedaBase", "h5py, without compression", ("h5py",))
_RASTERIO = ("rasterio", "rasterio, directory of TIFFs", "two threads", ())
_LITDATA = ("litdata", "LitData", "its own format; two workers", ("litdata", "torch"))
_LOADER = ("loader", "TorchGeo-style dataset, DataLoader", "directory of TIFFs; two workers", ("torch",))
_READ = {
    "sequential": [
        ("vedastore", "vedastore, to_xarray().image.sum()", "Dask threads", ()),
        ("vedastore-batches", "vedastore, batches(32)", "", ()),
        _MEMMAP,
        _HDF5,
        ("zarr", "zarr-python on the store", "shard by shard", ()),
        _LITDATA,
        _RASTERIO,
        _LOADER,
        ("dataset", "TorchGeo-style dataset", "directory of TIFFs; a plain loop", ()),
        ("webdataset", "WebDataset, tar", "decoded by imagecodecs", ("webdataset",)),
        ("webdataset-gz", "WebDataset, tar.gz", "decoded by imagecodecs", ("webdataset",)),
    ],
    "batches": [
        ("vedastore", "vedastore, batches(32, shuffle=True)", "", ()),
        _MEMMAP,
        _HDF5,
        ("zarr", "zarr-python on the store, oindex", "a part of the chips", ()),
        _LITDATA,
        _RASTERIO,
        _LOADER,
        ("dataset", "TorchGeo-style dataset", "directory of TIFFs; a plain loop", ()),
    ],
    "single": [
        ("vedastore", "vedastore, collection[i].pixels", "", ()),
        ("vedastore-images", "vedastore, collection[i].image", "with coordinates", ()),
        _MEMMAP,
        _HDF5,
        ("zarr", "zarr-python on the store", "", ()),
        ("litdata", "LitData", "its own format", ("litdata", "torch")),
        ("dataset", "TorchGeo-style dataset", "directory of TIFFs", ()),
    ],
}


def plan_read(task: str, data: Data, samples: int) -> list[Contender]:
    """Return who reads chips: in a row, in shuffled batches, or single ones."""
    places = data.places(samples).to_json()
    return [
        Contender(
            key,
            label,
            (*PYTHON, READERS, key, task, places),
            samples,
            clock="steady",
            note=note,
            reports=True,
            needs=needs,
            flags=("--check",),
        )
        for key, label, note, needs in _READ[task]
    ]


def plan_index(data: Data, samples: int) -> list[Contender]:
    """Return the questions to a large index."""
    parts = {
        "bbox": "select(bbox=)",
        "bbox-first": "the same, asked for the first time",
        "classes": "select(classes=)",
        "classes-first": "the same, asked for the first time",
        "id": 'collection["id"]',
        "id-first": "the same, asked for the first time",
    }
    command = (*PYTHON, INDEX, str(data.index(samples)))
    shared = [Contender(key, label, run_of="open", clock=key) for key, label in parts.items()]
    return [Contender("open", "vedastore.open", command, clock="open", reports=True), *shared]


def plan_start(data: Data, samples: int) -> list[Contender]:
    """Return what is paid before any work."""
    python = (sys.executable, "-c")
    return [
        Contender("vedastore", "import vedastore", (*python, "import vedastore")),
        Contender("python", "python alone", (*python, "pass")),
        Contender("numpy", "import numpy", (*python, "import numpy")),
        Contender("info", "vedastore info", (VEDASTORE, "info", data.places(samples).store)),
    ]


def plan_scaling(data: Data, sizes: Iterable[int]) -> list[Contender]:
    """Return conversions of several sizes on one core and on all."""
    out, all_cores = data.made / "out", len(os.sched_getaffinity(0))
    return [
        Contender(
            f"{size}-{cores}",
            f"{size} chips, {cores} {'core' if cores == 1 else 'cores'}",
            (*CONVERT, data.places(size).release, str(out)),
            size,
            writes=out,
            cores=cores,
        )
        for cores in sorted({1, all_cores})
        for size in sizes
    ]


def _check_pixels(store: Path, wanted: int, _done: Run) -> None:
    """See by zarr-python that all pixels have arrived."""
    found = run((*PYTHON, USUAL, "total", str(store)), reports=True).report["total"]
    if found != wanted:
        raise FailedError(f"the pixels of the store sum up to {found} instead of {wanted}")


def _check_tiffs(archive: str, files: str, _done: Run) -> None:
    """See by GNU tar that the images are the same bytes."""
    tar = ("tar", "xzOf", archive, "--wildcards", "*.tif")
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as process:
        found = _digest(iter(lambda: process.stdout.read(2**20), b"") if process.stdout else ())
    if process.returncode or found != _digest(open(path, "rb").read() for path in list_tiffs(files)):  # noqa: PTH123, SIM115
        raise FailedError("the images of the archive are not those of the release")


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
