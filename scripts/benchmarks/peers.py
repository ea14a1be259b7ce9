"""Readers of what users have without vedastore, each as its own documentation shows it."""
# ruff: noqa: D102 - methods do what Reader says

from __future__ import annotations

import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scripts.benchmarks.reading import BATCH, Reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

THREADS = 2


def read_tiff(path: str) -> np.ndarray:
    """Return the pixels (band, y, x) of a file."""
    import rasterio

    with rasterio.open(path) as file:
        return file.read()


class Rasterio(Reader):
    """A directory of TIFFs, read by rasterio on two threads; single ones on one."""

    def load(self) -> None:
        import rasterio  # noqa: F401

    def open(self) -> None:
        self.paths = self.at.tiffs
        self.pool = ThreadPoolExecutor(THREADS)

    def total(self) -> int:
        return sum(self.pool.map(lambda path: int(read_tiff(path).sum(dtype="u8")), self.paths))

    def batches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        ahead: list[Future[np.ndarray]] = []
        for start in range(0, len(rows), BATCH):
            batch, ahead = ahead, [self.pool.submit(read_tiff, self.paths[row]) for row in rows[start : start + BATCH]]
            if batch:
                yield np.stack([future.result() for future in batch])
        yield np.stack([future.result() for future in ahead])

    def chips(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for row in rows.tolist():
            yield read_tiff(self.paths[row])


class TiffDataset:
    """A map-style dataset as TorchGeo's: a list of files, opened by rasterio when an item is asked for.

    TorchGeo makes floats of the pixels, too; that is left out, as the others do not.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": read_tiff(self.paths[index])}


class Dataset(Reader):
    """The map-style dataset in a plain loop."""

    def load(self) -> None:
        import rasterio  # noqa: F401

    def open(self) -> None:
        self.dataset = TiffDataset(self.at.tiffs)

    def total(self) -> int:
        return sum(int(self.dataset[i]["image"].sum(dtype="u8")) for i in range(len(self.dataset)))

    def batches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), BATCH):
            yield np.stack([self.dataset[row]["image"] for row in rows[start : start + BATCH].tolist()])

    def chips(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for row in rows.tolist():
            yield self.dataset[row]["image"]


class Loader(Dataset):
    """The map-style dataset behind PyTorch's DataLoader with two workers, which live on between passes."""

    order: np.ndarray | None = None

    def load(self) -> None:
        super().load()
        import torch.utils.data

        self.library = torch.utils.data
        self.loader: Any = None

    def _iterate(self, order: Sequence[int]) -> Iterator[Any]:
        if self.loader is None:
            options = {"batch_size": BATCH, "num_workers": THREADS, "persistent_workers": True}
            self.loader = self.library.DataLoader(self.dataset, sampler=order, **options)
        for batch in self.loader:
            yield batch["image"].numpy()

    def total(self) -> int:
        return sum(int(batch.sum(dtype="u8")) for batch in self._iterate(range(len(self.dataset))))

    def batches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        yield from self._iterate(rows.tolist())


class WebDataset(Reader):
    """WebDataset over the tar of the release. It has no TIFF decoder; the fastest one that there is stands in."""

    source: ClassVar[str] = "tar"

    def load(self) -> None:
        import imagecodecs
        import webdataset

        self.library, self.decode = webdataset, imagecodecs.tiff_decode

    def open(self) -> None:
        warnings.simplefilter("ignore")
        self.path = getattr(self.at, self.source)

    def total(self) -> int:
        dataset = self.library.WebDataset(self.path, shardshuffle=False)
        return sum(int(self.decode(sample["tif"]).sum(dtype="u8")) for sample in dataset if "tif" in sample)


class WebDatasetGzip(WebDataset):
    """WebDataset over the tar.gz."""

    source = "release"


class LitData(Reader):
    """LitData's own format, made beforehand, and read from where it was made."""

    def load(self) -> None:
        import litdata

        self.library = litdata

    def open(self) -> None:
        self.dataset = self.library.StreamingDataset(self.at.litdata, shuffle=False)
        self.loader: Any = None

    def total(self) -> int:
        return sum(int(batch.sum(dtype="u8")) for batch in self._iterate(shuffle=False))

    def batches(self, rows: np.ndarray) -> Iterator[Any]:  # noqa: ARG002 - it shuffles itself
        yield from self._iterate(shuffle=True)

    def _iterate(self, *, shuffle: bool) -> Iterator[Any]:
        if self.loader is None:
            dataset = self.library.StreamingDataset(self.at.litdata, shuffle=shuffle, drop_last=False)
            self.loader = self.library.StreamingDataLoader(
                dataset, batch_size=BATCH, num_workers=THREADS, persistent_workers=True
            )
        for batch in self.loader:
            yield batch["image"].numpy()

    def chips(self, rows: np.ndarray) -> Iterator[Any]:
        for row in rows.tolist():
            yield self.dataset[row]["image"]


class Hdf5(Reader):
    """One HDF5 array, one chip a chunk, as pyveda's VedaBase; random chips one by one, which h5py does best."""

    def load(self) -> None:
        import h5py

        self.library = h5py

    def open(self) -> None:
        self.array = self.library.File(self.at.hdf5, "r")["images"]

    def total(self) -> int:
        return sum(int(self.array[start : start + BATCH].sum(dtype="u8")) for start in range(0, self.at.samples, BATCH))

    def batches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), BATCH):
            yield np.stack([self.array[row] for row in rows[start : start + BATCH].tolist()])

    def chips(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for row in rows.tolist():
            yield self.array[row]


PEERS: dict[str, type[Reader]] = {
    "rasterio": Rasterio,
    "dataset": Dataset,
    "loader": Loader,
    "webdataset": WebDataset,
    "webdataset-gz": WebDatasetGzip,
    "litdata": LitData,
    "hdf5": Hdf5,
}
