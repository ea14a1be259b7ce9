"""CPU time of some work, and what a stage of a profile is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROUNDS = 3
READ_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Stage:
    """One line: CPU seconds of all chips; ``limit`` is what the bare call takes for the same bytes."""

    name: str
    seconds: float
    limit: float | None = None
    call: str = ""


def cpu(work: Callable[[], Any]) -> float:
    """Return the CPU seconds of this process for some work, the best of some rounds."""
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def each(function: Callable[[Any], Any], items: Iterable[Any]) -> Callable[[], None]:
    """Return work that calls a function for each item and keeps nothing."""

    def work() -> None:
        for item in items:
            function(item)

    return work


def exhaust(given: Iterable[Any]) -> None:
    """Take everything and keep nothing."""
    for _ in given:
        continue


def drain(read: Callable[[int], bytes]) -> None:
    """Read to the end."""
    while read(READ_BYTES):
        continue
