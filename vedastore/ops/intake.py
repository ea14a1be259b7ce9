"""Puts what workers read where it belongs: chips into shards as they fill, everything else into the ledger."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Self

from vedastore.ops.roll import Encoded, Outcome
from vedastore.spec import keys
from vedastore.spec.root import Bucket
from vedastore.store.shards import ShardDraft, Spill

if TYPE_CHECKING:
    from vedastore.ops.crew import Crew
    from vedastore.ops.roll import Roll
    from vedastore.ops.workers import Promise
    from vedastore.spec.arrays import ChipSpec
    from vedastore.store.commit import Write


class Intake:
    """Puts what was read where it belongs: chips into shards, everything else into the ledger."""

    def __init__(self, write: Write, roll: Roll, crew: Crew) -> None:
        self._write, self._roll, self._crew = write, roll, crew
        self._buckets: dict[ChipSpec, tuple[str, int]] = {}
        self._drafts: dict[ChipSpec, ShardDraft] = {}
        self._bytes: dict[ChipSpec, int] = {}
        self._held_bytes = 0
        self._spill = Spill()
        self._writes: deque[tuple[ChipSpec, Promise[int]]] = deque()

    def take(self, outcome: Outcome) -> None:
        """Place one outcome."""
        if isinstance(outcome, Encoded):
            self._take_image(outcome)
        else:
            self._roll.add(outcome)

    def _take_image(self, image: Encoded) -> None:
        name, rows = self._buckets.get(image.spec) or (self._write.name_bucket(image.spec), 0)
        if not self._roll.add_image(image.half, name, rows):
            return
        self._buckets[image.spec] = name, rows + 1
        draft = self._drafts.get(image.spec) or self._drafts.setdefault(image.spec, ShardDraft(image.spec, self._spill))
        self._held_bytes -= draft.memory_bytes
        draft.append(image.chunks)
        self._held_bytes += draft.memory_bytes
        if draft.full:
            self._write_shard(image.spec)
        elif self._held_bytes > self._crew.drafts_bytes:
            largest = max(self._drafts.values(), key=lambda d: d.memory_bytes)
            self._held_bytes -= largest.memory_bytes
            largest.spill()

    def _write_shard(self, spec: ChipSpec) -> None:
        name, rows = self._buckets[spec]
        key = keys.shard(name, (rows - 1) // spec.samples_per_shard)
        draft = self._drafts.pop(spec)
        self._held_bytes -= draft.memory_bytes
        while len(self._writes) >= self._crew.writes_pending:
            self._await_write()
        self._writes.append((spec, self._crew.put(self._write, key, draft)))

    def _await_write(self) -> None:
        spec, future = self._writes.popleft()
        self._bytes[spec] = self._bytes.get(spec, 0) + future.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until no write is under way, whatever happened."""
        self._crew.settle()
        self._spill.close()

    def finish(self) -> dict[str, Bucket]:
        """Write the shards that are not full, and wait for all; return the buckets."""
        for spec in list(self._drafts):
            self._write_shard(spec)
        while self._writes:
            self._await_write()
        return {name: Bucket(spec, rows, self._bytes[spec]) for spec, (name, rows) in self._buckets.items()}
