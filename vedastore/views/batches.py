"""Batches for training: NumPy arrays of images with their labels, read ahead on threads, in an order that is known."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from vedastore.errors import UsageError
from vedastore.ops.workers import count_workers
from vedastore.views.dataset import read_index
from vedastore.views.labels import multi_hot
from vedastore.views.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from vedastore.store.snapshot import Snapshot

Batch = tuple[np.ndarray[Any, Any], "np.ndarray[Any, np.dtype[np.uint8]] | Labels"]
_COLUMNS = ("bucket", "row", "split", "classes")
_LABEL_COLUMNS = ("id", "position", "label")


def iter_batches(
    snapshot: Snapshot,
    positions: Any,
    size: int,
    *,
    shuffle: bool,
    seed: int,
    split: str | None,
    workers: int | None,
    bucket: str | None,
) -> Iterator[Batch]:
    """Yield the samples at some positions in batches; the index is read now, the pixels when they are asked for.

    Raises
    ------
    UsageError
        When there are no such samples, they are of several buckets and none is named, or a number is below 1.
    """
    if size < 1:
        raise UsageError(f"a batch has at least 1 sample, not {size}")
    threads = count_workers(workers)
    columns = _COLUMNS if snapshot.version.task == "classification" else _COLUMNS + _LABEL_COLUMNS
    table, name = read_index(snapshot, positions, columns, bucket, split)
    if shuffle:
        table = table.take(np.random.default_rng(seed).permutation(len(table)))
    table = table.combine_chunks()  # a part of it is a view then

    def read(start: int) -> Batch:
        part = table.slice(start, size)
        return snapshot.chips(name).read_rows(part.column("row").to_numpy()), _labels(snapshot, part)

    return _read_ahead(read, range(0, len(table), size), threads)


def _labels(snapshot: Snapshot, part: Any) -> np.ndarray[Any, np.dtype[np.uint8]] | Labels:
    if snapshot.version.task == "classification":
        return multi_hot(part.column("classes").to_pylist(), snapshot.version.classes)
    return Labels([Sample(snapshot, row) for row in part.to_pylist()])


class Labels(Sequence[Any]):
    """The labels of a batch as ``Sample.label`` gives them, each parsed when it is asked for.

    Parsing takes about as long as reading the pixels, and threads do not share it.
    """

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def __repr__(self) -> str:
        return f"<vedastore labels of {len(self)} samples>"

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, key: int) -> Any: ...
    @overload
    def __getitem__(self, key: slice) -> list[Any]: ...
    def __getitem__(self, key: int | slice) -> Any:
        return [s.label for s in self._samples[key]] if isinstance(key, slice) else self._samples[key].label


def _read_ahead(read: Callable[[int], Batch], starts: range, threads: int) -> Iterator[Batch]:
    """Yield results in their order; while the consumer has one, at most ``threads`` + 1 others are there or under way.

    When the consumer stops, what has not begun is cancelled, and the threads end.
    """
    process, remaining = os.getpid(), iter(starts)
    pending: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="vedastore-batches") as executor:
        try:
            pending.extend(executor.submit(read, start) for start in islice(remaining, threads + 1))
            while pending:
                batch = pending.popleft()
                pending.extend(executor.submit(read, start) for start in islice(remaining, 1))
                yield batch.result()
                if os.getpid() != process:  # its threads are not here, and would be waited for without end
                    hint = "call batches() in every process"
                    raise UsageError("batches that were begun before a fork do not go on behind it", hint=hint)
        finally:
            for future in pending:
                future.cancel()
