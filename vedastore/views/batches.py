"""Batches for training: NumPy arrays of images with their labels, read ahead on threads, in an order that is known."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import UsageError
from vedastore.ops.select import select
from vedastore.ops.workers import count_workers
from vedastore.views.dataset import only_bucket, read_samples
from vedastore.views.images import plan_images, read_images
from vedastore.views.order import Order, whole
from vedastore.views.targets import plan_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future

    from vedastore.store.snapshot import Snapshot

Batch = tuple[np.ndarray[Any, Any], Any]
_COLUMNS = ("id", "position", "bucket", "row", "split", "classes")


@dataclass(frozen=True, slots=True)
class Reading:
    """Which samples are read, and in what form; see ``Collection.batches``."""

    split: str | None = None
    bucket: str | None = None
    labels: str = "auto"
    channels: str = "first"
    dtype: Any = None
    scale: Any = None
    fit: str | None = None
    size_px: Any = None
    clip: bool = False


class BatchReader:
    """Reads any samples of a selection, by their places in it; the index is read now, pixels and labels then.

    Any number of threads may share it.

    Raises
    ------
    UsageError
        When there are no such samples, they are of several buckets and neither one nor a fit is named, or the form
        makes no sense for them.
    """

    def __init__(self, snapshot: Snapshot, positions: Any, reading: Reading) -> None:
        positions = select(snapshot, positions, split=reading.split)
        columns = _COLUMNS if reading.fit is None else (*_COLUMNS, "nodata")
        table, names = read_samples(snapshot, positions, columns, reading.bucket)
        if reading.fit is None:
            only_bucket(names, snapshot.objects.url, "; or take them all with fit= and size_px=")
        self._snapshot, self._reading, self._names = snapshot, reading, names
        specs = {name: snapshot.arrays[name].spec for name in names}
        form = plan_images(
            specs,
            channels=reading.channels,
            dtype=reading.dtype,
            scale=reading.scale,
            fit=reading.fit,
            size_px=reading.size_px,
        )
        self._form, self._table = form, table.combine_chunks()  # rows are taken without a search for their chunk
        positions = table.column("position").to_numpy()
        self._read_labels = plan_targets(snapshot, positions, form, reading.labels, clip=bool(reading.clip))

    def __len__(self) -> int:
        return len(self._table)

    def read(self, indices: Any) -> Batch:
        """Return images and labels of the samples at some places, in their order."""
        part = self._table.take(np.asarray(indices, "i8"))
        return read_images(self._snapshot, self._form, part), self._read_labels(part)

    @cached_property
    def shards(self) -> Any:
        """The number of each sample's shard, counted through all buckets."""
        import pyarrow as pa
        import pyarrow.compute as pc

        per_shard = np.array([self._snapshot.arrays[name].spec.samples_per_shard for name in self._names])
        bucket = pc.index_in(self._table.column("bucket"), pa.array(self._names, "string")).to_numpy().astype("i8")
        return (bucket << 40) + self._table.column("row").to_numpy() // per_shard[bucket]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What tells this selection from others: version, number of samples, digest of content, ids and shards."""
        version = self._snapshot.version
        told = json.dumps([version.content, self._table.column("id").to_pylist()], sort_keys=True).encode()
        digest = hashlib.sha256(told + self.shards.tobytes()).hexdigest()
        return {"version": version.version, "samples": len(self), "selection": digest}

    def state(self, order: Order, done: int) -> dict[str, Any]:
        """Return all that decides which batches are left, as JSON has it."""
        state = {**self.identity, **asdict(order), **asdict(self._reading), "done": done}
        found: dict[str, Any] = json.loads(json.dumps(state, default=_plain))
        return found


def _plain(value: Any) -> Any:
    """Return what JSON has for a type or numbers of NumPy."""
    return value.__name__ if isinstance(value, type) else value.tolist() if hasattr(value, "tolist") else str(value)


