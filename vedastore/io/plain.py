"""A tar archive in a local file: large members are left to be read by whoever needs them, on any core."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Final, Self

from vedastore.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable

_WINDOW_BYTES: Final = 16 * 2**10
"""What is read at a time: a header, and all of a small member."""
_PART_BYTES: Final = 16 * 2**20
_BLOCK_BYTES: Final = 2**20


class PlainFile:
    """Reads an archive from its beginning, and hashes what it has passed in a thread of its own.

    A context manager; the file is not closed here, and what was left is read from it.

    Parameters
    ----------
    file : binary file
        A regular one.
    where : str
        Name of the file, for messages.
    report : callable
        Called with the bytes that were passed.
    """

    def __init__(self, file: IO[bytes], where: str, report: Callable[[int], None]) -> None:
        self._descriptor, self._where, self._report = file.fileno(), where, report
        self._state = self._stat()
        self._size = self._state[0]
        self._ended = False
        self._failure: OSError | None = None
        self._at = self._sent = self._window_at = 0
        self._window = b""
        self._digest = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vedastore-hash")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.shutdown(cancel_futures=True)

    def read(self, size: int) -> bytes:
        """Return 1 to ``size`` bytes, and ``b""`` at the end."""
        start = self._at - self._window_at
        if start >= len(self._window):
            self._window = os.pread(self._descriptor, max(size, _WINDOW_BYTES), self._at)
            self._window_at, start = self._at, 0
        data = self._window[start : start + size]
        self._pass(len(data))
        return data

    def leave(self, size: int) -> tuple[int, int] | None:
        """Pass over so many bytes, and tell where they are, (descriptor, offset); None where reading them is less."""
        if size <= _WINDOW_BYTES or self._at + size > self._size:
            return None
        place = self._descriptor, self._at
        self._pass(size)
        return place

    def finish(self) -> str:
        """Return the SHA-256 of the file, all of which has been passed."""
        self._hash()
        self._thread.shutdown()
        if self._failure is not None:
            raise self._failure
        return self._digest.hexdigest()

    def check(self) -> None:
        """Check that what was read, by whomever, is what was hashed; the file is still open.

        Raises
        ------
        ArchiveError
            When the file is another one by now.
        """
        if self._stat() != self._state:
            hint = "wait until nobody writes to it"
            raise ArchiveError("the archive changed while it was read", where=self._where, hint=hint)

    def _pass(self, size: int) -> None:
        self._at += size
        self._report(self._at)
        if self._at - self._sent >= _PART_BYTES:
            self._hash()

    def _hash(self) -> None:
        self._thread.submit(self._hash_part, self._sent, self._at)
        self._sent = self._at

    def _hash_part(self, start: int, end: int) -> None:
        block = memoryview(bytearray(min(_BLOCK_BYTES, end - start)))
        try:
            while not self._ended and (length := os.preadv(self._descriptor, [block[: end - start]], start)):
                self._digest.update(block[:length])
                start += length
        except OSError as error:
            self._ended, self._failure = True, error

    def _stat(self) -> tuple[int, ...]:
        """Return what changes when the file does; some tools put the time of its content back, nobody the other one."""
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns
