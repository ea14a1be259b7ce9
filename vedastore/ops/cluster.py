"""What can go wrong with a Dask cluster, as errors with names."""

from __future__ import annotations

from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from vedastore.errors import StoreError, VedastoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ALIKE: Final = "install the same vedastore and libraries on the scheduler and on all workers"
_UNREADABLE: Final = "deserialization"
"""What distributed says where the scheduler cannot read what it is to hand out."""


@contextmanager
def cluster_errors() -> Iterator[None]:
    """Name what goes wrong with a cluster in the block.

    Raises
    ------
    StoreError
        When the scheduler is gone, when workers die of their work again and again, and when they cannot begin with it.
    """
    import distributed
    from distributed.comm.core import CommClosedError

    try:
        yield
    except distributed.KilledWorker as error:
        hint = "their logs tell more; most often they have too little memory"
        raise StoreError(f"workers of the cluster died of their work: {error}", hint=hint) from error
    except (CancelledError, distributed.CancelledError, CommClosedError) as error:
        hint = "see whether it still runs, and run this again"
        raise StoreError(f"the cluster gave the work up: {str(error) or type(error).__name__}", hint=hint) from error
    except ImportError as error:
        if isinstance(error, VedastoreError):
            raise
        raise StoreError(f"the workers of the cluster lack a library: {error}", hint=_ALIKE) from error
    except RuntimeError as error:
        if _UNREADABLE not in str(error):
            raise
        raise StoreError(f"the cluster cannot read its work: {error}", hint=_ALIKE) from error
