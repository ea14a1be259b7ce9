"""The goals of the project, and whether a run reached them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from scripts.benchmarks.results import find, ratio

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal: what is measured, and the least or most that it should be."""

    text: str
    bound: Literal["at least", "at most", "below"]
    limit: float
    unit: str
    measure: Callable[[dict[str, Any]], float | None]

    def reached(self, value: float) -> bool:
        """Tell whether a value is good enough."""
        return {"at least": value >= self.limit, "at most": value <= self.limit, "below": value < self.limit}[
            self.bound
        ]


def faster(stage: str, key: str, other: str) -> Callable[[dict[str, Any]], float | None]:
    """Measure how many times as fast as another one a contender is."""

    def measure(results: dict[str, Any]) -> float | None:
        mine, theirs = find(results, stage, key), find(results, stage, other)
        return ratio(theirs, mine) if mine and theirs else None

    return measure


def slower(stage: str, key: str, other: str) -> Callable[[dict[str, Any]], float | None]:
    """Measure how many times as long as another one a contender takes."""
    return faster(stage, other, key)


def _memory(stage: str) -> Callable[[dict[str, Any]], float | None]:
    def measure(results: dict[str, Any]) -> float | None:
        name = "pss_mib" if results["machine"]["memory_is"] == "PSS" else "rss_mib"
        rows = [row for row in results["stages"].get(stage, []) if row["status"] == "ok"]
        ours = [row[name] for row in rows if stage != "convert" or row["key"].startswith("vedastore")]
        return max(ours, default=None)

    return measure


def _growth(field: str) -> Callable[[dict[str, Any]], float | None]:
    """Measure the largest size by the smallest on all cores: memory, or time for a chip."""

    def measure(results: dict[str, Any]) -> float | None:
        cores = results["machine"]["cores"]
        rows = [r for r in results["stages"].get("scaling", []) if r["key"].endswith(f"-{cores}") and r["seconds"]]
        if not rows:
            return None
        small, large = (pick(rows, key=lambda r: r["chips"]) for pick in (min, max))
        if field == "time":
            return float(small["chips_per_second"] / large["chips_per_second"])
        name = "pss_mib" if results["machine"]["memory_is"] == "PSS" else "rss_mib"
        return float(large[name] / small[name])

    return measure


def _size(stage: str, key: str) -> Callable[[dict[str, Any]], float | None]:
    """Measure what was written, by the size of the tar.gz."""

    def measure(results: dict[str, Any]) -> float | None:
        row = find(results, stage, key)
        data = results["data"]
        return row["bytes"] / row["chips"] / (data["release_bytes"] / data["samples"]) if row else None

    return measure


def _seconds(key: str) -> Callable[[dict[str, Any]], float | None]:
    def measure(results: dict[str, Any]) -> float | None:
        row = find(results, "index", key)
        return row["seconds_median"] if row else None

    return measure


GOALS = (
    Goal(
        "convert a tar.gz, by `gzip -dc` of it",
        "at least",
        1.6,
        "times as fast",
        faster("convert", "vedastore", "gzip"),
    ),
    Goal(
        "convert a plain tar, by `gzip -dc` of the tar.gz",
        "at least",
        2.5,
        "times as fast",
        faster("convert", "vedastore-tar", "gzip"),
    ),
    Goal(
        "convert a directory, by `gzip -dc` of the tar.gz",
        "at least",
        2.5,
        "times as fast",
        faster("convert", "vedastore-files", "gzip"),
    ),
    Goal(
        "convert, by `tar xzf` and rioxarray without its imports",
        "at least",
        12,
        "times as fast",
        faster("convert", "vedastore", "rioxarray"),
    ),
    Goal("peak memory of conversions", "below", 400, "MiB", _memory("convert")),
    Goal("peak memory of a conversion, most chips by fewest", "at most", 1.15, "times", _growth("memory")),
    Goal("time for a chip of a conversion, most chips by fewest", "at most", 1.15, "times", _growth("time")),
    Goal(
        "convert deflate TIFFs, by imagecodecs decoding alone",
        "at most",
        1.3,
        "times as long",
        slower("deflate", "vedastore", "imagecodecs"),
    ),
    Goal("size of the store, by the tar.gz", "at most", 1.10, "times", _size("convert", "vedastore")),
    Goal("size of the compact store, by the tar.gz", "at most", 0.95, "times", _size("convert", "vedastore-compact")),
    Goal(
        "sum of all pixels, by rasterio on two threads",
        "at least",
        5,
        "times as fast",
        faster("sequential", "vedastore", "rasterio"),
    ),
    Goal(
        "shuffled batches, by rasterio on two threads",
        "at least",
        6,
        "times as fast",
        faster("batches", "vedastore", "rasterio"),
    ),
    Goal(
        "shuffled batches, by zarr-python's fancy indexing",
        "at least",
        40,
        "times as fast",
        faster("batches", "vedastore", "zarr"),
    ),
    Goal("single chips, by rasterio", "at least", 4, "times as fast", faster("single", "vedastore", "dataset")),
    Goal(
        "export, by `pigz -6` of the ready tar", "at least", 2.2, "times as fast", faster("export", "vedastore", "pigz")
    ),
    Goal("size of the export, by gzip -6", "at most", 1.06, "times", _size("export", "vedastore")),
    Goal("open a large index", "below", 1, "s", _seconds("open")),
    Goal("`select(bbox=)`, warm", "below", 0.3, "s", _seconds("bbox")),
    Goal("`select(classes=)`, warm", "below", 0.3, "s", _seconds("classes")),
    Goal('`collection["id"]`, warm', "below", 0.3, "s", _seconds("id")),
    Goal("memory of the large index and its questions", "below", 500, "MiB", _memory("index")),
)


def judge(results: dict[str, Any]) -> list[tuple[Goal, float | None]]:
    """Return every goal with what was measured; None where it was not."""
    return [(goal, goal.measure(results)) for goal in GOALS]
