"""Who converts: what reads batches of a release, and what writes the shards that are full."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Final, Self, TypeVar

from vedastore.ops.workers import IN_FLIGHT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from vedastore.ops.workers import Promise, Submits
    from vedastore.store.commit import Write
    from vedastore.store.shards import ShardDraft

_LATER: Final = ("pyarrow.parquet", "shapely", "pyproj")
Batch = TypeVar("Batch")
Result = TypeVar("Result")


class Crew:
    """Threads of this process, and one more that writes. A context manager."""

    in_flight_bytes: int = IN_FLIGHT_BYTES
    """Raw bytes of batches that may be with workers."""
    drafts_bytes: int = 128 * 2**20
    """Chunks of shards under way that stay in memory; above it the largest shard goes to a temporary file."""
    writes_pending: int = 1
    local: bool = True
    """Whether workers see the files that this process sees."""

    def __init__(self, executor: Submits) -> None:
        self._executor = executor
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="vedastore-write")
        for library in _LATER:  # what the end of a conversion needs is loaded while the release is read
            self._writer.submit(import_module, library)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()

    def settle(self) -> None:
        """Wait until no write is under way, whatever happened; there are none after this."""
        self._writer.shutdown(cancel_futures=True)

    def dismiss(self) -> None:
        """Let those go who are not needed any more when all batches have been read."""

    def submit(self, read: Callable[[Batch], Result], batch: Batch, /) -> Promise[Result]:
        """Have a batch read."""
        return self._executor.submit(read, batch)

    def put(self, write: Write, key: str, draft: ShardDraft) -> Promise[int]:
        """Have a shard written, durable; the result is its bytes."""
        return self._writer.submit(write.put, key, draft.parts())
