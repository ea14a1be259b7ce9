"""An export on a Dask cluster: its workers make sections of the archive, and send those of an object of S3 themselves.

What the driver, the scheduler and the workers hold is bounded: some sections for each thread of the cluster. Whatever a
worker had that dies is made again by another.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, Final

from vedastore.io.upload import Upload
from vedastore.ops.cluster import count_threads, share
from vedastore.ops.rebuild import SECTION_BYTES, make_section

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator

    from vedastore.exchange.release import ReleaseWriter, Section
    from vedastore.io.upload import Ticket
    from vedastore.ops.rebuild import Outcome, Sized
    from vedastore.store.snapshot import Snapshot

_SECTIONS_EACH: Final = 3
"""Sections that may be under way for each thread: one that is made, one that waits, one that is sent."""
_PATIENCE_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Remote:
    """The data of a section that is with a worker, or a part of them: a `Piece` of an upload."""

    made: Any
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
    client: Any,
    snapshot: Snapshot,
    sections: Iterable[tuple[list[Sized], int]],
    writer: ReleaseWriter,
    *,
    file: IO[bytes] | Upload,
    level: int | None,
) -> Iterator[Outcome]:
    """Have sections made by a cluster, and write them in order; yield the outcome of every member.

    Raises
    ------
    StoreError
        When a member is damaged.
    """
    threads = count_threads(client)
    limit_bytes, under_way = _SECTIONS_EACH * threads * SECTION_BYTES, 0
    to_s3 = isinstance(file, Upload)
    if isinstance(file, Upload):
        file.senders = _Workers(client, threads)
    shared = share(client, snapshot)
    pending: deque[tuple[Any, Any, int]] = deque()
    try:
        for items, size in sections:
            while pending and under_way + size > limit_bytes:
                under_way -= pending[0][2]
                yield from _take(pending.popleft(), writer)
            made = client.submit(make_section, shared, items, level, pure=False)
            pending.append((made, client.submit(_without_data, made, pure=False) if to_s3 else made, size))
            under_way += size
        while pending:
            yield from _take(pending.popleft(), writer)
    finally:
        client.cancel([future for made, told, _ in pending for future in (told, made)])


def _take(pending: tuple[Any, Any, int], writer: ReleaseWriter) -> Iterator[Outcome]:
    made, told, _ = pending
    section, counts = told.result()
    writer.add_section(section if told is made else replace(section, data=Remote(made, 0, section.data)))
    yield from counts.elements()


def _without_data(made: tuple[Section, Counter[Outcome]]) -> tuple[Section, Counter[Outcome]]:
    """Return a section with the length of its data in their place."""
    section, counts = made
    return replace(section, data=len(section.data)), counts


class _Workers:
    """The workers of a cluster as senders of parts."""

    def __init__(self, client: Any, threads: int) -> None:
        self.pending = 2 * threads
        self._client = client
        self._sent: deque[Any] = deque(maxlen=self.pending)

    def submit(self, ticket: Ticket, number: int, pieces: list[Any]) -> Any:
        made = [piece.made for piece in pieces if isinstance(piece, Remote)]
        spans = [(piece.start, piece.stop) if isinstance(piece, Remote) else bytes(piece) for piece in pieces]
        self._sent.append(self._client.submit(_send, ticket, number, spans, *made, pure=False))
        return self._sent[-1]

    def shutdown(self) -> None:
        """Wait for those under way, whatever becomes of them: an upload that is given up must not get more parts."""
        import distributed

        with suppress(distributed.CancelledError, TimeoutError):  # the error that counts is another
            distributed.wait([*self._sent], _PATIENCE_SECONDS)


def _send(ticket: Ticket, number: int, spans: list[Any], *made: tuple[Section, Counter[Outcome]]) -> dict[str, Any]:
    """Do what a worker does with a part."""
    sections = iter(made)
    pieces = [span if isinstance(span, bytes) else next(sections)[0].data[slice(*span)] for span in spans]
    return ticket.send(number, b"".join(pieces))
