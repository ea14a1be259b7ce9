"""Training with PyTorch: datasets for a ``DataLoader``, whose order is known and whose workers change nothing.

======================  =====================================================================================
:class:`ChipDataset`    map-style: one sample by its number, or all of a batch with one read
:class:`BatchSampler`   which samples are in which batch of it, epoch by epoch
:class:`BatchDataset`   iterable: whole batches in that order, for ``DataLoader(dataset, batch_size=None)``
:func:`collate`         for ``DataLoader(collate_fn=collate)`` with a ChipDataset
======================  =====================================================================================

Images are tensors (sample, band, y, x) of the form that the options of ``Collection.batches`` give them: ``split``,
``bucket``, ``channels``, ``dtype``, ``scale``, ``fit``, ``size_px``. Targets are, by the task or by ``labels``:

======================  =====================================================================================
``"classes"``           (sample, class) float32, 1 where a sample has a class: for ``BCEWithLogitsLoss``
``"masks"``             (sample, y, x) int64, 0 the background and 1 the first class: for ``CrossEntropyLoss``
``"boxes"``             a list with a dictionary for each sample, as torchvision's detectors take it: ``boxes``
                        (box, 4) float32 ``[minx, miny, maxx, maxy]``, cut at the edges of the chip, without
                        those of no area; ``labels`` (box) int64, 1 the first class
======================  =====================================================================================

Workers may be started by spawn, forkserver or fork. It needs PyTorch, which the extra ``torch`` installs.
"""

from __future__ import annotations

import operator
from dataclasses import fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from vedastore.errors import MissingExtraError, UsageError
from vedastore.views.batches import Batches, Reading, parse_state, require_same
from vedastore.views.order import Order, whole

try:
    import torch
    from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info
except ImportError as error:
    told = f"vedastore.torch needs PyTorch, which cannot be imported: {error}"
    raise MissingExtraError(told, hint="pip install torch, or install vedastore with its extra torch") from None

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vedastore.views.batches import BatchReader
    from vedastore.views.collection import Collection

__all__ = ["BatchDataset", "BatchSampler", "ChipDataset", "collate"]

_TARGETS: Final = {"classification": "classes", "segmentation": "masks", "object_detection": "boxes"}


