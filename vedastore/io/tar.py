"""A tar stream, written so that the same members are always the same bytes."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class TarWriter:
    """Write a GNU tar stream that depends on nothing but what is added.

    Parameters
    ----------
    write : callable
        Receives the bytes in order.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._written_bytes = 0

    def add(self, name: str, data: bytes, *, mtime: int = 0, is_dir: bool = False) -> None:
        """Append one member, its name written exactly as given."""
        info = tarfile.TarInfo()
        info.size = len(data)
        info.mtime = mtime
        info.mode, info.type = (0o755, tarfile.DIRTYPE) if is_dir else (0o644, tarfile.REGTYPE)
        # Not tobuf(): it would add a slash to a directory's name.
        header = info.create_gnu_header({**info.get_info(), "name": name}, "utf-8", "strict")
        for part in (header, data, bytes(-len(data) % tarfile.BLOCKSIZE)):
            self._write(part)
            self._written_bytes += len(part)

    @property
    def written_bytes(self) -> int:
        """The bytes so far."""
        return self._written_bytes

    def adopt(self, size: int) -> None:
        """Count bytes that another writer has made of members, which follow here."""
        self._written_bytes += size

    def close(self) -> None:
        """Write the end marker, padded to a whole record; call it once."""
        self._write(bytes(2 * tarfile.BLOCKSIZE + -(self._written_bytes + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE))
