"""A conversion on the workers of a Dask cluster: chunks stay with who encoded them, until one of them writes the shard.

This process reads the release, learns everything about it but pixels, and decides which chip goes where. What a worker
had is made again, by others, where it dies: Dask knows how.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final, cast

from vedastore.errors import StoreError
from vedastore.ops.cluster import await_ends, count_threads
from vedastore.ops.crew import Crew
from vedastore.ops.roll import Encoded
from vedastore.ops.workers import IN_FLIGHT_BYTES
from vedastore.store.shards import Away, Here

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vedastore.io.objects import Objects
    from vedastore.ops.cluster import Task, Workers
    from vedastore.ops.roll import Outcome
    from vedastore.ops.workers import Promise
    from vedastore.store.commit import Write
    from vedastore.store.shards import ShardDraft

_THREADS: Final = 8
"""Threads that the batches in flight of one process are enough for."""
_HINT: Final = "give the workers a path that leads to the same directory everywhere, or s3://"


class Cluster(Crew):
    """Workers of a Dask cluster. Only shards that were spilled are written by this process."""

    drafts_bytes = 512 * 2**20
    writes_pending = 4
    local = False

    def __init__(self, workers: Workers) -> None:
        super().__init__(workers)
        self._workers = workers
        self.in_flight_bytes = IN_FLIGHT_BYTES * -(-count_threads(workers.client) // _THREADS)
        self._puts: list[Task] = []

    def settle(self) -> None:
        """Wait until no write is under way, here or there."""
        await_ends(self._puts)
        super().settle()

    def submit(self, read: Callable[[Any], Any], batch: Any, /) -> Promise[Any]:
        """Have a batch read; the chunks of its images are `Away`."""
        return _Reading(self._workers, read, batch)

    def put(self, write: Write, key: str, draft: ShardDraft) -> Promise[int]:
        """Have a shard written by one worker, which gets its chunks from those that have them."""
        if draft.away is None:
            return super().put(write, key, draft)
        numbers: dict[Any, int] = {}
        chips = [(numbers.setdefault(chip.holder, len(numbers)), chip.position) for chip in draft.away]
        batches = [holder.outcomes.future for holder in numbers]
        write.note(key)
        target = write.objects, key, write.witness
        put = self._workers.submit(_write_shard, batches, chips, draft.index(), draft.chunks_bytes, target)
        self._puts = [*(earlier for earlier in self._puts if not earlier.done()), put]
        return _Putting(put, write.objects, key)


class _Reading:
    """The outcomes of a batch to come."""

    def __init__(self, workers: Workers, read: Callable[[Any], list[Outcome]], batch: Any) -> None:
        self._held = _Held(workers, workers.submit(read, batch), sum(m.size_bytes for m in batch))
        self._found = workers.submit(_without_chunks, self._held.outcomes.future)

    def done(self) -> bool:
        return self._found.done()

    def cancel(self) -> bool:
        self._found.cancel()
        return self._held.outcomes.cancel()

    def result(self) -> list[Outcome]:
        return [
            outcome._replace(chunks=Away(self._held, position, lengths)) if isinstance(outcome, Encoded) else outcome
            for position, (outcome, lengths) in enumerate(self._found.result())
        ]


class _Putting:
    """The bytes of a shard to come."""

    def __init__(self, put: Task, objects: Objects, key: str) -> None:
        self._put, self._objects, self._key = put, objects, key

    def done(self) -> bool:
        return self._put.done()

    def cancel(self) -> bool:
        return False  # whoever leaves waits for it

    def result(self) -> int:
        size = int(self._put.result())
        if self._objects.size(self._key) != size:
            where = f"{self._objects.url}/{self._key}"
            raise StoreError("a worker wrote the shard where this process does not see it", where=where, hint=_HINT)
        return size


class _Held:
    """The outcomes of a batch, on a worker: they stay there for as long as this is referred to."""

    def __init__(self, workers: Workers, outcomes: Task, size_bytes: int) -> None:
        self._workers, self.outcomes, self.size_bytes = workers, outcomes, size_bytes

    def take(self, positions: Sequence[int]) -> list[bytes]:
        parts: list[bytes] = self._workers.submit(_take_parts, self.outcomes.future, positions).result()
        return parts


def _without_chunks(outcomes: list[Outcome]) -> list[tuple[Outcome, tuple[int, ...]]]:
    """Return outcomes without chunks, each with the lengths of those that it had."""
    return [(o._replace(chunks=Here()), o.chunks.lengths) if isinstance(o, Encoded) else (o, ()) for o in outcomes]


def _take_parts(outcomes: list[Outcome], positions: Sequence[int]) -> list[bytes | memoryview]:
    return [part for position in positions for part in _parts_of(outcomes[position])]


def _parts_of(outcome: Outcome) -> tuple[bytes | memoryview, ...]:
    """Return the chunks of an image where they are."""
    return cast("Here", cast("Encoded", outcome).chunks).parts


def _write_shard(
    batches: list[list[Outcome]],
    chips: Sequence[tuple[int, int]],
    index: bytes,
    chunks_bytes: int,
    target: tuple[Objects, str, tuple[str, str]],
) -> int:
    """Write a shard of chips, each the outcome of a batch; return its bytes.

    It may run twice, and both at a time: the bytes are the same, and an object is replaced whole.
    """
    objects, key, (witness, write_id) = target
    if objects.size(witness) is None:  # it would be written to a disk that only this worker has
        raise StoreError("a worker does not see the store", where=objects.url, hint=_HINT)
    if write_id and write_id.encode() not in objects.read(witness):  # the shard would take the place of another one's
        raise StoreError("another conversion is under way here by now", where=objects.url)
    parts = [*chain.from_iterable(_parts_of(batches[batch][position]) for batch, position in chips)]
    if sum(map(len, parts)) != chunks_bytes:  # a batch was read again elsewhere, where chips become other bytes
        hint = "give all workers the same versions of all libraries"
        raise StoreError("the workers do not encode alike", where=f"{objects.url}/{key}", hint=hint)
    return objects.write(key, chain(parts, [index]))
