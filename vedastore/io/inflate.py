"""A gzip stream that is read and decompressed in a process of its own, through memory that both processes share.

Decompression is the one step of a conversion that cannot be divided. In the process of the workers it would wait for
the interpreter's lock after every piece. A decompressor that crashes does so where nothing is lost.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import struct
from typing import IO, TYPE_CHECKING, Final, Self, cast

from vedastore.errors import ArchiveError
from vedastore.io.file_digest import HashedFile
from vedastore.io.gzip import GzipReader
from vedastore.io.processes import start

if TYPE_CHECKING:
    from collections.abc import Callable

    from vedastore.io.file_digest import Kind
    from vedastore.model import Limits

WORTH_BYTES: Final = 16 * 2**20
"""A smaller archive is decompressed before the process has started."""
_SLOT_BYTES: Final = 2**20
_SLOTS: Final = 16
_TOKEN: Final = struct.Struct("<bqq")
"""A slot that is full and its bytes, or one of the two below and the bytes that follow; the archive's bytes so far."""
_END, _ERROR = -1, -2


def is_worth(size_bytes: int) -> bool:
    """Tell whether an archive is large enough, on a system that can share memory without a file."""
    return size_bytes >= WORTH_BYTES and hasattr(os, "memfd_create")


class InflatedFile:
    """The decompressed bytes of a gzip file, checked to its last byte; see `GzipReader` for what is refused.

    Parameters
    ----------
    file : binary file
        At its beginning; it is read by the other process through its descriptor, and not closed here.
    where : str
        Name of the file, for messages.
    limits : Limits
    report : callable
        Called with the compressed bytes that were read.
    kind : {"sha256", "xxh3"}, optional
        Which ``digest`` there shall be of the file when all of it has been read.
    """

    def __init__(
        self, file: IO[bytes], where: str, limits: Limits, report: Callable[[int], None], kind: Kind | None = None
    ) -> None:
        self.digest: str | None = None
        self._ended = False
        self._where, self._report = where, report
        self._slot, self._at, self._end = _END, 0, 0
        shared = os.memfd_create("vedastore")
        try:
            os.ftruncate(shared, _SLOTS * _SLOT_BYTES)
            self._memory = mmap.mmap(shared, 0, prot=mmap.PROT_READ)
            tokens, token_end = os.pipe()
            self._tokens = os.fdopen(tokens, "rb")
            try:
                self._process = start(_serve, (where, limits, kind), keep=(file.fileno(), shared, token_end))
            except BaseException:
                self._tokens.close()
                self._memory.close()
                raise
            finally:
                os.close(token_end)
        finally:
            os.close(shared)
        self._free = cast("IO[bytes]", self._process.stdin)
        self._give_back(bytes(range(_SLOTS)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._tokens, self._memory):
            stream.close()
        self._process.communicate()

    def read(self, size: int) -> bytes:
        """Return 1 to ``size`` bytes, and ``b""`` only at the verified end.

        Raises
        ------
        ArchiveError
            As `GzipReader.read`, or when the process dies.
        """
        if self._at == self._end and not self._next():
            return b""
        start, self._at = self._at, min(self._at + size, self._end)
        return self._memory[start : self._at]

    def _next(self) -> bool:
        """Go to the next slot that is full; False at the end."""
        if self._slot >= 0:
            self._give_back(bytes([self._slot]))
        elif self._ended:
            return False
        token = self._tokens.read(_TOKEN.size)
        if len(token) < _TOKEN.size:
            raise self._death()
        self._slot, length, done = _TOKEN.unpack(token)
        self._report(done)
        if self._slot >= 0:
            self._at = self._slot * _SLOT_BYTES
            self._end = self._at + length
            return True
        data = self._tokens.read(length)
        if len(data) < length:
            raise self._death()
        said = pickle.loads(data)  # noqa: S301 - our own code wrote it
        if self._slot == _ERROR:
            raise said
        self.digest, self._ended = said, True
        return False

    def _give_back(self, slots: bytes) -> None:
        try:
            self._free.write(slots)
            self._free.flush()
        except BrokenPipeError:
            pass

    def _death(self) -> ArchiveError:
        code = self._process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return ArchiveError(f"the process that decompresses it ended early ({name})", where=self._where)


def _serve(file: int, shared: int, tokens: int, told: tuple[str, Limits, Kind | None]) -> None:
    """Fill slots as they are free, until the end of the stream or of the process that reads them."""
    import sys

    where, limits, kind = told
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    memory = mmap.mmap(shared, 0)
    done = 0

    def note(size: int) -> None:
        nonlocal done
        done = size

    def say(slot: int, length: int, *more: bytes) -> None:
        sink.write(b"".join((_TOKEN.pack(slot, length, done), *more)))
        sink.flush()

    with os.fdopen(tokens, "wb") as sink, os.fdopen(file, "rb", buffering=0) as source:
        noted = HashedFile(source, note, kind)
        stream = GzipReader(noted, where, limits)
        try:
            while (slot := sys.stdin.buffer.read(1)) and (length := _fill(memory, slot[0] * _SLOT_BYTES, stream)):
                say(slot[0], length)
            said = pickle.dumps(noted.drain()) if slot else b""
            say(_END, len(said), said)
        except MemoryError:
            said = pickle.dumps(ArchiveError("there is not enough memory to decompress it", where=where))
            say(_ERROR, len(said), said)
        except (ArchiveError, OSError) as error:
            said = pickle.dumps(error)
            say(_ERROR, len(said), said)


def _fill(memory: mmap.mmap, begin: int, stream: GzipReader) -> int:
    """Fill a slot; return how many bytes it has, fewer only at the end of the stream."""
    length = 0
    while length < _SLOT_BYTES and (data := stream.read(_SLOT_BYTES - length)):
        memory[begin + length : begin + length + len(data)] = data
        length += len(data)
    return length
