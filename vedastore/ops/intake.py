"""Puts what workers read where it belongs: chips into shards as they fill, everything else into the ledger."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Self

from vedastore.errors import StoreError
from vedastore.ops.roll import Encoded, Outcome
from vedastore.spec import keys
from vedastore.spec.root import Bucket
from vedastore.store.chips import ShardReader, decode_chip
from vedastore.store.journal import LIMIT_BYTES, dump_shard
from vedastore.store.shards import Away, Here, ShardDraft, Spill

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vedastore.ops.crew import Crew
    from vedastore.ops.roll import Roll
    from vedastore.ops.workers import Promise
    from vedastore.spec.arrays import ChipSpec
    from vedastore.store.commit import Write
    from vedastore.store.known import KnownChips


class Intake:
    """Puts what was read where it belongs: chips into shards, everything else into the ledger."""

    def __init__(self, write: Write, roll: Roll, crew: Crew, known: KnownChips | None = None) -> None:
        self._write, self._roll, self._crew, self._known = write, roll, crew, known
        self.reused: set[str] = set()
        """Buckets of earlier versions whose chips are used again."""
        self._buckets: dict[ChipSpec, tuple[str, int]] = {}
        self._drafts: dict[ChipSpec, ShardDraft] = {}
        self._bytes: dict[ChipSpec, int] = {}
        self._held_bytes = 0
        self._spill = Spill()
        self._writes: deque[tuple[ShardDraft, str, Promise[int]]] = deque()
        self.resumed = 0

    def take_all(self, batches: Iterable[Sequence[Outcome]]) -> None:
        """Place the outcomes of all batches; nothing refers to them any more then."""
        for outcomes in batches:
            for outcome in outcomes:
                self.take(outcome)

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
        draft.append(image.chunks, image.half.id, image.origin)
        self._held_bytes += draft.memory_bytes
        self.resumed += image.origin is not None
        self.note_written()
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
        kept = self._write.keeps(key, draft)
        if kept is None:
            self._writes.append((draft, key, self._crew.put(self._write, key, draft)))
        else:
            self._note(draft, key, kept)

    def note_written(self) -> None:
        """Note down the shards that have been written since."""
        while self._writes and self._writes[0][-1].done():
            self._await_write()

    def _await_write(self) -> None:
        draft, key, promise = self._writes.popleft()
        self._note(draft, key, promise.result())

    def _note(self, draft: ShardDraft, key: str, size: int) -> None:
        """Note down a shard that is written, unless an interrupted conversion has done so."""
        self._bytes[draft.spec] = self._bytes.get(draft.spec, 0) + size
        if self._write.first and draft.origin != key:
            images = self._roll.dump_images(draft.ids, LIMIT_BYTES // 2)
            if images is not None:
                self._write.log(dump_shard(key, draft, images))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until no write is under way, whatever happened."""
        self._crew.settle()
        self._spill.close()

    def seal(self) -> None:
        """Begin to write the shards that are not full: nothing more is to be read or taken."""
        self._crew.dismiss()
        for spec in list(self._drafts):
            self._write_shard(spec)

    def finish(self) -> dict[str, Bucket]:
        """Wait until all shards are written, the last ones too; return the buckets."""
        self.seal()
        while self._writes:
            self._await_write()
        return {name: Bucket(spec, rows, self._bytes[spec]) for spec, (name, rows) in self._buckets.items()}


def find_chip(known: KnownChips, write: Write, image: Encoded) -> tuple[str, int] | None:
    """Return the bucket and the row that have an image's chip already; None where none has.

    A file of the same SHA-256 has the same pixels. Of another file with pixels of the same digest the stored chunks
    are compared, byte by byte, and their pixels where a library of another version encoded them.
    """
    if place := known.find_file(image.half.digest):
        return place
    found = known.find_pixels(image.half.pixel_digest, write.name_bucket(image.spec))
    if found is None:
        return None
    stored = ShardReader(write.objects, found[0], image.spec).read_chunks(found[1])
    chunks = image.chunks
    own = Here((*chunks.holder.take([chunks.position]),), chunks.lengths) if isinstance(chunks, Away) else chunks
    if stored == own.chunks:
        return found
    try:
        before, now = (decode_chip(chunks, image.spec, found[0]).tobytes() for chunks in (stored, own.chunks))
    except StoreError:  # what is damaged there is not known, and stored anew
        return None
    return found if before == now else None
