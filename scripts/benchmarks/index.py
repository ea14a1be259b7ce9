"""Time questions to a large index in a process of its own: ``python -m scripts.benchmarks.index STORE``.

Prints ``{"parts"}``: the seconds of opening, and of each question when it is asked first, and when it is asked again.
"""

from __future__ import annotations

import json
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import vedastore

if TYPE_CHECKING:
    from collections.abc import Callable

AGAIN = 5
BOX_DEGREES = 5


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds and result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main(path: str) -> None:
    """Ask everything once, and again."""
    seconds, collection = timed(lambda: vedastore.open(path))
    parts, found = {"open": seconds}, {"samples": len(collection)}
    middle = collection[len(collection) // 2].id
    west, south, east, north = collection.bounds
    x, y = (west + east) / 2, (south + north) / 2
    box = (x, y, x + BOX_DEGREES, y + BOX_DEGREES)
    questions: dict[str, Callable[[Any], Any]] = {
        "bbox": lambda c: len(c.select(bbox=box)),
        "classes": lambda c: len(c.select(classes=[c.classes[0]])),
        "id": lambda c: c[middle].position,
    }
    for name, ask in questions.items():
        fresh = vedastore.open(path)
        parts[f"{name}-first"], found[name] = timed(lambda ask=ask, fresh=fresh: ask(fresh))
        parts[name] = median(timed(lambda ask=ask, fresh=fresh: ask(fresh))[0] for _ in range(AGAIN))
    if not (0 < found["bbox"] < found["samples"] and 0 < found["classes"] <= found["samples"]):
        sys.exit(f"the selections make no sense: {found}")
    print(json.dumps({"parts": parts, "found": found}))


if __name__ == "__main__":
    main(sys.argv[1])
