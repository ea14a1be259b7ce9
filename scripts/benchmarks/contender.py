"""One row of a table: what is run, and how its runs are counted; and the rounds in which all of a stage take turns."""

from __future__ import annotations

import os
import random
import shutil
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks.data import read_through, remove, size_bytes
from scripts.benchmarks.processes import FailedError, Run, run

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 2**20
SEED = 104


@dataclass(frozen=True, slots=True)
class Contender:
    """A command, and what its time stands for.

    Attributes
    ----------
    key, label : str
        Its name in the results, and on the page.
    command : tuple of str
        Empty where the run is another contender's, named by ``run_of``.
    chips : int
        How many chips one run handles; 1 where there are none.
    clock : str
        ``"wall"``: the whole process. Else a part of its own report, in seconds.
    writes : Path, optional
        Removed before each run, and measured after it.
    needs : tuple of str
        Programs or modules without which it is not installed.
    check : callable, optional
        Called with the first run; raises or ends the program when the result is wrong.
    """

    key: str
    label: str
    command: tuple[str, ...] = ()
    chips: int = 1
    clock: str = "wall"
    note: str = ""
    run_of: str | None = None
    reports: bool = False
    writes: Path | None = None
    into_folder: bool = False
    cores: int | None = None
    needs: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    check: Callable[[Run], None] | None = None

    def lacks(self) -> str | None:
        """Return what is not installed."""
        return next((n for n in self.needs if not shutil.which(n) and find_spec(n) is None), None)

    def seconds(self, one: Run) -> float:
        """Return the time that a run stands for."""
        seconds: float = one.seconds if self.clock == "wall" else one.report["parts"][self.clock]
        return seconds

    def start(self, *, watch: bool) -> Run:
        """Run it once, all that it reads being in the page cache: some systems let go of that within a minute."""
        if self.writes is not None:
            remove(self.writes)
            if self.into_folder:
                self.writes.mkdir()
        for path in map(Path, self.command):
            if path.is_absolute() and path != self.writes:
                read_through(path)
        flags = self.flags if watch else ()
        done = run([*self.command, *flags], reports=self.reports, watch=watch, cores=self.cores)
        if self.writes is not None:
            os.sync()  # or else the next one pays for what this one wrote
        return done


@dataclass(slots=True)
class Row:
    """What the runs of a contender gave."""

    contender: Contender
    status: str = "ok"
    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    chips: int = 1
    bytes: int | None = None
    pss_bytes: int = 0
    rss_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as the results have it."""
        found = {"key": self.contender.key, "label": self.contender.label, "note": self.contender.note}
        found |= {"status": self.status, "chips": self.chips, "seconds": self.seconds}
        found |= {"pss_mib": round(self.pss_bytes / MIB, 1), "rss_mib": round(self.rss_bytes / MIB, 1)}
        if self.first:
            found["first_seconds"] = self.first
        if self.bytes is not None:
            found["bytes"] = self.bytes
        return found


def measure(stage: str, contenders: list[Contender], rounds: int) -> list[Row]:
    """Run all contenders of a stage once a round, in an order of its own each round.

    Round 0 watches memory, and checks what comes out; it is not timed.
    """
    rows = {c.key: Row(c, chips=c.chips) for c in contenders}
    for row in rows.values():
        if lack := row.contender.lacks():
            row.status = f"not installed ({lack})"
    for number in range(rounds + 1):
        order = [r for r in rows.values() if r.contender.command and r.status == "ok"]
        random.Random(f"{SEED} {stage} {number}").shuffle(order)  # noqa: S311 - an order that is the same each time
        for row in order:
            sharing = [r for r in rows.values() if r is row or r.contender.run_of == row.contender.key]
            try:
                _take(row, sharing, number)
            except FailedError as error:
                print(f"  {row.contender.label} failed:\n{error}", file=sys.stderr)
                for one in sharing:
                    one.status = f"failed: {str(error).splitlines()[-1]}"
    for row in rows.values():
        if row.contender.writes is not None:
            remove(row.contender.writes)
    return list(rows.values())


def _take(row: Row, sharing: list[Row], number: int) -> None:
    """Run a contender once, and note the run where it counts."""
    done = row.contender.start(watch=number == 0)
    for one in sharing:
        one.chips = done.report.get("chips", one.chips)
    if number:
        for one in sharing:
            one.seconds.append(one.contender.seconds(done))
            if "first" in done.report.get("parts", {}):
                one.first.append(done.report["parts"]["first"])
        print(f"  {number} {row.contender.label}: {row.seconds[-1]:.3f} s", file=sys.stderr)
        return
    for one in sharing:
        one.pss_bytes, one.rss_bytes = done.pss_bytes, done.rss_bytes
    if row.contender.writes is not None and row.contender.writes.exists():
        row.bytes = size_bytes(row.contender.writes)
    if row.contender.check:
        row.contender.check(done)
