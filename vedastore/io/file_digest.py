"""The SHA-256 of a file that is read meanwhile, by a thread that stays some way behind."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Final, Self

from vedastore.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable

_PART_BYTES: Final = 16 * 2**20
_BLOCK_BYTES: Final = 16 * 2**20
_BYTES_A_MEMBER: Final = 96 * 2**10
"""What can be hashed while one core makes what the index says of a member."""
_BEHIND_MOST: Final = 2 * 2**30
_SHARE_OF_MEMORY: Final = 4


class FileDigest:
    """Hashes a local file while others read it. A context manager.

    All cores are busy while a release is read, and one of them while its index is made at the end. So the digest stays
    behind, as far as that time will last and as the system still has the file in memory.

    Parameters
    ----------
    file : binary file
        A regular one; its position is not used, and it is not closed here.
    where : str
        Name of the file, for messages.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        self._descriptor, self._where = file.fileno(), where
        self._state = self._stat()
        self._behind = self._sent = 0
        self._most = min(_BEHIND_MOST, _memory_bytes() // _SHARE_OF_MEMORY)
        self._ended = False
        self._failure: OSError | None = None
        self._digest = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vedastore-hash")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.shutdown(cancel_futures=True)

    def count_member(self) -> None:
        """Be told of one more member, so that the digest may stay behind further."""
        self._behind = min(self._behind + _BYTES_A_MEMBER, self._most)

    def follow(self, at: int) -> None:
        """Be told how far the file has been read."""
        if at - self._behind - self._sent >= _PART_BYTES:
            self._hash(at - self._behind)

    def complete(self) -> None:
        """Begin to hash all that is left: the file has been read."""
        if self._sent < self._state[0]:
            self._hash(self._state[0])

    def hexdigest(self) -> str:
        """Wait for the digest of the whole file, and return it.

        Raises
        ------
        ArchiveError
            When it cannot be read, or is another one by now: what was read, by whomever, is what was hashed.
        """
        self.complete()
        self._thread.shutdown()
        if self._failure is not None:
            raise ArchiveError(f"cannot be read: {self._failure.strerror}", where=self._where)
        self.check()
        return self._digest.hexdigest()

    def check(self) -> None:
        """Check that the file is the one that it was; it is still open.

        Raises
        ------
        ArchiveError
            When it is another one by now.
        """
        if self._stat() != self._state:
            hint = "wait until nobody writes to it"
            raise ArchiveError("the archive changed while it was read", where=self._where, hint=hint)

    def _hash(self, end: int) -> None:
        self._thread.submit(self._hash_part, self._sent, end)
        self._sent = end

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


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class HashedFile:
    """A file that is read once: reports what passes, and hashes it if it is to."""

    def __init__(self, file: IO[bytes], report: Callable[[int], None], *, hashed: bool) -> None:
        self._digest = hashlib.sha256() if hashed else None
        self._file, self._done, self._report = file, 0, report

    def read(self, size: int = -1) -> bytes:
        """Return at most so many bytes."""
        data = self._file.read(size)
        if self._digest is not None:
            self._digest.update(data)
        self._done += len(data)
        self._report(self._done)
        return data

    def drain(self) -> str | None:
        """Read what is left; return the SHA-256 of the whole file, if it was hashed."""
        while self.read(2**20):
            continue
        return None if self._digest is None else self._digest.hexdigest()
