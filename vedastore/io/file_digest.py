"""Digests of files that are read once: as they pass, or by a thread that stays some way behind."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, Self

import xxhash

from vedastore.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

Kind = Literal["sha256", "xxh3"]
_PART_BYTES: Final = 16 * 2**20
_BLOCK_BYTES: Final = 8 * 2**20
_BYTES_A_MEMBER: Final = 64 * 2**10
"""What can be hashed while one core makes what the index says of a member."""
_BEHIND_MOST: Final = 2 * 2**30
_SHARE_OF_MEMORY: Final = 4
_MEMORY_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


def _new(kind: Kind) -> Any:
    return hashlib.sha256() if kind == "sha256" else xxhash.xxh3_128()


class HashedFile:
    """A file that is read once: reports what passes, and digests it if it is to."""

    def __init__(self, file: IO[bytes], report: Callable[[int], None], kind: Kind | None) -> None:
        self._digest = None if kind is None else _new(kind)
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
        """Read what is left; return the digest of the whole file, if it was made."""
        while self.read(2**20):
            continue
        return None if self._digest is None else str(self._digest.hexdigest())


class FileDigest:
    """The SHA-256 of a local file, made while others read it. A context manager.

    All cores are busy while a release is read, and one of them while its index is made at the end. So the digest stays
    behind, as far as that time will last, and as the system can have the file in memory.

    Parameters
    ----------
    file : binary file
        A regular one; its position is not used, and it is not closed here.
    where : str
        Name of the file, for messages.
    compared : bool
        Whether `complete` will be told the XXH3 of what others have read.
    """

    def __init__(self, file: IO[bytes], where: str, *, compared: bool = True) -> None:
        self._descriptor, self._where = file.fileno(), where
        self._state = self._stat()
        self._size = self._state[0]
        self._behind = self._sent = self._done = 0
        self._most = min(_BEHIND_MOST, _memory_bytes() // _SHARE_OF_MEMORY)
        self._ended = False
        self._digest = _new("sha256")
        self._proof: Any = _new("xxh3") if compared else None
        self._passed: str | None = None
        self._block: memoryview | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vedastore-hash")
        self._parts: deque[Future[None]] = deque()

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

    def complete(self, passed: str | None = None) -> None:
        """Begin to hash all that is left: the file has been read; ``passed`` is the XXH3 of what that was, if known."""
        self._passed = passed
        if self._sent < self._size:
            self._hash(self._size)

    def hexdigest(self) -> str:
        """Wait for the digest of the whole file, and return it.

        Raises
        ------
        ArchiveError
            When it cannot be read; when it is not what has been read before, or may not be: see `check`.
        """
        try:
            while self._parts:
                self._parts.popleft().result()
        except OSError as error:
            raise ArchiveError(f"cannot be read: {error.strerror}", where=self._where) from error
        if self._passed is None:
            self.check()
        if self._done != self._size or (self._passed is not None and self._passed != self._proof.hexdigest()):
            raise self._changed()
        return str(self._digest.hexdigest())

    def check(self) -> None:
        """Check that the file is the one that it was, by its size and both of its times; it is still open.

        Raises
        ------
        ArchiveError
            When it may be another one by now.
        """
        if self._stat() != self._state:
            raise self._changed()

    def _changed(self) -> ArchiveError:
        hint = "wait until nobody writes to it, or changes its name or its permissions"
        return ArchiveError("the archive changed while it was read", where=self._where, hint=hint)

    def _hash(self, end: int) -> None:
        self._parts.append(self._thread.submit(self._hash_part, self._sent, end))
        self._sent = end

    def _hash_part(self, start: int, end: int) -> None:
        block = self._block = self._block or memoryview(bytearray(min(_BLOCK_BYTES, self._size)))
        while not self._ended and (length := os.preadv(self._descriptor, [block[: end - start]], start)):
            self._digest.update(block[:length])
            if self._proof is not None:
                self._proof.update(block[:length])
            start += length
            self._done += length

    def _stat(self) -> tuple[int, ...]:
        """Return what changes when the file does; some tools put the time of its content back, nobody the other one."""
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _memory_bytes() -> int:
    """Return the memory of this machine, or what this container may have of it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # there is no limit
        memory = min(memory, int(_MEMORY_LIMIT.read_text()))
    return memory
