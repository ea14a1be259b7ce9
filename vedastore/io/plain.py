"""A tar archive in a local file: large members are left to be read by whoever needs them, on any core."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_WINDOW_BYTES: Final = 16 * 2**10
"""What is read at a time: a header, and all of a small member."""


class PlainFile:
    """Reads an archive from its beginning; the file is not closed here, and what was left is read from it.

    Parameters
    ----------
    file : binary file
        A regular one.
    report : callable
        Called with the bytes that were passed.
    """

    def __init__(self, file: IO[bytes], report: Callable[[int], None]) -> None:
        self._descriptor, self._report = file.fileno(), report
        self._size = os.fstat(self._descriptor).st_size
        self._at = self._window_at = 0
        self._window = b""

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

    def _pass(self, size: int) -> None:
        self._at += size
        self._report(self._at)
