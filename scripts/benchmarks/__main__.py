"""Measure vedastore and its peers side by side: make the data, run everything in turns, write the page.

Results: docs/benchmarks.json, and docs/benchmarks.md with its picture made from it. With --only the page is printed,
and written only where --json tells.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from compileall import compile_dir
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from scripts.benchmarks import generator, stages
from scripts.benchmarks.contender import measure
from scripts.benchmarks.data import ROOT, Data
from scripts.benchmarks.page import TITLES, render
from scripts.benchmarks.plot import draw
from scripts.benchmarks.processes import FailedError
from scripts.benchmarks.results import FORMAT, describe_machine, failed_row, summarise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripts.benchmarks.contender import Contender

RESULTS = ROOT / "docs" / "benchmarks.json"
READ_MOST, PROFILED = 5000, 2000
FULL = (1000, 5000, 20_000)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many samples there are: to convert, to do everything else with, on the curve, and in the large index."""

    whole: int
    read: int
    curve: tuple[int, ...]
    index: int

    @classmethod
    def of(cls, options: argparse.Namespace) -> Self:
        """Return what the options ask for."""
        whole = FULL[-1] if options.full else options.samples
        curve = FULL if options.full else (whole // 4, whole // 2, whole)
        return cls(whole, min(whole, READ_MOST), curve, options.index_samples)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser("scripts/bench", description=__doc__)
    parser.add_argument("--samples", type=int, default=2000, help="chips (default 2000)")
    parser.add_argument("--full", action="store_true", help="20,000 chips, and the curve from 1,000 to 20,000")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each contender (default 3)")
    parser.add_argument("--index-samples", type=int, default=10**6, help="rows of the large index (default 1,000,000)")
    parser.add_argument("--only", choices=TITLES, action="append", metavar="STAGE", help=f"of {', '.join(TITLES)}")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep the data here for the next time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the results (default docs/benchmarks.json)")
    parser.add_argument(
        "--write-only", type=Path, metavar="FILE", help="write the page of these results, measure nothing"
    )
    parser.add_argument("--profile", action="store_true", help="measure the stages of docs/performance.md instead")
    options = parser.parse_args(arguments)
    if options.samples < 4 or options.rounds < 1:  # noqa: PLR2004
        parser.error("needs at least 4 samples and 1 round")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; return 1 when a contender failed."""
    options = parse(arguments)
    if options.write_only:
        write(json.loads(options.write_only.read_text()), options.write_only)
        return 0
    with ExitStack() as stack:
        folder = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vedastore-bench-")))
        data = Data(folder.absolute())
        if options.profile:
            from scripts.benchmarks import profile_page

            profile_page.main(data, min(options.samples, PROFILED))
            return 0
        results = measure_all(data, options)
    if options.only and not options.json:
        print(render(results, None))
    else:
        path = options.json or RESULTS
        path.write_text(json.dumps(results, indent=1) + "\n")
        write(results, path)
    failed = [row["label"] for rows in results["stages"].values() for row in rows if row["status"].startswith("failed")]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def write(results: dict[str, Any], path: Path) -> None:
    """Write the page and the picture beside the results."""
    picture = draw(results)
    svg = path.with_suffix(".svg")
    if picture:
        svg.write_text(picture)
    path.with_suffix(".md").write_text(render(results, svg.name if picture else None))


def measure_all(data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Make the data and measure all stages that are asked for."""
    sizes = Sizes.of(options)
    load = [os.getloadavg()[0]]
    wanted = options.only or TITLES
    data.check_space(sizes.whole, sizes.read)
    compile_dir(ROOT / "vedastore", quiet=1)  # as an installation does
    print(f"data in {data.folder}", file=sys.stderr)
    data.releases({sizes.whole, sizes.read, *(sizes.curve if "scaling" in wanted else ())})
    found: dict[str, Any] = {}
    for name in TITLES:
        if name in wanted:
            print(name, file=sys.stderr)
            try:
                found[name] = summarise(measure(name, plan_stage(name, data, sizes), options.rounds))
            except FailedError as error:
                print(f"  cannot be prepared: {error}", file=sys.stderr)
                found[name] = [failed_row(TITLES[name], error)]
    load.append(os.getloadavg()[0])
    return {
        "format": FORMAT,
        "command": command(options),
        "machine": describe_machine(),
        "load": load,
        "rounds": options.rounds,
        "data": {
            "samples": sizes.whole,
            "read_samples": sizes.read,
            "index_samples": sizes.index,
            "size_px": generator.SIZE_PX,
            "bands": generator.BANDS,
            "dtype": "uint8",
            "is_builtin": data.is_builtin,
            "raw_bytes": data.raw_bytes(sizes.whole),
            "release_bytes": Path(data.places(sizes.whole).release).stat().st_size,
        },
        "stages": found,
    }


def plan_stage(name: str, data: Data, sizes: Sizes) -> list[Contender]:
    """Make what a stage needs, and return who takes part."""
    samples, read = sizes.whole, sizes.read
    if name == "convert":
        data.sums(samples)
        return stages.plan_convert(data, samples)
    if name == "deflate":
        data.sums(read)
        data.deflate(read)
        return stages.plan_deflate(data, read)
    if name in {"export", "verify", "start"}:
        data.unpacked(read)
        data.store(read)
        return {"export": stages.plan_export, "verify": stages.plan_verify, "start": stages.plan_start}[name](
            data, read
        )
    if name == "index":
        return stages.plan_index(data, sizes.index)
    if name == "scaling":
        return stages.plan_scaling(data, sizes.curve)
    data.sums(read)
    data.store(read)
    data.peers(read, litdata=find_spec("litdata") is not None)
    return stages.plan_read(name, data, read)


def command(options: argparse.Namespace) -> str:
    """Return the command that measures the same again."""
    words = ["scripts/bench", *(["--full"] if options.full else ["--samples", str(options.samples)])]
    words += ["--rounds", str(options.rounds), "--index-samples", str(options.index_samples)]
    words += [word for stage in options.only or () for word in ("--only", stage)]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
