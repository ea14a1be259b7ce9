"""Fuzz the parsers of foreign bytes, guided by coverage, and minimise what is found. How to: docs/fuzzing.md.

Each target runs in a process of its own, so that a crash of native code, a hang or a want of memory is a finding like
any other. Exits 1 when something was found.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import re
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.strategies import Case

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_CORPUS = ROOT / "build" / "fuzz"
NAMES = ("archive", "gzip", "tiff_structure", "tiff_decode", "envelope", "label", "root", "meta", "bounds")
MAX_BYTES = 16 << 10
HANG_SECONDS, MEMORY_MB = 10, 2048
MINIMISE_SECONDS = 30
RESTARTS = 20  # a target that crashes the process again and again is given up
LAST = struct.Struct("<Q")
MEASURED = [
    "vedastore/io/archive.py", "vedastore/io/gzip.py", "vedastore/io/geojson.py",
    *(f"vedastore/io/tiff/{m}.py" for m in ("structure", "layout", "segments", "directories", "envelope")),
    *(f"vedastore/spec/{m}.py" for m in ("labels", "geometry", "root")),
]  # fmt: skip
TESTS = (
    "archive", "gzip", "geojson", "geometry", "labels", "root", "tiff", "tiff_georeference", "refusals", "fuzz"
)  # fmt: skip


# ------------------------------------------------------------------------------------- the process that runs a target


def run_target(target: str, folder: Path, seconds: int) -> None:
    """Run one target under atheris; never returns."""
    import atheris

    with atheris.instrument_imports(include=["vedastore"]):
        from tests.fuzz_targets import verdict
        from tests.mutators import mend, mutate
        from vedastore.io.isolation import risk_this_process

    risk_this_process()  # codecs are to crash here, where the input is known
    verdict(target, b"")  # what loads on first use is not charged to an input
    last = _open_last(folder)
    seen = {path.read_text() for path in (folder / "findings").glob("*.txt")}
    seen |= {signature(verdict(target, path.read_bytes())) for path in (ROOT / "tests/regressions" / target).glob("*")}
    random = Random()  # noqa: S311 - it has to be fast, not secret

    def one_input(data: bytes) -> None:
        last[: LAST.size + len(data)] = LAST.pack(len(data)) + data
        told = verdict(target, data)
        if told in {"accepted", "refused"} or signature(told) in seen:
            return
        seen.add(signature(told))
        keep(folder, data, told)

    def change(data: bytes, max_bytes: int, seed: int) -> bytes:
        random.seed(seed)
        changed = random.choice((lambda: atheris.Mutate(data, max_bytes), lambda: mutate(target, data, random)))()
        return mend(target, changed, random)[:max_bytes]

    options = [
        f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}", f"-malloc_limit_mb={MEMORY_MB // 2}", f"-dict={folder / 'words'}",
        f"-artifact_prefix={folder / 'findings'}/", "-print_final_stats=1", "-verbosity=1", "-len_control=0",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(folder / "corpus")], one_input, custom_mutator=change)
    atheris.Fuzz()


def _open_last(folder: Path) -> mmap.mmap:
    """Open the file that holds the input under way, whatever becomes of the process."""
    path = folder / "last"
    path.write_bytes(bytes(LAST.size + MAX_BYTES))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def signature(told: str) -> str:
    """Return the kind and the place of an error: what makes two findings the same."""
    return told.partition(" (")[0]


def keep(folder: Path, data: bytes, told: str) -> None:
    """Write a finding: the input, and beside it what makes it one."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", signature(told))[:60] + "-" + hashlib.sha256(data).hexdigest()[:8]
    (folder / "findings" / name).write_bytes(data)
    (folder / "findings" / f"{name}.txt").write_text(signature(told))
    print(f"FOUND {told}\n      {folder / 'findings' / name}", flush=True)


# ------------------------------------------------------------------------------------------------- minimising findings


def in_a_fork(target: str, data: bytes) -> str:
    """Return the verdict on an input from a process of its own, which may crash or hang."""
    from tests.fuzz_targets import verdict

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        signal.alarm(HANG_SECONDS)
        os.write(write, verdict(target, data).encode("utf-8", "replace"))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return told
    number = os.WTERMSIG(status)
    return "Hang" if number == signal.SIGALRM else f"Crash by signal {signal.Signals(number).name}"


def minimise(target: str, data: bytes) -> tuple[str, bytes]:
    """Return what an input does, and the smallest input found that does the same."""
    wanted = in_a_fork(target, data)
    if wanted in {"accepted", "refused", "Hang"}:
        return wanted, data
    end = time.monotonic() + MINIMISE_SECONDS
    data = _smaller(data, lambda d: signature(in_a_fork(target, d)) == signature(wanted), end)
    return in_a_fork(target, data), data


def _smaller(data: bytes, holds: Callable[[bytes], bool], end: float) -> bytes:
    """Leave out ever smaller pieces while a condition holds."""
    size = len(data) // 2
    while size and time.monotonic() < end:
        at = 0
        while at < len(data) and time.monotonic() < end:
            shorter = data[:at] + data[at + size :]
            if holds(shorter):
                data = shorter
            else:
                at += size
        size //= 2
    return data


# --------------------------------------------------------------------------------------------- the process in charge


