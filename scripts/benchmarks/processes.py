"""Run one command: its time by the wall clock, or the peak memory of its whole tree of processes."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLE_SECONDS = 0.02
SMAPS = "/proc/{}/smaps_rollup"


class FailedError(Exception):
    """A command failed; the message has the end of what it said."""


@dataclass(slots=True)
class Run:
    """What one run took; ``report`` is the JSON that the command printed, where it reports."""

    seconds: float
    report: dict[str, Any] = field(default_factory=dict)
    pss_bytes: int = 0
    rss_bytes: int = 0


class _Watch(threading.Thread):
    """Looks at the memory of a process and of all its children again and again, and keeps the most.

    PSS counts a page that several processes share once in all, RSS once for each of them. Looking takes time, so
    runs that are watched are not timed.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pss_bytes = self.rss_bytes = 0
        import psutil  # of the group bench

        self._library, self._root = psutil, psutil.Process(pid)
        self._ended = threading.Event()
        self._pss = Path(SMAPS.format(pid)).exists()

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            pss = rss = 0
            try:
                tree = [self._root, *self._root.children(recursive=True)]
            except self._library.NoSuchProcess:
                continue
            for process in tree:
                one = self._look(process.pid)
                pss, rss = pss + one[0], rss + one[1]
            self.pss_bytes, self.rss_bytes = max(self.pss_bytes, pss), max(self.rss_bytes, rss)

    def _look(self, pid: int) -> tuple[int, int]:
        try:
            if not self._pss:
                return 0, self._library.Process(pid).memory_info().rss
            found = {
                line.split(":")[0]: line.split()[1] for line in Path(SMAPS.format(pid)).read_text().splitlines()[1:]
            }
            return int(found["Pss"]) * 1024, int(found["Rss"]) * 1024
        except (self._library.NoSuchProcess, OSError):  # it has just ended
            return 0, 0

    def stop(self) -> None:
        self._ended.set()
        self.join()


def run(command: Sequence[str], *, reports: bool = False, watch: bool = False, cores: int | None = None) -> Run:
    """Run a command to its end.

    Parameters
    ----------
    command : sequence of str
        Its standard output goes nowhere, unless it reports: then the last line is JSON.
    reports : bool
    watch : bool
        Measure memory instead of time.
    cores : int, optional
        How many of the cores of this process it may use.

    Raises
    ------
    FailedError
        When it does not succeed.
    """
    allowed = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output if reports else subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=None if cores is None else lambda: os.sched_setaffinity(0, allowed[:cores]),  # noqa: PLW1509 - no threads here
        )
        watcher = _Watch(process.pid) if watch else None
        if watcher:
            watcher.start()
        code = process.wait()
        done = Run(time.perf_counter() - start)
        if watcher:
            watcher.stop()
            done.pss_bytes, done.rss_bytes = watcher.pss_bytes, watcher.rss_bytes
        if code:
            errors.seek(0)
            raise FailedError(errors.read().decode(errors="replace").strip()[-2000:] or f"exit code {code}")
        if reports:
            output.seek(0)
            done.report = json.loads(output.read().splitlines()[-1])
    return done
