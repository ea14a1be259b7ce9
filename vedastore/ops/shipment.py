"""An export on a Dask cluster: its workers make sections of the archive, and send those of an object of S3 themselves.

What the driver, the scheduler and the workers hold is bounded: some sections for each thread of the cluster. Whatever a
worker had that dies is made again by another.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, Final

from vedastore.io.upload import Upload
from vedastore.ops.cluster import await_ends, count_threads, share
from vedastore.ops.rebuild import SECTION_BYTES, make_section

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Generator, Iterable, Iterator

    from vedastore.exchange.release import ReleaseWriter, Section
    from vedastore.io.upload import Ticket
    from vedastore.ops.cluster import Task, Workers
    from vedastore.ops.rebuild import Outcome, Sized
    from vedastore.store.snapshot import Snapshot

_SECTIONS_EACH: Final = 3
"""Sections that may be under way for each thread: one that is made, one that waits, one that is sent."""


@dataclass(frozen=True, slots=True)
class Remote:
    """The data of a section that is with a worker, or a part of them: a `Piece` of an upload."""

    made: Task
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, span: slice) -> Remote:
        start, stop, _ = span.indices(len(self))
        return replace(self, start=self.start + start, stop=self.start + stop)

    def __bytes__(self) -> bytes:
        data: bytes = self.made.result()[0].data
        return data[self.start : self.stop]


def iter_shipped(
    workers: Workers,
    snapshot: Snapshot,
    sections: Iterable[tuple[list[Sized], int]],
    writer: ReleaseWriter,
    *,
    file: IO[bytes] | Upload,
    level: int | None,
) -> Generator[Outcome]:
    """Have sections made by a cluster, and write them in order; yield the outcome of every member.

    Raises
    ------
    StoreError
        When a member is damaged.
    """
    threads = count_threads(workers.client)
    limit_bytes, under_way = _SECTIONS_EACH * threads * SECTION_BYTES, 0
    to_s3 = isinstance(file, Upload)
    if isinstance(file, Upload):
        file.senders = _Senders(workers, threads)
    shared = share(workers.client, snapshot)
    pending: deque[tuple[Task, Task, int]] = deque()
    try:
        for items, size in sections:
            while pending and under_way + size > limit_bytes:
                under_way -= pending[0][2]
                yield from _take(pending.popleft(), writer)
            made = workers.submit(make_section, shared, items, level)
            pending.append((made, workers.submit(_without_data, made.future) if to_s3 else made, size))
            under_way += size
        while pending:
            yield from _take(pending.popleft(), writer)
    finally:
        for made, told, _ in pending:
            told.cancel()
            made.cancel()


def _take(pending: tuple[Task, Task, int], writer: ReleaseWriter) -> Iterator[Outcome]:
    made, told, _ = pending
    section, counts = told.result()
    writer.add_section(section if told is made else replace(section, data=Remote(made, 0, section.data)))
    yield from counts.elements()


def _without_data(made: tuple[Section, Counter[Outcome]]) -> tuple[Section, Counter[Outcome]]:
    """Return a section with the length of its data in their place."""
    section, counts = made
    return replace(section, data=len(section.data)), counts


class _Senders:
    """The workers of a cluster as senders of parts."""

    def __init__(self, workers: Workers, threads: int) -> None:
        self.pending = 2 * threads
        self._workers = workers
        self._sent: deque[Task] = deque(maxlen=self.pending)

    def submit(self, ticket: Ticket, number: int, pieces: list[Any]) -> Task:
        made = [piece.made.future for piece in pieces if isinstance(piece, Remote)]
        spans = [(piece.start, piece.stop) if isinstance(piece, Remote) else bytes(piece) for piece in pieces]
        self._sent.append(self._workers.submit(_send, ticket, number, spans, *made))
        return self._sent[-1]

    def shutdown(self) -> None:
        """Wait for those under way, whatever becomes of them: an upload that is given up must not get more parts."""
        await_ends(self._sent)


def _send(ticket: Ticket, number: int, spans: list[Any], *made: tuple[Section, Counter[Outcome]]) -> dict[str, Any]:
    """Do what a worker does with a part."""
    sections = iter(made)
    pieces = [span if isinstance(span, bytes) else next(sections)[0].data[slice(*span)] for span in spans]
    return ticket.send(number, b"".join(pieces))
