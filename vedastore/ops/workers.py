"""Who does the work: threads of this process, or the workers of a Dask cluster. Results come back in order."""

from __future__ import annotations

import operator
import os
import sys
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from vedastore.errors import UsageError
from vedastore.ops.cluster import check_workers, cluster_errors, count_threads, share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vedastore.store.snapshot import Snapshot

IN_FLIGHT_BYTES: Final = 32 * 2**20
"""Raw bytes that may wait for a worker or for their turn at a time."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Given_co = TypeVar("Given_co", covariant=True)


def count_workers(workers: int | None) -> int:
    """Return how many threads to use: as told, or one for each core that this process may use."""
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        found = operator.index(workers)
    except TypeError:
        found = 0
    if found < 1:
        raise UsageError(f"workers must be at least 1, not {workers!r:.80}", hint="give a whole number")
    return found


class CallingThread(Executor):
    """Does the work where it is submitted, at once."""

    def submit(self, function: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Return what the function gave, as a future that is done."""
        future: Future[Result] = Future()
        future.set_result(function(*args, **kwargs))
        return future


@contextmanager
def open_executor(workers: int | None = None, client: Any = None) -> Iterator[Executor]:
    """Give the executor of a Dask client (the one named, or the active one), or else threads.

    A Dask task that names no client works by itself: were it to wait for tasks of its own, all tasks might wait for
    ever. It takes the one core that its worker has for it: a cluster converts many releases side by side.
    """
    client = find_client(client)
    if client is not None:
        with cluster_errors():
            check_workers(client)
            yield client.get_executor(pure=False)
        return
    if workers is None and in_task():
        yield CallingThread()
        return
    with ThreadPoolExecutor(count_workers(workers), thread_name_prefix="vedastore") as executor:
        yield executor


@contextmanager
def open_team(snapshot: Snapshot, workers: int | None = None, client: Any = None) -> Iterator[Team]:
    """Give workers that share a snapshot: threads, or those of a Dask client as in `open_executor`."""
    with open_executor(workers, client) as executor:
        if is_local(executor):
            yield Team(executor, snapshot, count_workers(workers))
            return
        client = find_client(client)
        yield Team(executor, share(client, snapshot), count_threads(client))


@dataclass(frozen=True, slots=True)
class Team:
    """Workers that share a snapshot: what it keeps for the next task is there, once in each process.

    Attributes
    ----------
    executor : Executor
    shared : object
        The snapshot, or what stands for it among the arguments of a task.
    threads : int
        How many tasks are done at a time.
    """

    executor: Executor
    shared: Any
    threads: int

    def map(
        self, function: Callable[[Any, Item], Result], items: Iterable[tuple[Item, int]], limit_bytes: int
    ) -> Iterator[Result]:
        """Yield ``function(snapshot, item)`` as `map_ordered` does, with at most ``limit_bytes`` in flight a thread."""
        return map_ordered(self.executor, function, items, limit_bytes * self.threads, (self.shared,))


def is_local(executor: Executor) -> bool:
    """Tell whether the workers are threads of this process, which see the files that it sees."""
    return isinstance(executor, ThreadPoolExecutor | CallingThread)


def in_task() -> bool:
    """Tell whether this is a task of a Dask cluster, which has one thread of its worker."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def find_client(client: Any = None) -> Any:
    """Return a Dask client: the one named, or the active one; None where there is none. Nothing is imported for it."""
    distributed = sys.modules.get("distributed")
    if client is not None or distributed is None or in_task():
        return client
    try:
        return distributed.get_client()
    except ValueError:
        return None


class Promise(Protocol[Given_co]):
    """What a future is to who waits for it."""

    def done(self) -> bool:
        """Tell whether there is a result, or an error."""

    def result(self) -> Given_co:
        """Return the result, or raise the error."""

    def cancel(self) -> bool:
        """Leave it, if it has not begun."""


class Submits(Protocol):
    """What work is given to."""

    def submit(self, function: Callable[..., Result], /, *args: Any) -> Promise[Result]:
        """Have ``function(*args)`` computed."""


def map_ordered(
    executor: Submits,
    function: Callable[..., Result],
    items: Iterable[tuple[Item, int]],
    limit_bytes: int = IN_FLIGHT_BYTES,
    shared: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """Yield ``function(*shared, item)`` for (item, bytes) pairs in order, with at most ``limit_bytes`` in flight.

    An item larger than the limit is in flight alone, and the next one is not taken before it is done. When the consumer
    stops, what has not begun is cancelled.
    """
    pending: deque[tuple[Promise[Result], int]] = deque()
    in_flight = 0
    try:
        for item, size in items:
            while pending and in_flight + size > limit_bytes:
                future, done = pending.popleft()
                in_flight -= done
                yield future.result()
            pending.append((executor.submit(function, *shared, item), size))
            in_flight += size
            while pending and (in_flight > limit_bytes or pending[0][0].done()):
                future, done = pending.popleft()
                in_flight -= done
                yield future.result()
        while pending:
            yield pending.popleft()[0].result()
    finally:
        for future, _ in pending:
            future.cancel()


def batched_bytes(
    items: Iterable[tuple[Item, int]], limit_bytes: int, limit_items: int
) -> Iterator[tuple[list[Item], int]]:
    """Group (item, bytes) pairs into lists that reach one of the limits, with the bytes of each list."""
    batch: list[Item] = []
    total = 0
    for item, size in items:
        batch.append(item)
        total += size
        if total >= limit_bytes or len(batch) >= limit_items:
            yield batch, total
            batch, total = [], 0
    if batch:
        yield batch, total
