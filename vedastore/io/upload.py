"""An object of S3 that is written piece by piece, in parts that are sent side by side, by threads or by others."""

from __future__ import annotations

import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, Self, cast

from vedastore.errors import ConflictError, StoreError, UnknownOutcomeError
from vedastore.io.s3 import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from vedastore.io.s3 import S3

PART_BYTES: Final = 8 * 2**20
_PARTS_ALIKE: Final = 1000
"""Parts become larger after so many: S3 takes 10,000 of them, which then hold 440 GB."""
_PARTS_PENDING: Final = 4
_HINT: Final = "use overwrite=True or --overwrite to replace it"
_OWNER: Final = "vedastore-write"
"""Metadata of an object that tell who wrote it."""


@contextmanager
def new_object(s3: S3, *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Give a file to write; it is the object at the prefix itself once the block has ended.

    Raises
    ------
    ConflictError
        When there is an object already, and it may not be overwritten.
    StoreError, UnknownOutcomeError
        As `Upload.complete`.
    """
    if not overwrite and s3.head("") is not None:
        raise ConflictError("there is an object already", where=s3.url, hint=_HINT)
    with Upload(s3, "") as upload:
        yield cast("IO[bytes]", upload)
        upload.complete(overwrite=overwrite)


class Piece(Protocol):
    """What stands for bytes that are elsewhere, in a part that others send."""

    def __len__(self) -> int:
        """Return how many they are."""

    def __getitem__(self, span: slice) -> Piece:
        """Return some of them."""

    def __bytes__(self) -> bytes:
        """Fetch them."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What it takes to send a part of an upload, from any machine."""

    s3: S3
    key: str
    id: str

    def send(self, number: int, data: bytes) -> dict[str, Any]:
        """Send a part; return what the end of the upload has to say of it. Sent twice, it is the same."""
        arguments = {"Key": self.s3.full(self.key), "UploadId": self.id, "PartNumber": number}
        return {"PartNumber": number, "ETag": self.s3.ask("upload_part", Body=data, **arguments)["ETag"]}


class Senders(Protocol):
    """Those who send parts, some of them at a time."""

    pending: int
    """So many parts may be under way."""

    def submit(self, ticket: Ticket, number: int, pieces: list[Any]) -> Any:
        """Begin to send a part, which is made of bytes and pieces; return the future of what `Ticket.send` returns."""

    def shutdown(self) -> None:
        """Return when no part is under way any more."""


class _Threads:
    """Threads of this process, for parts of bytes alone."""

    pending = _PARTS_PENDING

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(self.pending, thread_name_prefix="vedastore-upload")

    def submit(self, ticket: Ticket, number: int, pieces: list[Any]) -> Future[dict[str, Any]]:
        return self._threads.submit(ticket.send, number, b"".join(pieces))

    def shutdown(self) -> None:
        self._threads.shutdown(cancel_futures=True)


class Upload:
    """An object that is written from its beginning to its end, and is there whole or not at all. A file to write to.

    Parts are sent while the next ones are written; an object of one part is put at once. The parts are the same whoever
    sends them, see `senders`.
    """

    def __init__(self, s3: S3, key: str) -> None:
        self._s3, self._key, self._owner = s3, key, uuid.uuid4().hex
        self._id, self._size = "", 0
        self._parts: list[Any] = []
        self._part_bytes = 0
        self._sent: list[dict[str, Any]] = []
        self._pending: deque[Any] = deque()
        self.senders: Senders = _Threads()
        """Others may take their place before anything is written: those who know the pieces that will be."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.senders.shutdown()
        if self._id:  # not completed
            with suppress(Answer):  # the error that counts is another
                self._ask("abort_multipart_upload", UploadId=self._id)

    def tell(self) -> int:
        """Return the bytes so far."""
        return self._size

    def write(self, data: bytes | memoryview | Piece) -> int:
        """Add bytes, or what stands for them; waits while several parts are under way."""
        left: Any = memoryview(bytes(data)) if isinstance(data, bytes | bytearray | memoryview) else data
        self._size += len(left)
        while len(left) >= (room := self._room - self._part_bytes):
            self._parts.append(left[:room])
            self._send()
            left = left[room:]
        if len(left):
            self._parts.append(left)
            self._part_bytes += len(left)
        return len(data)

    @property
    def _room(self) -> int:
        """The bytes of the part that is being gathered: some services take parts of one size only."""
        return PART_BYTES * (1 + (len(self._sent) + len(self._pending)) // _PARTS_ALIKE)

    def complete(self, *, overwrite: bool = True) -> int:
        """Make the object of the parts; return its bytes.

        Raises
        ------
        ConflictError
            When there is an object, and it may not be overwritten.
        StoreError
            When it cannot be written.
        UnknownOutcomeError
            When no answer came, and the object may be there or not.
        """
        condition = {} if overwrite else {"IfNoneMatch": "*"}
        if self._id and self._parts:
            self._send()
        while self._pending:
            self._await()
        try:
            if self._id:
                parts = {"Parts": self._sent}
                self._ask("complete_multipart_upload", UploadId=self._id, MultipartUpload=parts, **condition)
            else:
                body = b"".join(map(bytes, self._parts))
                self._ask("put_object", Body=body, Metadata={_OWNER: self._owner}, **condition)
        except Answer as answer:
            self._judge(answer)
        self._id = ""
        return self._size

    def _judge(self, answer: Answer) -> None:
        """Raise what has happened; nothing where the object is ours: a reply was lost, or a hidden retry refused."""
        where, hint = self._s3.where(self._key), "look whether it is there before trying again"
        try:
            found = self._s3.head(self._key)
        except StoreError as error:
            raise UnknownOutcomeError(f"it may be written or not: {error.message}", where=where, hint=hint) from answer
        if found is not None and found.get("Metadata", {}).get(_OWNER) == self._owner:
            return
        if answer.refused or answer.busy:
            raise ConflictError("another writer was first", where=where, hint=_HINT) from answer
        if answer.certain:
            raise self._s3.error(self._key, answer) from answer
        raise UnknownOutcomeError(f"it may be written or not: {answer}", where=where, hint=hint) from answer

    def _send(self) -> None:
        if not self._id:
            try:
                self._id = self._ask("create_multipart_upload", Metadata={_OWNER: self._owner})["UploadId"]
            except Answer as answer:
                raise self._s3.error(self._key, answer) from answer
        while len(self._pending) >= self.senders.pending:
            self._await()
        ticket, number = Ticket(self._s3, self._key, self._id), len(self._sent) + len(self._pending) + 1
        self._pending.append(self.senders.submit(ticket, number, self._parts))
        self._parts, self._part_bytes = [], 0

    def _await(self) -> None:
        try:
            self._sent.append(self._pending.popleft().result())
        except Answer as answer:
            raise self._s3.error(self._key, answer) from answer

    def _ask(self, operation: str, **arguments: Any) -> Any:
        return self._s3.ask(operation, Key=self._s3.full(self._key), **arguments)
