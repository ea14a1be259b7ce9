"""Make the formats of the peers: ``python -m scripts.benchmarks.formats FORMAT FROM TO``."""

from __future__ import annotations

import sys

import numpy as np

SLICE = 64


def make_memmap(files: str, path: str) -> None:
    """Write all chips of a directory as one array (sample, band, y, x); vedastore has no part in it."""
    import tifffile

    from scripts.benchmarks.data import list_tiffs

    tiffs = list_tiffs(files)
    first = tifffile.imread(tiffs[0])
    bands = min(first.shape[0], first.shape[-1])
    interleaved = first.shape[-1] == bands
    shape = (len(tiffs), bands, *(first.shape[:2] if interleaved else first.shape[1:]))
    with open(path, "wb") as file:  # noqa: PTH123 - in pieces: there may be more chips than memory
        np.lib.format.write_array_header_1_0(file, {"descr": first.dtype.str, "fortran_order": False, "shape": shape})
        for tiff in tiffs:
            chip = tifffile.imread(tiff)
            file.write(np.ascontiguousarray(chip.transpose(2, 0, 1) if interleaved else chip).tobytes())


def make_sums(files: str, path: str) -> None:
    """Write (sample, 2): the sum of all pixels of each chip, and its first pixel."""
    import tifffile

    from scripts.benchmarks.data import list_tiffs

    chips = (tifffile.imread(tiff) for tiff in list_tiffs(files))
    sums = np.array([(chip.sum(dtype="u8"), chip.flat[0]) for chip in chips], "u8")
    with open(path, "wb") as file:  # noqa: PTH123 - np.save would add an ending to a name
        np.save(file, sums)


def make_hdf5(memmap: str, path: str) -> None:
    """Write one array, one chip a chunk, as pyveda's VedaBase."""
    import h5py

    chips = np.load(memmap, mmap_mode="r")
    with h5py.File(path, "w") as file:
        images = file.create_dataset("images", chips.shape, chips.dtype, chunks=(1, *chips.shape[1:]))
        for start in range(0, len(chips), SLICE):
            images[start : start + SLICE] = chips[start : start + SLICE]


class Chip:
    """Gives LitData a chip by its number."""

    def __init__(self, memmap: str) -> None:
        self.memmap = memmap

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        """Return one sample."""
        return {"image": np.array(np.load(self.memmap, mmap_mode="r")[number])}


def make_litdata(memmap: str, path: str) -> None:
    """Write LitData's own format, in chunks of 64 MB."""
    from litdata import optimize

    count = len(np.load(memmap, mmap_mode="r"))
    optimize(Chip(memmap), list(range(count)), path, chunk_bytes="64MB", num_workers=1, keep_data_ordered=True)


MAKERS = {"memmap": make_memmap, "sums": make_sums, "hdf5": make_hdf5, "litdata": make_litdata}

if __name__ == "__main__":
    MAKERS[sys.argv[1]](*sys.argv[2:])
