"""A Dask cluster: its workers as an executor, a snapshot that they share, what can go wrong as errors with names."""

from __future__ import annotations

from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from vedastore.errors import ClusterError, StoreError, VedastoreError
from vedastore.store.commit import read_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vedastore.store.snapshot import Snapshot

_ALIKE: Final = "install the same vedastore and libraries on the scheduler and on all workers"
_ANYWHERE: Final[Any] = {"allow_other_workers": True, "pure": False}
"""A worker that is asked for may die: another one does it then."""
_UNREADABLE: Final = "deserialization"
"""What distributed says where the scheduler cannot read what it is to hand out."""
_PATIENCE_SECONDS: Final = 300
"""How long a cluster may be without workers: some start them once there is work."""
_FAREWELL_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Task:
    """The result to come of a task. A `Promise`."""

    future: Any

    def done(self) -> bool:
        """Tell whether there is a result, or an error."""
        return bool(self.future.done())

    def result(self) -> Any:
        """Return the result, or raise the error."""
        with cluster_errors():
            return self.future.result()

    def cancel(self) -> bool:
        """Give it up; one that has begun may go on."""
        with suppress(ClusterError), cluster_errors():  # nothing is left to cancel
            self.future.cancel()
        return True


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers of a cluster, to which tasks are given. Only what the cluster does is named as its fault."""

    client: Any

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Task:
        """Have ``function(*args)`` computed by a worker."""
        with cluster_errors():
            return Task(self.client.submit(function, *args, pure=False))


@contextmanager
def cluster_errors() -> Iterator[None]:
    """Name what goes wrong with a cluster in the block.

    Raises
    ------
    ClusterError
        When the scheduler is gone, when workers die of their work again and again, and when they cannot begin with it.
    """
    import distributed
    from distributed.client import ClosedClientError

    try:
        yield
    except distributed.KilledWorker as error:
        hint = "their logs tell more; most often they have too little memory"
        raise ClusterError(f"workers of the cluster died of their work: {error}", hint=hint) from error
    except (CancelledError, distributed.CancelledError, ClosedClientError, OSError) as error:
        hint = "see whether it still runs, and run this again"
        raise ClusterError(f"the cluster gave the work up: {str(error) or type(error).__name__}", hint=hint) from error
    except ImportError as error:
        if isinstance(error, VedastoreError):
            raise
        raise ClusterError(f"the workers of the cluster lack a library: {error}", hint=_ALIKE) from error
    except RuntimeError as error:
        if _UNREADABLE not in str(error):
            raise
        raise ClusterError(f"the cluster cannot read its work: {error}", hint=_ALIKE) from error


def open_workers(client: Any) -> Workers:
    """Return the workers of a cluster, once they know this package: who cannot read its task is waited for in vain.

    Raises
    ------
    ClusterError
        When one does not, and when there are none.
    """
    import distributed

    with cluster_errors():
        if not client.nthreads():
            try:
                distributed.wait(client.submit(import_module, __name__, pure=False), _PATIENCE_SECONDS)
            except TimeoutError:
                hint = "start some, and run this again"
                raise ClusterError("the cluster has no workers", where=client.scheduler.address, hint=hint) from None
        asked = [client.submit(import_module, __name__, workers=[w], **_ANYWHERE) for w in client.nthreads()]
        distributed.wait(asked)
        for future in asked:
            if future.status == "error":
                future.result()
    return Workers(client)


def await_ends(tasks: Iterable[Task]) -> None:
    """Wait until none of some tasks is under way, whatever becomes of them: for a while, as workers may be gone."""
    import distributed

    with suppress(ClusterError), cluster_errors():  # the error that counts is another; a TimeoutError is an OSError
        distributed.wait([task.future for task in tasks], _FAREWELL_SECONDS)


def count_threads(client: Any) -> int:
    """Return how many tasks a cluster does at a time; one where it has no workers yet."""
    threads: dict[str, int] = client.nthreads()
    return max(1, sum(threads.values()))


def share(client: Any, snapshot: Snapshot) -> Any:
    """Return what stands for a snapshot among the arguments of tasks: each worker has it once, and what it keeps.

    It is the result of a task, so that it is made again where the workers die that have it.

    Raises
    ------
    StoreError
        When a worker does not find the store.
    """
    with cluster_errors():
        shared = client.submit(_same, snapshot, pure=False)
        client.gather([client.submit(_find, shared, workers=[w], **_ANYWHERE) for w in client.nthreads()])
    return shared


def _same(snapshot: Snapshot) -> Snapshot:
    return snapshot


def _find(snapshot: Snapshot) -> None:
    where, hint = snapshot.objects.url, "its path or address has to lead to it from all machines"
    try:
        found = read_root(snapshot.objects)
    except StoreError as error:
        raise StoreError(
            f"a worker of the cluster cannot read the store: {error.message}", where=where, hint=hint
        ) from error
    if found is None:
        raise StoreError("a worker of the cluster does not find the store", where=where, hint=hint)