class _Source:
    """Reads samples of a collection as tensors; another process gets the collection, and reads its index itself."""

    def __init__(self, collection: Collection, options: dict[str, Any]) -> None:
        known = [field.name for field in fields(Reading)]
        if unknown := set(options) - {*known}:
            raise UsageError(f"there is no option {min(unknown)!r}", hint=f"there are {', '.join(known)}")
        labels = options.get("labels", "auto")
        self._labels = _TARGETS[collection.task] if labels == "auto" else labels
        self._collection, self._options = collection, {"clip": True} | options | {"labels": self._labels}
        len(self.reader)  # what makes no sense is refused here

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "reader"}

    @cached_property
    def reader(self) -> BatchReader:
        return self._collection.batches(1, **self._options).reader

    def read(self, indices: Any) -> tuple[Any, Any]:
        return self.as_tensors(self.reader.read(indices))

    def as_tensors(self, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        """Return images, which are not copied, and targets."""
        images, labels = batch
        match self._labels:
            case "classes":
                targets: Any = torch.from_numpy(labels.astype("f4"))
            case "masks":
                targets = torch.from_numpy(labels.astype("i8"))
            case _:
                targets = [_detections(own) for own in labels]
        return torch.from_numpy(images), targets


def _detections(by_class: list[Any]) -> dict[str, Any]:
    """Return the boxes of a sample, given those of each class, as torchvision's detectors take them."""
    boxes = np.concatenate([np.zeros((0, 4)), *by_class]).astype("f4")
    codes = np.repeat(np.arange(1, len(by_class) + 1), [len(own) for own in by_class])
    solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return {"boxes": torch.from_numpy(boxes[solid]), "labels": torch.from_numpy(codes[solid])}


class _Ordered:
    """Batches of a source in an order of epochs, from some batch on."""

    def __init__(self, source: _Source, order: Order) -> None:
        self._source, self._order = source, order
        # Shared, so that workers which live for several epochs see where training is.
        self._place = torch.tensor([order.epoch, 0]).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._place.share_memory_()  # a copy has it in memory of its own; what a worker was sent is shared already

    def __len__(self) -> int:
        return self._order.count(len(self._source.reader))

    def set_epoch(self, epoch: int) -> None:
        """Let the next loop go through another epoch, from its first batch on; call it before each epoch."""
        self._place[:] = torch.tensor([replace(self._order, epoch=epoch).epoch, 0])

    def state(self, done: int = 0) -> dict[str, Any]:
        """Return what :meth:`load_state` needs to go on, given the batches that the loop has had.

        Parameters
        ----------
        done : int
            Batches that were taken since ``set_epoch``, or since ``load_state``: the loop alone knows, because workers
            are ahead of it.

        Returns
        -------
        dict
            As ``Batches.state`` gives it; JSON can hold it.
        """
        order, first = self._now()
        return self._source.reader.state(order, first + whole(done, "done", least=0, most=len(self) - first))

    def load_state(self, state: dict[str, Any]) -> None:
        """Let the next loop give the batches that were left when a state was taken.

        Raises
        ------
        UsageError
            When the state is of another version, selection, order or form, or is none.
        """
        told = parse_state(state)
        order = replace(self._order, epoch=told["epoch"])
        done = whole(told["done"], "done", least=0, most=len(self))
        require_same(told, self._source.reader.state(order, done))
        self._place[:] = torch.tensor([order.epoch, done])

    def _now(self) -> tuple[Order, int]:
        """Return the order of the epoch that training is in, and the first batch of it that is wanted."""
        epoch, first = self._place.tolist()
        return replace(self._order, epoch=epoch), first

    def _plan(self) -> list[Any]:
        """Return the places of the samples of each batch that is wanted."""
        order, first = self._now()
        places, size = order.arrange(self._source.reader.shards), order.size
        return [places[at : at + size] for at in range(first * size, len(places), size)]


class ChipDataset(Dataset):
    """The samples of a collection, ``(image, target)`` by their numbers.

    A ``DataLoader`` asks for all samples of a batch at once, and they are read together; with :func:`collate` they stay
    one tensor. What reads them in parallel are the loader's workers.

    Parameters
    ----------
    collection : Collection
    **options
        Of ``Collection.batches``: ``split``, ``bucket``, ``labels``, ``channels``, ``dtype``, ``scale``, ``fit``,
        ``size_px``, and ``clip``, which is True unless it is said.

    Raises
    ------
    UsageError
        As ``Collection.batches``.
    """

    def __init__(self, collection: Collection, **options: Any) -> None:
        self.source = _Source(collection, options)

    def __len__(self) -> int:
        return len(self.source.reader)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        places = range(len(self))
        return _Samples(self.source.read([places[operator.index(index)] for index in indices]))


class _Samples(list[tuple[Any, Any]]):
    """Samples that were read together: views of one batch, which is kept beside them."""

    def __init__(self, batch: tuple[Any, Any]) -> None:
        super().__init__(zip(*batch, strict=True))
        self._batch, self._read = batch, tuple(self)

    @property
    def batch(self) -> tuple[Any, Any] | None:
        """The batch; None where others stand in the list now, such as images that were augmented."""
        unchanged = len(self) == len(self._read) and all(map(operator.is_, self, self._read))
        return self._batch if unchanged else None


def collate(samples: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Return the images of some samples as one tensor, and their targets as one, or as a list where they are boxes.

    Nothing is copied where a :class:`ChipDataset` has read the samples together.
    """
    if isinstance(samples, _Samples) and (batch := samples.batch) is not None:
        return batch
    images, targets = zip(*samples, strict=True)
    boxes = isinstance(targets[0], dict)
    return torch.stack(images), list(targets) if boxes else torch.stack(targets)


class BatchSampler(_Ordered, Sampler):
    """Which samples of a :class:`ChipDataset` are in which batch: for ``DataLoader(batch_sampler=)``.

    The order is that of ``Collection.batches``, epoch by epoch. ``len`` counts the batches of an epoch.

    Parameters
    ----------
    dataset : ChipDataset
    size, shuffle, seed
        As in ``Collection.batches``.
    """

    def __init__(
        self, dataset: ChipDataset, size: int, *, shuffle: bool | Literal["shards"] = False, seed: int = 0
    ) -> None:
        super().__init__(dataset.source, Order(size, shuffle, seed))

    def __iter__(self) -> Iterator[list[int]]:
        return (places.tolist() for places in self._plan())


class BatchDataset(_Ordered, IterableDataset):
    """Whole batches ``(images, targets)`` in an order that is known: for ``DataLoader(dataset, batch_size=None)``.

    Workers of the loader take turns, so that the order is the same for any number of them; without workers, threads
    read ahead. ``len`` counts the batches of an epoch.

    Parameters
    ----------
    collection : Collection
    size, shuffle, seed
        As in ``Collection.batches``.
    **options
        As of :class:`ChipDataset`.

    Raises
    ------
    UsageError
        As ``Collection.batches``.
    """

    def __init__(
        self,
        collection: Collection,
        size: int,
        *,
        shuffle: bool | Literal["shards"] = False,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(_Source(collection, options), Order(size, shuffle, seed))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        source, worker = self._source, get_worker_info()
        if worker is not None:
            return map(source.read, self._plan()[worker.id :: worker.num_workers])
        order, first = self._now()
        return map(source.as_tensors, Batches(source.reader, order, skip=first))
