"""What was read last, kept for the next one who asks, up to a number of bytes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


class Kept:
    """Values by key, those that were asked for last; what has more than the limit is made again each time.

    Any number of threads may share it.

    Parameters
    ----------
    limit_bytes : int
        What all values may have together, by their ``nbytes``.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes, self._bytes = limit_bytes, 0
        self._values: dict[Hashable, Any] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the value of a key, which is made unless it is kept."""
        with self._lock:
            if key in self._values:
                self._values[key] = value = self._values.pop(key)  # now the last one
                return value
        value = make()
        with self._lock:
            if key not in self._values:  # another thread may have been as fast
                self._values[key] = value
                self._bytes += value.nbytes
            while self._bytes > self._limit_bytes:
                self._bytes -= self._values.pop(next(iter(self._values))).nbytes
        return value
