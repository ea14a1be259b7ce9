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
def open_crew(workers: int | None = None, client: Any = None, *, at_home: bool = False) -> Iterator[Crew]:
    """Give workers of this machine, or those of a Dask cluster: of the client named, or of the active one.

    ``at_home``: those of this machine are threads, as they need what only this process has.
    """
    with open_executor(workers, client) as executor, _crew(executor, workers, at_home=at_home) as crew:
        yield crew


def _crew(executor: Executor | Workers, workers: int | None, *, at_home: bool) -> Crew:
    if isinstance(executor, Workers):
        return Cluster(executor)
    at_home |= isinstance(executor, CallingThread) or count_workers(workers) == 1
    if at_home or not hasattr(os, "memfd_create"):  # to share memory without a file
        return Crew(executor)
    return Processes(executor, count_workers(workers))
