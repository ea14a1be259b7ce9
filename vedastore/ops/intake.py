"""What happens to a release's members while it is read: workers decode and encode, one thread places the results."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from vedastore.errors import PairError, ReleaseError
from vedastore.exchange.release import read_image, read_label
from vedastore.model import ImageHalf, LabelHalf
from vedastore.spec import keys
from vedastore.spec import release as rules
from vedastore.spec.arrays import ChipSpec
from vedastore.spec.root import Bucket
from vedastore.store.shards import ShardDraft, encode_chip

if TYPE_CHECKING:
    from vedastore.io.archive import Member
    from vedastore.ops.options import ConvertOptions
    from vedastore.spec.release import MemberRole
    from vedastore.store.commit import Write
    from vedastore.store.ledger import Ledger

DRAFTS_BYTES: Final = 128 * 2**20
"""Encoded chips of shards under way that stay in memory; above it the largest shard goes to a temporary file."""
WRITES_PENDING: Final = 2


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image whose pixels are inner chunks by now."""

    half: ImageHalf
    spec: ChipSpec
    chunks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Other:
    """A member that is no half of a pair."""

    member: Member
    role: MemberRole


@dataclass(frozen=True, slots=True)
class Rejected:
    """A half that was left out, and why."""

    id: str
    member: str
    error: ReleaseError


Outcome = Encoded | LabelHalf | Other | Rejected


def read_batch(members: list[Member], options: ConvertOptions, where: str) -> list[Outcome]:
    """Do what a worker does with some members: decode, hash, encode."""
    outcomes: list[Outcome] = []
    for member in members:
        role = rules.classify(member.name, is_dir=member.is_dir)
        place = f"{where}: {member.name}"
        try:
            if role.kind == "image":
                half, pixels = read_image(member, role, place)
                spec = ChipSpec.of(pixels)
                outcomes.append(Encoded(half, spec, encode_chip(pixels, spec)))
            elif role.kind == "label":
                outcomes.append(read_label(member, role, options.labels, place))
            else:
                outcomes.append(Other(member, role))
        except ReleaseError as error:
            if options.on_error == "raise":
                raise
            outcomes.append(Rejected(role.id, member.name, error))
    return outcomes


class Intake:
    """Puts what was read where it belongs: chips into shards, everything else into the ledger."""

    def __init__(self, write: Write, ledger: Ledger, options: ConvertOptions, where: str) -> None:
        self._write, self._ledger, self._options, self._where = write, ledger, options, where
        self._buckets: dict[ChipSpec, tuple[str, int]] = {}
        self._drafts: dict[ChipSpec, ShardDraft] = {}
        self._bytes: dict[ChipSpec, int] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="vedastore-write")
        self._writes: deque[tuple[ChipSpec, Future[int]]] = deque()
        self._singles: dict[str, str] = {}
        self._top: tuple[str, str] | None = None

    def take(self, outcome: Outcome) -> None:
        """Place one outcome."""
        match outcome:
            case Encoded():
                self._check_top(outcome.half.member)
                self._take_image(outcome)
            case LabelHalf():
                self._check_top(outcome.member)
                self._refuse_twice(outcome.id, outcome.member, self._ledger.add_label(outcome))
            case Other(member, role):
                if role.kind in {"meta", "bounds"}:
                    self._check_once(role.kind, member.name)
                self._ledger.add_member(member.ordinal, member.name, role.kind, member.data)
            case Rejected(sample_id, member_name, error):
                self._ledger.reject(sample_id, member_name, error.message)

    def _take_image(self, image: Encoded) -> None:
        name, rows = self._buckets.get(image.spec) or (self._new_bucket(image.spec), 0)
        taken = self._ledger.add_image(image.half, name, rows)
        self._refuse_twice(image.half.id, image.half.member, taken)
        if taken:
            return
        self._buckets[image.spec] = name, rows + 1
        draft = self._drafts.setdefault(image.spec, ShardDraft(image.spec))
        draft.append(image.chunks)
        if draft.full:
            self._write_shard(image.spec)
        elif sum(d.memory_bytes for d in self._drafts.values()) > DRAFTS_BYTES:
            max(self._drafts.values(), key=lambda d: d.memory_bytes).spill()

    def _new_bucket(self, spec: ChipSpec) -> str:
        generation = 0
        while (name := keys.bucket(spec.dtype, *spec.shape, generation)) in self._write.taken_buckets:
            generation += 1
        return name

    def _write_shard(self, spec: ChipSpec) -> None:
        name, rows = self._buckets[spec]
        key = keys.shard(name, (rows - 1) // spec.samples_per_shard)
        draft = self._drafts.pop(spec)
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
        for draft in self._drafts.values():
            draft.close()

    def finish(self) -> dict[str, Bucket]:
        """Write the shards that are not full, and wait for all; return the buckets."""
        for spec in list(self._drafts):
            self._write_shard(spec)
        while self._writes:
            self._await_write()
        return {name: Bucket(spec, rows, self._bytes[spec]) for spec, (name, rows) in self._buckets.items()}

    def _refuse_twice(self, sample_id: str, member: str, taken: str | None) -> None:
        if taken is None:
            return
        error = PairError(f"the id {sample_id!r} has two files: {taken} and {member}", where=self._where)
        if self._options.on_error == "raise":
            raise error
        self._ledger.reject(sample_id, member, error.message)

    def _check_top(self, member: str) -> None:
        top = rules.classify(member).top
        if self._top is None:
            self._top = top, member
        elif self._top[0] != top:
            message = f"there are two releases in one archive: {self._top[1]} and {member}"
            raise PairError(message, where=self._where, hint="convert each by itself")

    def _check_once(self, kind: str, member: str) -> None:
        if kind in self._singles:
            raise PairError(f"there are two: {self._singles[kind]} and {member}", where=self._where)
        self._singles[kind] = member
