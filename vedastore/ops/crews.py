"""Which crew converts: threads, processes beside them, or the workers of a Dask cluster."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vedastore.ops.cluster import Workers
from vedastore.ops.cluster_crew import Cluster
from vedastore.ops.crew import Crew
from vedastore.ops.process_crew import Processes
from vedastore.ops.workers import CallingThread, count_workers, open_executor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor


@contextmanager
def open_crew(workers: int | None = None, client: Any = None) -> Iterator[Crew]:
    """Give workers of this machine, or those of a Dask cluster: of the client named, or of the active one."""
    with open_executor(workers, client) as executor, _crew(executor, workers) as crew:
        yield crew


def _crew(executor: Executor | Workers, workers: int | None) -> Crew:
    if isinstance(executor, Workers):
        return Cluster(executor)
    alone = isinstance(executor, CallingThread) or count_workers(workers) == 1
    if alone or not hasattr(os, "memfd_create"):  # to share memory without a file
        return Crew(executor)
    return Processes(executor, count_workers(workers))
