"""The tables of docs/performance.md: measured, and written between the markers."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.benchmarks.data import ROOT, VEDASTORE, remove
from scripts.benchmarks.profile import convert_stages, export_stages, read_stages
from scripts.benchmarks.results import describe_machine

if TYPE_CHECKING:
    from scripts.benchmarks.data import Data
    from scripts.benchmarks.stopwatch import Stage

PAGE = ROOT / "docs" / "performance.md"
PART = re.compile(r"(?<=<!-- generated -->\n).*(?=<!-- end -->)", re.DOTALL)


def whole(*command: str) -> float:
    """Return the CPU seconds of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def table(stages: list[Stage], chips: int, total: float | None) -> str:
    """Return a table; shares are of the sum of all stages, parts of others left out."""
    counted = [s for s in stages if not s.name.startswith(("of that", "bare"))]
    everything = sum(s.seconds for s in counted)
    lines = ["| stage | us a chip | share | bare call, us | |", "|---|---|---|---|---|"]
    for stage in stages:
        share = f"{stage.seconds / everything:.0%}" if stage in counted and total is not None else ""
        limit = f"{stage.limit / chips * 1e6:,.0f}" if stage.limit is not None else ""
        lines.append(f"| {stage.name} | {stage.seconds / chips * 1e6:,.0f} | {share} | {limit} | {stage.call} |")
    if total is not None:
        lines.append(f"| all stages | {everything / chips * 1e6:,.0f} | 100% | | |")
        lines.append(f"| the whole command, with its start | {total / chips * 1e6:,.0f} | | | |")
    return "\n".join(lines)


def main(data: Data, samples: int) -> None:
    """Measure, and write the tables into the page."""
    data.releases([samples])
    data.unpacked(samples)
    data.store(samples)
    at, out = data.places(samples), data.made / "out"
    remove(out)
    total = whole(VEDASTORE, "convert", at.release, str(out), "--quiet")
    exported = Path(f"{out}.tar.gz")
    remove(exported)
    total_export = whole(VEDASTORE, "export", at.store, str(exported), "--quiet")
    remove(out)
    remove(exported)
    reading = read_stages(at)
    bare = sum(s.seconds for s in reading if s.name.startswith("bare"))
    machine = describe_machine()
    parts = [
        f"{samples:,} chips; {machine['cpu']}, Python {machine['python']}, {machine['date']}.",
        "### A conversion of a tar.gz",
        table(convert_stages(at), samples, total),
        "### Reading",
        table(reading, samples, None),
        "### An export",
        table(export_stages(at, bare), samples, total_export),
    ]
    text = PAGE.read_text()
    if not PART.search(text):
        sys.exit(f"{PAGE} has no place for the tables")
    PAGE.write_text(PART.sub(lambda _: "\n" + "\n\n".join(parts) + "\n\n", text))
    print("\n\n".join(parts))
