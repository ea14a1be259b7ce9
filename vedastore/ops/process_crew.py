"""A conversion by processes of this machine, where workers read the release themselves: threads share one lock.

Each process reads, decodes, hashes and encodes batches, and forgets them. Chunks come back in memory that all of them
share; this process decides which chip goes where, and is the only one that writes. Threads begin while the processes
start, so that a small release never sees them. They also read what this process has to decompress or to fetch, which
is what takes most of the time then, and the batches of a process that dies.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from vedastore.errors import StoreError
from vedastore.io.member import Member, Unread
from vedastore.io.peers import GoneError, Peer
from vedastore.ops.crew import Crew
from vedastore.ops.resume import Known
from vedastore.ops.roll import Encoded
from vedastore.store.shards import Away, Here

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from vedastore.ops.roll import Outcome
    from vedastore.ops.workers import Promise, Submits

WORTH_BYTES: Final = 16 * 2**20
"""A smaller release is converted before a process has started."""
_MOST: Final = 16
"""More processes would wait: so many batches are in flight."""
_SLOT_BYTES: Final = 4 * 2**20
"""Room for the chunks of a batch; memory is taken as far as it is used."""
_SLOTS: Final = 96
_INLINE_BYTES: Final = 16 * 2**10
"""Members that have been read are sent through a pipe where they are no larger."""
Offered = Member | Unread | Known
Place = tuple[int, tuple[int, ...]]
"""Where the chunks of a chip begin in shared memory, and their lengths."""


class Processes(Crew):
    """Processes that read batches of files, and threads for all others.

    Parameters
    ----------
    executor
        The threads.
    count : int
        How many processes.
    """

    def __init__(self, executor: Submits, count: int) -> None:
        super().__init__(executor)
        self._most = min(count, _MOST)
        self._passed_bytes = 0
        self._room: _Room | None = None
        self._peers: list[Peer] = []
        self._sources: tuple[int, ...] = ()

    def settle(self) -> None:
        """Wait until no write is under way, and end the processes."""
        super().settle()
        self._end()

    def dismiss(self) -> None:
        """End the processes; their chunks stay until they are written."""
        for peer in self._peers:
            peer.close()
        self._peers = []
        if self._room:
            self._room.shut()

    def submit(self, read: Callable[[Any], Any], batch: Any, /) -> Promise[Any]:
        """Have a batch read; the chunks of its images are `Away`, in shared memory, where there was room for them."""
        members = [offered.member if isinstance(offered, Known) else offered for offered in batch]
        if all(isinstance(member, Unread) or member.size_bytes <= _INLINE_BYTES for member in members):
            self._passed_bytes += sum(member.size_bytes for member in members)
            unread = [member for member in members if isinstance(member, Unread)]
            sources = {member.source for member in unread if isinstance(member.source, int)}
            if unread and self._passed_bytes >= WORTH_BYTES and self._most and self._room is None:
                self._start(read, tuple(sources))
            ready = [peer for peer in self._peers if peer.is_ready]
            if self._room and ready and sources.issubset(self._sources):
                slot = self._room.take()
                found = min(ready, key=lambda peer: peer.pending).submit(batch, slot)
                return _Reading(found, self._room, slot, partial(super().submit, read, batch))
        return super().submit(read, batch)

    def _start(self, read: Callable[[Any], Any], sources: tuple[int, ...]) -> None:
        """Start all processes; they are given the descriptors that files are read from.

        They are a help, and no need: where the system refuses them, threads go on.
        """
        self._sources = sources
        try:
            self._room = _Room()
            for _ in range(self._most):
                keep = self._room.descriptor, *sources
                self._peers.append(Peer(_make_reader, sources, _SLOT_BYTES, read, keep=keep))
        except (StoreError, OSError, RuntimeError):
            self._end()
            self._most = 0

    def _end(self) -> None:
        self.dismiss()
        if self._room:
            self._room.close()
        self._room = None


class _Room:
    """Memory that is shared with other processes, slot by slot."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.memfd_create("vedastore"), "r+b", buffering=0)
        self._file.truncate(_SLOTS * _SLOT_BYTES)
        self.descriptor = self._file.fileno()
        self.memory = mmap.mmap(self.descriptor, 0)
        self._free = deque(range(0, _SLOTS * _SLOT_BYTES, _SLOT_BYTES))  # any thread may use it without a lock
        self._is_shut = False

    def take(self) -> int | None:
        """Take a slot, the one that was given back last; return where it begins. None where there is none."""
        try:
            return self._free.pop()
        except IndexError:
            return None

    def give_back(self, slot: int) -> None:
        """Give a slot back."""
        self._free.append(slot)
        if self._is_shut:
            self._empty()

    def shut(self) -> None:
        """Let go of the memory of all slots that are free, and of others when they are given back: none is taken."""
        self._is_shut = True
        self._empty()

    def _empty(self) -> None:
        with suppress(OSError):  # where a system does not know how, it stays until the end
            while (slot := self.take()) is not None:
                self.memory.madvise(mmap.MADV_REMOVE, slot, _SLOT_BYTES)

    def close(self) -> None:
        """Give it up; what is referred to stays until then."""
        self._is_shut = False
        self._file.close()
        with suppress(BufferError):
            self.memory.close()