def prepare(target: str, folder: Path) -> None:
    """Write the seeds and the dictionary of a target; what earlier runs found out stays."""
    from tests.fuzz_seeds import seeds, words

    for name in ("corpus", "findings"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    kept = (ROOT / "tests" / "regressions" / target).glob("*")
    for data in [*seeds(target), *(path.read_bytes() for path in kept)]:
        (folder / "corpus" / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"' for word in dict.fromkeys(words(target)))
    (folder / "words").write_text("\n".join(lines) + "\n")


def fuzz(target: str, folder: Path, seconds: int) -> int:
    """Run one target for so many seconds, and return the number of findings."""
    prepare(target, folder)
    before = set((folder / "findings").iterdir())
    end, runs, told = time.monotonic() + seconds, 0, ""
    for _ in range(RESTARTS):
        left = round(end - time.monotonic())
        if left < 1:
            break
        command = [sys.executable, __file__, "--child", target, "--seconds", str(left), "--corpus", str(folder.parent)]
        with (folder / "log").open("wb") as log:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, check=False, timeout=left + 300)
        told = (folder / "log").read_bytes().decode(errors="replace")
        sys.stdout.write(done.stdout.decode(errors="replace"))
        runs += int((re.findall(r"number_of_executed_units: *(\d+)", told) or re.findall(r"#(\d+)\t", told) or [0])[-1])
        if done.returncode == 0:
            break
        _keep_deadly(folder, done.returncode, told)
    found = [p for p in (folder / "findings").iterdir() if p not in before and p.suffix != ".txt"]
    for path in found:
        verdict, data = minimise(target, path.read_bytes())
        path.write_bytes(data)
        print(f"      {path.name}: {len(data)} bytes, {verdict}")
    covered = (re.findall(r"cov: (\d+)", told) or ["0"])[-1]
    print(f"{target}: {runs} inputs, {covered} edges, {len(found)} findings", flush=True)
    return len(found)


def _keep_deadly(folder: Path, code: int, told: str) -> None:
    """Keep the input that ended the process, unless libFuzzer has done so."""
    if "Test unit written to" in told:
        print("FOUND", re.findall(r"ERROR: libFuzzer: .*", told)[-1:])
        return
    memory = (folder / "last").read_bytes()
    (length,) = LAST.unpack_from(memory)
    keep(folder, memory[LAST.size : LAST.size + length], f"Process ended with {code}")


def fuzz_releases(folder: Path, seconds: int) -> int:
    """Draw whole releases with defects until the time is over; return 1 where one is taken wrongly."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.database import DirectoryBasedExampleDatabase

    from tests.strategies import assert_taken_or_refused, releases_with_defects

    folder.mkdir(parents=True, exist_ok=True)
    end, drawn, last = time.monotonic() + seconds, {"stored": 0, "refused": 0}, folder / "release.tar.gz"

    @settings(
        max_examples=100, derandomize=False, deadline=None, suppress_health_check=list(HealthCheck),
        database=DirectoryBasedExampleDatabase(folder / "releases"),
        phases=[Phase.reuse, Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(releases_with_defects(mutants=True))
    def batch(case: Case) -> None:
        last.write_bytes(case.data)
        drawn[assert_taken_or_refused(case)] += 1

    found = 0
    while time.monotonic() < end and not found:
        try:
            batch()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            print(f"FOUND {type(error).__name__}: {error}", *getattr(error, "__notes__", []), f"in {last}", sep="\n")
            found = 1
    print(f"hypothesis: {drawn['stored']} releases stored, {drawn['refused']} refused, {found} findings")
    return found


def measure(folder: Path) -> int:
    """Run the tests and all corpora under coverage, and print what of the parsers they reach."""
    data = str(folder / "coverage")
    folder.mkdir(parents=True, exist_ok=True)
    run = [
        sys.executable,
        "-m",
        "coverage",
        "run",
        "--branch",
        f"--data-file={data}",
        f"--include={','.join(MEASURED)}",
    ]
    tests = [f"tests/test_{name}.py" for name in TESTS]
    plain = ["-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib", "-p", "no:xdist", *tests]
    failed = subprocess.run([*run, *plain], check=False).returncode
    subprocess.run([*run, "--append", __file__, "--replay", "--corpus", str(folder)], check=True)
    subprocess.run([sys.executable, "-m", "coverage", "report", "-m", f"--data-file={data}"], check=True)
    return failed


def replay(folder: Path) -> None:
    """Run every input of every corpus once."""
    from tests.fuzz_targets import verdict
    from vedastore.io.isolation import risk_this_process

    risk_this_process()
    for target in NAMES:
        for path in sorted((folder / target / "corpus").glob("*")):
            verdict(target, path.read_bytes())


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", default="all", choices=["all", "hypothesis", *NAMES])
    parser.add_argument("--seconds", type=int, default=600, help="in all (default: 600)")
    parser.add_argument("--corpus", type=Path, default=DEFAULT_CORPUS, help="folder of corpora and findings")
    parser.add_argument("--coverage", action="store_true", help="print what the tests and the corpora reach")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--replay", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.corpus.resolve()
    if arguments.child:
        run_target(arguments.target, folder / arguments.target, arguments.seconds)
    if arguments.replay:
        replay(folder)
        return 0
    if arguments.coverage:
        return measure(folder)
    if arguments.target == "hypothesis":
        return fuzz_releases(folder, arguments.seconds)
    targets = NAMES if arguments.target == "all" else (arguments.target,)
    found = sum(fuzz(t, folder / t, max(1, arguments.seconds // len(targets))) for t in targets)
    print(f"{found} findings" + (f", in {folder}/*/findings" if found else ""))
    return 1 if found else 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