class Batches(Iterator[Batch]):
    """Batches ``(images, labels)``, which can be left and gone on with; made by ``Collection.batches``.

    ``len(batches)`` counts those that are left. ``close()`` ends the threads that read ahead, and so does the end of
    the last reference.
    """

    def __init__(self, reader: BatchReader, order: Order, workers: int | None = None, *, skip: int = 0) -> None:
        threads = count_workers(workers)
        self.reader, self.order = reader, order
        self._count = order.count(len(reader))
        self._done = min(whole(skip, "skip", least=0), self._count)
        indices, size = order.arrange(reader.shards), order.size
        read, numbers = reader.read, range(self._done, self._count)
        self._batches = _read_ahead(lambda n: read(indices[n * size : (n + 1) * size]), numbers, threads)

    def __repr__(self) -> str:
        return f"<vedastore.Batches of {self.order.size}: {len(self)} of {self._count} left>"

    def __len__(self) -> int:
        return self._count - self._done

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self._done += 1
        return batch

    def close(self) -> None:
        """End the threads; no further batch comes."""
        self._batches.close()

    def state(self) -> dict[str, Any]:
        """Return what :meth:`from_state` needs to go on behind the last batch that was taken; JSON can hold it.

        It has the version, a digest of the samples, all that ``Collection.batches`` was told besides the number of
        threads, and in ``done`` how many batches of the epoch were taken.
        """
        return self.reader.state(self.order, self._done)

    @classmethod
    def from_state(cls, collection: Any, state: Any, *, workers: int | None = None) -> Batches:
        """Return the batches that were left when a state was taken.

        Parameters
        ----------
        collection : Collection
            The same samples of the same version, wherever the store is now.
        state : dict
            Of :meth:`state`.
        workers : int, optional
            Threads; one for each core that this process may use without it.

        Raises
        ------
        UsageError
            When the state is of another version or selection, or is none.
        """
        told = parse_state(state)
        require_same(told, {"version": collection.version})
        options = {name: told[name] for name in told.keys() - _IDENTITY}
        batches: Batches = collection.batches(**options, skip=told["done"], workers=workers)
        require_same(told, batches.state())
        return batches


_IDENTITY: Final = {"version", "samples", "selection", "done"}


def parse_state(state: Any) -> dict[str, Any]:
    """Return a state as JSON has it.

    Raises
    ------
    UsageError
        When it has not just the words of one.
    """
    try:
        found = json.loads(json.dumps(state))
    except (TypeError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or set(found) != {*asdict(Order(1)), *asdict(Reading()), *_IDENTITY}:
        raise UsageError("this is no state of batches", hint="give what state() returned")
    return found


def require_same(state: dict[str, Any], own: dict[str, Any]) -> None:
    """Refuse a state that says anything else.

    Raises
    ------
    UsageError
        With the first word that differs.
    """
    for name, value in own.items():
        if state[name] != value:
            told = f"the state is of another {name}: {state[name]!r:.80} instead of {value!r:.80}"
            raise UsageError(told, hint="give the collection, version and selection that it was taken of")


def _read_ahead(read: Callable[[int], Batch], numbers: Iterable[int], threads: int) -> Generator[Batch, None, None]:
    """Yield results in their order; while the consumer has one, at most ``threads`` + 1 others are there or under way.

    When the consumer stops, what has not begun is cancelled, and the threads end.
    """
    process, remaining = os.getpid(), iter(numbers)
    pending: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="vedastore-batches") as executor:
        try:
            pending.extend(executor.submit(read, n) for n in islice(remaining, threads + 1))
            while pending:
                batch = pending.popleft()
                pending.extend(executor.submit(read, n) for n in islice(remaining, 1))
                yield batch.result()
                if os.getpid() != process:  # its threads are not here, and would be waited for without end
                    hint = "call batches() in every process"
                    raise UsageError("batches that were begun before a fork do not go on behind it", hint=hint)
        finally:
            for future in pending:
                future.cancel()
