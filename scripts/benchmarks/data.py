"""What the stages need, made once a folder: releases in every form, and the formats of the peers.

What does not depend on vedastore stays in a folder that is kept; stores are made anew when its source has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scripts.benchmarks import generator
from scripts.benchmarks.processes import FailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT = Path(__file__).resolve().parents[2]
MAKE_RELEASE = "VEDASTORE_BENCH_MAKE_RELEASE"
VEDASTORE = str(Path(sys.executable).parent / "vedastore")
PYTHON = (sys.executable, "-m")
FORMATS = "scripts.benchmarks.formats"
MB = 10**6
CHIP_MB = 0.2
FACTOR_WHOLE, FACTOR_READ = 4.0, 10.0
"""Space that a chip needs at most, in times its own size: of the largest release, and of the one that is read."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a release of some samples is in all its forms."""

    samples: int
    release: str
    tar: str
    files: str
    store: str
    memmap: str
    sums: str
    hdf5: str
    litdata: str
    deflate: str
    deflate_tar: str
    deflate_files: str

    def to_json(self) -> str:
        """Return it as the programs take it."""
        return json.dumps(asdict(self))

    @property
    def tiffs(self) -> list[str]:
        """The TIFF files in the order of the release."""
        return list_tiffs(self.files)


def list_tiffs(folder: str) -> list[str]:
    """Return the TIFF files of a directory by number."""
    return [str(p) for p in sorted(Path(folder).rglob("*.tif"), key=lambda p: int(p.stem))]


class Data:
    """A folder with the data; each thing is made when it is asked for first."""

    def __init__(self, folder: Path) -> None:
        maker = os.environ.get(MAKE_RELEASE)
        self.source = Path(maker or generator.__file__)
        self.is_builtin = maker is None
        self.folder = folder / f"data-{_digest([self.source])}"
        made = [*ROOT.glob("vedastore/**/*.py"), *ROOT.glob("tests/synthetic.py")]
        self.made = self.folder / f"stores-{_digest(made)}"
        for old in self.folder.glob("stores-*"):
            if old != self.made:
                shutil.rmtree(old)
        self.made.mkdir(parents=True, exist_ok=True)

    def check_space(self, samples: int, read_samples: int) -> None:
        """End the program when the disk cannot hold what a run needs."""
        needed = int(CHIP_MB * (samples * FACTOR_WHOLE + read_samples * FACTOR_READ))
        there = sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file()) // MB
        free = shutil.disk_usage(self.folder).free // MB
        if free + there < needed:
            sys.exit(
                f"{self.folder}: needs {needed} MB, and {free + there} MB are free; name another place with --data"
            )

    def places(self, samples: int) -> Places:
        """Return where the forms of a release are; none of them needs to be there."""
        at = self.folder
        return Places(
            samples=samples,
            release=str(at / f"{samples}.tar.gz"),
            tar=str(at / f"{samples}.tar"),
            files=str(at / f"{samples}-files"),
            store=str(self.made / f"{samples}.zarr"),
            memmap=str(at / f"{samples}.npy"),
            sums=str(at / f"{samples}-sums.npy"),
            hdf5=str(at / f"{samples}.h5"),
            litdata=str(at / f"{samples}-litdata"),
            deflate=str(at / f"{samples}-deflate.tar.gz"),
            deflate_tar=str(at / f"{samples}-deflate.tar"),
            deflate_files=str(at / f"{samples}-deflate-files"),
        )

    def releases(self, sizes: Iterable[int]) -> None:
        """Make releases of these sizes, side by side."""
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for done in [pool.submit(self._release, self.places(n).release, n) for n in sorted(sizes, reverse=True)]:
                done.result()

    def deflate(self, samples: int) -> None:
        """Make a release of TIFFs that are compressed, its tar, and its files."""
        at = self.places(samples)
        self._release(at.deflate, samples, "--compress", "deflate")
        self._unpack(at.deflate, at.deflate_tar, at.deflate_files)

    def unpacked(self, samples: int) -> None:
        """Make the tar without compression, and the directory."""
        at = self.places(samples)
        self._unpack(at.release, at.tar, at.files)

    def store(self, samples: int) -> None:
        """Convert a release."""
        at = self.places(samples)
        self._make(at.store, "store", lambda out: _run(VEDASTORE, "convert", at.release, out, "--quiet"))

    def index(self, samples: int) -> Path:
        """Make a store of rows without pixels."""
        path = self.made / f"index-{samples}.zarr"
        code = (
            "import sys, pathlib; from tests.synthetic import build; build(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
        )
        self._make(str(path), "index", lambda out: _run(sys.executable, "-c", code, out, str(samples)))
        return path

    def sums(self, samples: int) -> None:
        """Make the list of what every chip sums up to."""
        at = self.places(samples)
        self.unpacked(samples)
        self._make(at.sums, "sums", lambda out: _run(*PYTHON, FORMATS, "sums", at.files, out))

    def peers(self, samples: int, *, litdata: bool) -> None:
        """Make the formats of the peers."""
        at = self.places(samples)
        self._make(at.memmap, "array", lambda out: _run(*PYTHON, FORMATS, "memmap", at.files, out))
        self._make(at.hdf5, "HDF5", lambda out: _run(*PYTHON, FORMATS, "hdf5", at.memmap, out))
        if litdata:
            self._make(at.litdata, "LitData", lambda out: _run(*PYTHON, FORMATS, "litdata", at.memmap, out))

    def total(self, samples: int) -> int:
        """Return the sum of all pixels."""
        return int(np.load(self.places(samples).sums)[:, 0].sum())

    def raw_bytes(self, samples: int) -> int:
        """Return how large the tar is without compression."""
        self.unpacked(samples)
        return Path(self.places(samples).tar).stat().st_size

    def _release(self, path: str, samples: int, *more: str) -> None:
        program = ("-m", generator.__name__) if self.is_builtin else (str(self.source),)
        wanted = ("--samples", str(samples), *more)
        self._make(path, f"{samples} chips", lambda out: _run(sys.executable, *program, out, *wanted))

    def _unpack(self, release: str, tar: str, files: str) -> None:
        self._make(tar, "tar", lambda out: _run("sh", "-c", 'gzip -dc "$1" > "$2"', "sh", release, out))

        def extract(out: str) -> None:
            Path(out).mkdir()
            _run("tar", "xf", tar, "-C", out)

        self._make(files, "files", extract)

    def _make(self, path: str, what: str, make: Callable[[str], None]) -> None:
        """Make something beside its place, so that what is there is whole."""
        if Path(path).exists():
            return
        print(f"  making {Path(path).name} ({what})", file=sys.stderr)
        part = Path(path).with_name(f"part-{Path(path).name}")
        if part.exists():
            remove(part)
        make(str(part))
        part.rename(path)


def remove(path: Path) -> None:
    """Remove a file or a tree."""
    subprocess.run(["rm", "-rf", path], check=True)


def read_through(path: Path) -> None:
    """Read a file, or all files of a tree, so that they are in the page cache; a path of nothing is none."""
    buffer = bytearray(2**20)
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass


def size_bytes(path: Path) -> int:
    """Return the bytes of a file or of all files of a tree."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise FailedError(done.stderr.strip()[-2000:] or f"{command[0]}: exit code {done.returncode}")


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
