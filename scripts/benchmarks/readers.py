"""Time one reader in a process of its own: ``python -m scripts.benchmarks.readers NAME TASK PLACES [--check]``.

Libraries are imported before the clock starts. The first pass includes opening; the second one is the steady state.
With ``--check`` a third one sums up all pixels that the task gives and compares them with what the memory map has.
Prints ``{"parts": {"first", "steady"}, "chips"}``, seconds of each pass.
"""
# ruff: noqa: D102 - methods do what Reader says

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.benchmarks.data import Places
from scripts.benchmarks.peers import PEERS
from scripts.benchmarks.reading import BATCH, Reader

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 20
SINGLES = 1000


class Vedastore(Reader):
    """The collection: ``to_xarray()`` on Dask threads, shuffled batches, samples by number."""

    def load(self) -> None:
        import xarray  # noqa: F401

        import vedastore

        self.library = vedastore

    def open(self) -> None:
        self.collection = self.library.open(self.at.store)

    def total(self) -> int:
        return int(self.collection.to_xarray(labels=False).image.sum().compute())

    def batches(self, rows: np.ndarray) -> Iterator[Any]:  # noqa: ARG002 - it shuffles itself
        for images, _ in self.collection.batches(BATCH, shuffle=True, seed=SEED):
            yield images

    def chips(self, rows: np.ndarray) -> Iterator[Any]:
        for row in rows.tolist():
            yield self.collection[row].pixels


class VedastoreBatches(Vedastore):
    """The collection, batch by batch in its order."""

    def total(self) -> int:
        return sum(int(images.sum(dtype="u8")) for images, _ in self.collection.batches(BATCH))


class VedastoreImages(Vedastore):
    """The collection's samples by number, as DataArrays with their coordinates."""

    def chips(self, rows: np.ndarray) -> Iterator[Any]:
        for row in rows.tolist():
            yield self.collection[row].image.to_numpy()


class Memmap(Reader):
    """One array without compression in a file: no reader can be faster."""

    def open(self) -> None:
        self.array = np.load(self.at.memmap, mmap_mode="r")

    def total(self) -> int:
        return sum(int(self.array[start : start + BATCH].sum(dtype="u8")) for start in range(0, self.at.samples, BATCH))

    def batches(self, rows: np.ndarray) -> Iterator[Any]:
        for start in range(0, len(rows), BATCH):
            yield self.array[rows[start : start + BATCH]]

    def chips(self, rows: np.ndarray) -> Iterator[Any]:
        for row in rows.tolist():
            yield np.array(self.array[row])


class Zarr(Reader):
    """zarr-python on vedastore's store."""

    limit = 320

    def load(self) -> None:
        import zarr

        self.library = zarr

    def open(self) -> None:
        (bucket,) = (group for _, group in self.library.open_group(self.at.store, mode="r")["chips"].groups())
        self.array = bucket["image"]

    def total(self) -> int:
        step = self.array.shards[0]
        return sum(int(self.array[start : start + step].sum(dtype="u8")) for start in range(0, self.at.samples, step))

    def batches(self, rows: np.ndarray) -> Iterator[Any]:
        for start in range(0, len(rows), BATCH):
            yield self.array.oindex[rows[start : start + BATCH]]

    def chips(self, rows: np.ndarray) -> Iterator[Any]:
        for row in rows.tolist():
            yield self.array[row]


READERS: dict[str, type[Reader]] = {
    "vedastore": Vedastore,
    "vedastore-batches": VedastoreBatches,
    "vedastore-images": VedastoreImages,
    "memmap": Memmap,
    "zarr": Zarr,
    **PEERS,
}


def chosen(task: str, at: Places, limit: int | None) -> np.ndarray:
    """Return the rows that a task reads, in a random order; the same ones for every reader."""
    rows = np.random.default_rng(SEED).permutation(at.samples)
    most = min(limit or at.samples, SINGLES if task == "single" else at.samples)
    return rows[:most]


def work(reader: Reader, task: str, rows: np.ndarray, sums: np.ndarray) -> int:
    """Do one pass; return how many chips it gave."""
    if task == "sequential":
        found, wanted, chips = reader.total(), sums[:, 0].sum(), len(sums)
    elif task == "batches":
        found, chips = 0, 0
        for batch in reader.batches(rows):
            found += int(batch[:, 0, 0, 0].sum())
            chips += len(batch)
        wanted = sums[rows, 1].sum()
    else:
        found, chips = sum(int(chip[0, 0, 0]) for chip in reader.chips(rows)), len(rows)
        wanted = sums[rows, 1].sum()
    if found != wanted:
        sys.exit(f"{type(reader).__name__}: the pixels sum up to {found} instead of {wanted}")
    return chips


def check(reader: Reader, task: str, rows: np.ndarray, sums: np.ndarray) -> None:
    """Compare the sum of every pixel; what is read in a row has been compared already."""
    if task == "sequential":
        return
    given = reader.batches(rows) if task == "batches" else reader.chips(rows)
    found, wanted = sum(int(np.asarray(pixels).sum(dtype="u8")) for pixels in given), int(sums[rows, 0].sum())
    if found != wanted:
        sys.exit(f"{type(reader).__name__}: the pixels sum up to {found} instead of {wanted}")


def main(name: str, task: str, places: str, *flags: str) -> None:
    """Time it."""
    at = Places(**json.loads(places))
    reader = READERS[name](at)
    sums = np.load(at.sums)
    rows = chosen(task, at, reader.limit if task == "batches" else None)
    reader.load()
    start = time.perf_counter()
    reader.open()
    work(reader, task, rows, sums)
    middle = time.perf_counter()
    chips = work(reader, task, rows, sums)
    end = time.perf_counter()
    if "--check" in flags:
        check(reader, task, rows, sums)
    print(json.dumps({"parts": {"first": middle - start, "steady": end - middle}, "chips": chips}))


if __name__ == "__main__":
    main(*sys.argv[1:])