@dataclass(slots=True)
class _Reading:
    """The outcomes of a batch to come; where a process is gone, ``again`` has the batch read by threads."""

    found: Future[Any]
    room: _Room
    slot: int | None
    again: Callable[[], Promise[list[Outcome]]]
    taken: list[Outcome] | None = None

    def done(self) -> bool:
        return self.found.done()

    def cancel(self) -> bool:
        return self.found.cancel()

    def result(self) -> list[Outcome]:
        if self.taken is None:
            try:
                outcomes, places = self.found.result()
            except GoneError:  # its slot is nobody's any more: it may have been written to the end
                self.taken = self.again().result()
            else:
                shelf = _Shelf(self.room, self.slot, places)  # one: it gives the slot back
                self.taken = [
                    cast("Encoded", outcome)._replace(chunks=Away(shelf, position, place[1])) if place else outcome
                    for position, (outcome, place) in enumerate(zip(outcomes, places, strict=True))
                ]
        return self.taken


class _Shelf:
    """Chunks in shared memory, which is given back when nobody refers to this any more. A `Holder`."""

    def __init__(self, room: _Room, slot: int | None, places: Sequence[Place | None]) -> None:
        self._room, self._slot, self._places = room, slot, places
        self.size_bytes = sum(sum(place[1]) for place in places if place)

    def __del__(self) -> None:
        if self._slot is not None:
            self._room.give_back(self._slot)

    def take(self, positions: Sequence[int]) -> list[memoryview]:
        spans: list[tuple[int, int]] = []
        for position in positions:
            begin, lengths = cast("Place", self._places[position])
            end = begin + sum(lengths)
            if spans and spans[-1][1] == begin:
                begin = spans.pop()[0]  # a neighbour: both are one part
            spans.append((begin, end))
        return [memoryview(self._room.memory)[begin:end] for begin, end in spans]


# --------------------------------------------------------------------------------------------------- in the processes


def _make_reader(shared: int, *told: Any) -> Callable[..., tuple[list[Outcome], list[Place | None]]]:
    """Return what reads batches, and puts chunks where there is room; descriptors have numbers of their own here."""
    *here, there, slot_bytes, read = told
    number = dict(zip(there, here, strict=True))
    memory = mmap.mmap(shared, 0)

    def find(member: Any) -> Any:
        if isinstance(member, Known):
            return replace(member, member=find(member.member))
        is_placed = isinstance(member, Unread) and isinstance(member.source, int)
        return member._replace(source=number[member.source]) if is_placed else member

    def answer(batch: Sequence[Offered], slot: int | None) -> tuple[list[Outcome], list[Place | None]]:
        outcomes: list[Outcome] = read([find(member) for member in batch])
        places: list[Place | None] = [None] * len(outcomes)
        if slot is not None:
            end = slot + slot_bytes
            for position, outcome in enumerate(outcomes):
                if isinstance(outcome, Encoded) and isinstance(outcome.chunks, Here):
                    parts, lengths = outcome.chunks
                    if sum(lengths) <= end - slot:
                        places[position] = slot, lengths
                        outcomes[position] = outcome._replace(chunks=Here())
                        for part in parts:
                            memory[slot : slot + len(part)] = part
                            slot += len(part)
        return outcomes, places

    return answer
