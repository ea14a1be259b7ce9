"""Batches for training: NumPy arrays of images with their labels, read ahead on threads, in an order that is known."""

from __future__ import annotations

import operator
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np

from vedastore.errors import UsageError
from vedastore.ops.select import select
from vedastore.ops.workers import count_workers
from vedastore.store.spilled import SpilledColumn
from vedastore.views.dataset import read_index
from vedastore.views.labels import multi_hot
from vedastore.views.objects import Boxes, draw_masks, plan_drawing, require_objects
from vedastore.views.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from vedastore.store.snapshot import Snapshot

Batch = tuple[np.ndarray[Any, Any], Any]
FORMS: Final = ("auto", "classes", "masks", "boxes")
_COLUMNS = ("id", "position", "bucket", "row", "split", "classes")


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
    labels: str,
    skip: int,
) -> Iterator[Batch]:
    """Yield the samples at some positions in batches; the index is read now, the pixels when they are asked for.

    Raises
    ------
    UsageError
        When there are no such samples, they are of several buckets and none is named, or a number is below 1.
    """
    size, seed, skip = _whole(size, "size", least=1), _whole(seed, "seed", least=0), _whole(skip, "skip", least=0)
    threads = count_workers(workers)
    table, name = read_index(snapshot, select(snapshot, positions, split=split), _COLUMNS, bucket)
    read_labels = _choose_labels(snapshot, table.column("position").to_numpy(), name, labels)
    if shuffle:
        table = table.take(np.random.default_rng(seed).permutation(len(table)))
    table = table.combine_chunks()  # a part of it is a view then

    def read(start: int) -> Batch:
        part = table.slice(start, size)
        return snapshot.chips(name).read_rows(part.column("row").to_numpy()), read_labels(part)

    return _read_ahead(read, range(0, len(table), size)[skip:], threads)


def _choose_labels(snapshot: Snapshot, positions: Any, bucket: str, form: str) -> Callable[[Any], Any]:
    """Return what reads the labels of rows of the index, in the form that was asked for."""
    version = snapshot.version
    if form not in FORMS:
        raise UsageError(f"labels is {form!r}", hint=f"give one of {', '.join(FORMS)}")
    if form in {"masks", "boxes"}:
        require_objects(snapshot, positions)
    if form == "masks":
        size = version.buckets[bucket].spec.shape[1:]
        drawing = plan_drawing(version.classes, size, 0, instances=False, scale=1.0, order=None)
        return lambda part: draw_masks(part.column("position").to_numpy(), snapshot, drawing)
    if form == "boxes":
        return lambda part: list(Boxes(snapshot, part.column("position").to_numpy(), clip=False))
    if form == "classes" or version.task == "classification":
        return lambda part: multi_hot(part.column("classes").to_pylist(), version.classes)
    spilled = SpilledColumn(snapshot.table("samples"), "label", positions)
    return lambda part: Labels([Sample(snapshot, row) for row in part.to_pylist()], spilled)


def _whole(number: int, name: str, *, least: int) -> int:
    try:
        whole = operator.index(number)
    except TypeError:
        whole = least - 1
    if whole < least:
        raise UsageError(f"{name} is {number!r}", hint=f"give a whole number from {least} on")
    return whole


class Labels(Sequence[Any]):
    """The labels of a batch as ``Sample.label`` gives them, each read and parsed when it is asked for.

    Parsing takes about as long as reading the pixels, and threads do not share it. The first label that is asked for
    copies those of all batches to a temporary file: in a random order, each would cost the decoding of a row group.
    """

    def __init__(self, samples: list[Sample], spilled: SpilledColumn) -> None:
        self._samples = samples
        self._spilled: SpilledColumn | None = spilled

    def __getstate__(self) -> list[Sample]:
        """Take all labels along: another process has not the file."""
        self._load(self._samples)
        return self._samples

    def __setstate__(self, samples: list[Sample]) -> None:
        self._samples, self._spilled = samples, None

    def __repr__(self) -> str:
        return f"<vedastore labels of {len(self)} samples>"

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, key: int) -> Any: ...
    @overload
    def __getitem__(self, key: slice) -> list[Any]: ...
    def __getitem__(self, key: int | slice) -> Any:
        chosen = self._samples[key] if isinstance(key, slice) else [self._samples[key]]
        self._load(chosen)
        return [s.label for s in chosen] if isinstance(key, slice) else chosen[0].label

    def _load(self, samples: list[Sample]) -> None:
        if self._spilled is not None:
            for sample, data in zip(samples, self._spilled.read([s.position for s in samples]), strict=True):
                sample.keep_label(data)


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
