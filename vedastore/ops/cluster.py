"""A Dask cluster: a snapshot that its workers share, and what can go wrong with it, as errors with names."""

from __future__ import annotations

from concurrent.futures import CancelledError
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from vedastore.errors import ClusterError, StoreError, VedastoreError
from vedastore.store.commit import read_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vedastore.store.snapshot import Snapshot

_ALIKE: Final = "install the same vedastore and libraries on the scheduler and on all workers"
_ANYWHERE: Final[Any] = {"allow_other_workers": True, "pure": False}
"""A worker that is asked for may die: another one does it then."""
_UNREADABLE: Final = "deserialization"
"""What distributed says where the scheduler cannot read what it is to hand out."""


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


def check_workers(client: Any) -> None:
    """Find out whether the workers know this package: one that cannot read its task would be waited for in vain.

    Raises
    ------
    ImportError
        When one does not.
    """
    import distributed

    asked = [client.submit(import_module, __name__, workers=[w], **_ANYWHERE) for w in client.nthreads()]
    distributed.wait(asked)
    for future in asked:
        if future.status == "error":
            future.result()


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
