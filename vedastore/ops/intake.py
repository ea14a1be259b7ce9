"""Puts what workers read where it belongs: chips into shards as they fill, everything else into the ledger."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Final, Self

from vedastore.ops.roll import Encoded, Outcome
from vedastore.spec import keys
from vedastore.spec.root import Bucket
from vedastore.store.chips import ShardReader
from vedastore.store.shards import ShardDraft, Spill

if TYPE_CHECKING:
    from vedastore.ops.roll import Roll
    from vedastore.spec.arrays import ChipSpec
    from vedastore.store.commit import Write
    from vedastore.store.known import KnownChips

DRAFTS_BYTES: Final = 128 * 2**20
"""Encoded chips of shards under way that stay in memory; above it the largest shard goes to a temporary file."""
WRITES_PENDING: Final = 1
_LATER: Final = ("pyarrow.parquet", "shapely", "pyproj")


class Intake:
    """Puts what was read where it belongs: chips into shards, everything else into the ledger."""

    def __init__(self, write: Write, roll: Roll, known: KnownChips | None = None) -> None:
        self._write, self._roll, self._known = write, roll, known
        self.reused: set[str] = set()
        """Buckets of earlier versions whose chips are used again."""
        self._buckets: dict[ChipSpec, tuple[str, int]] = {}
        self._drafts: dict[ChipSpec, ShardDraft] = {}
        self._bytes: dict[ChipSpec, int] = {}
        self._held_bytes = 0
        self._spill = Spill()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="vedastore-write")
        for library in _LATER:  # what the end of a conversion needs is loaded while the release is read
            self._writer.submit(import_module, library)
        self._writes: deque[tuple[ChipSpec, Future[int]]] = deque()

    def take(self, outcome: Outcome) -> None:
        """Place one outcome."""
        if isinstance(outcome, Encoded):
            self._take_image(outcome)
        else:
            self._roll.add(outcome)

    def _take_image(self, image: Encoded) -> None:
        if self._known is not None and (place := find_chip(self._known, self._write, image)):
            if self._roll.add_image(image.half, *place):
                self.reused.add(place[0])
            return
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
        elif self._held_bytes > DRAFTS_BYTES:
            largest = max(self._drafts.values(), key=lambda d: d.memory_bytes)
            self._held_bytes -= largest.memory_bytes
            largest.spill()

    def _write_shard(self, spec: ChipSpec) -> None:
        name, rows = self._buckets[spec]
        key = keys.shard(name, (rows - 1) // spec.samples_per_shard)
        draft = self._drafts.pop(spec)
        self._held_bytes -= draft.memory_bytes
        while len(self._writes) >= WRITES_PENDING:
            self._await_write()
        self._writes.append((spec, self._writer.submit(self._write.put, key, draft.parts())))

    def _await_write(self) -> None:
        spec, future = self._writes.popleft()
        self._bytes[spec] = self._bytes.get(spec, 0) + future.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until no write is under way, whatever happened."""
        self._writer.shutdown(cancel_futures=True)
        self._spill.close()

    def finish(self) -> dict[str, Bucket]:
        """Write the shards that are not full, and wait for all; return the buckets."""
        for spec in list(self._drafts):
            self._write_shard(spec)
        while self._writes:
            self._await_write()
        return {name: Bucket(spec, rows, self._bytes[spec]) for spec, (name, rows) in self._buckets.items()}


def find_chip(known: KnownChips, write: Write, image: Encoded) -> tuple[str, int] | None:
    """Return the bucket and the row that have an image's chip already; None where none has.

    A file of the same SHA-256 has the same pixels. Of another file with pixels of the same digest the stored chunks
    are compared, byte by byte.
    """
    if place := known.find_file(image.half.digest):
        return place
    found = known.find_pixels(image.half.pixel_digest, write.name_bucket(image.spec))
    if found is None:
        return None
    stored = ShardReader(write.objects, found[0], image.spec).read_chunks(found[1])
    return found if stored == image.chunks else None
