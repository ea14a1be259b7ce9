"""Files and directories of a release, and why one is refused."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from vedastore.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vedastore.model import Limits

_READ_BYTES: Final = 2**30
"""Some systems read no more at once."""


class Member(NamedTuple):
    """One file or directory of a release, its name exactly as in the archive.

    A tuple, as an unread one is, because millions of them go from one process to another.

    Attributes
    ----------
    name : str
        With any ``./`` in front and any ``/`` at a directory's end.
    data : bytes
        Empty for a directory.
    ordinal : int
        Place in the archive, from 0, directories included.
    is_dir : bool
    """

    name: str
    data: bytes
    ordinal: int
    is_dir: bool

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""
        return len(self.data)


class Unread(NamedTuple):
    """A file that has not been read yet, so that whoever needs it can do so himself.

    It is the whole file of a path, or lies from ``offset`` in the file of a descriptor, which only this process has.
    """

    name: str
    ordinal: int
    size_bytes: int
    source: str | int
    offset: int = 0

    def read(self, where: str) -> Member:
        """Read it; ``where`` is the release's name, for messages.

        Raises
        ------
        ArchiveError
            When it cannot be read, or is not what it was when the release was listed.
        """
        with refusals(f"{where}: {self.name}"):
            return Member(self.name, self._data(), self.ordinal, is_dir=False)

    def _data(self) -> bytes:
        if isinstance(self.source, int):
            data = _read(self.source, self.offset, self.size_bytes)
        else:
            # NONBLOCK, lest a FIFO that takes the file's place meanwhile blocks for ever.
            descriptor = os.open(self.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                data = _read(descriptor, 0, self.size_bytes, 1)
            finally:
                os.close(descriptor)
        if len(data) != self.size_bytes:
            raise RefusalError("changed while it was read")
        return data


class RefusalError(ValueError):
    """Says why; ``refusals`` adds where."""

    rule = "archive-damaged"
    hint: str | None = None

    def at(self, place: str) -> ArchiveError:
        """Give the error that users see."""
        return ArchiveError(str(self), where=place, hint=self.hint, rule=self.rule)


class MemberError(RefusalError):
    """A member that no release may hold, or that two programs could read differently."""

    rule = "archive-member"
    hint = "pack the release anew without it, as plain files under plain names"


class OverLimitError(RefusalError):
    """More than the limits allow."""

    rule = "archive-limit"

    def __init__(self, what: str, limit: str, limits: Limits) -> None:
        super().__init__(f"{what} is above the limit of {getattr(limits, limit)}")
        self.hint = f"--limit {limit}=N raises it, if you trust the archive"


@contextmanager
def refusals(place: str) -> Iterator[None]:
    """Give a refusal its place, and translate what the file system says."""
    try:
        yield
    except RefusalError as error:
        raise error.at(place) from None
    except OSError as error:
        raise ArchiveError(f"cannot be read: {error.strerror or error}", where=place) from error


def _read(descriptor: int, offset: int, size: int, beyond: int = 0) -> bytes:
    """Read so many bytes, and some beyond them if they come at once: a file that grows is another one."""
    data = os.pread(descriptor, min(size + beyond, _READ_BYTES), offset)
    while len(data) < size and (
        more := os.pread(descriptor, min(size + beyond - len(data), _READ_BYTES), offset + len(data))
    ):
        data += more
    return data
