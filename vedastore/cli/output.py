"""What commands print: documents, lines, bars; and the cluster that they run on."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vedastore.errors import UsageError, VedastoreError, escape

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vedastore.model import Finding

_PATIENCE_SECONDS = 10
"""How long a scheduler is looked for."""
FINDINGS = 1
"""The exit code of what was done, and found something."""


def tell(options: argparse.Namespace, document: dict[str, Any], *lines: str) -> None:
    """Print a result: as one JSON document, or as lines."""
    if options.json:
        print(json.dumps(document, default=_plain, indent=1))
    elif not options.quiet:
        for line in (part for text in lines for part in text.split("\n")):
            print(escape(line))


def tell_rows(document: dict[str, Any], name: str, rows: Iterable[Any]) -> None:
    """Print a JSON document that ends with a list of many things, one a line: nothing before all have been found."""
    texts = [json.dumps(row, default=_plain) for row in rows]
    print(f'{json.dumps(document)[:-1]}, "{name}": [')
    print(*texts, sep=",\n")
    print("]}")


def tell_sarif(findings: Sequence[Finding], release: str, places: dict[str, dict[str, str]]) -> None:
    """Print findings as SARIF, with the release named as it was given."""
    from importlib.metadata import version

    from vedastore.exchange.sarif import dump_sarif

    print(json.dumps(dump_sarif(findings, release, version("vedastore"), places), indent=1))


def tell_error(error: VedastoreError, *, as_json: bool) -> None:
    """Print an error: one line, and one JSON document where that was asked for."""
    if as_json:
        told = {"kind": error.kind, "message": error.message, "where": error.where, "hint": error.hint}
        document = told | ({"rule": error.rule} if error.rule else {})
        print(json.dumps({"error": document}))
    print(f"vedastore: {error}", file=sys.stderr)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | set | frozenset) else str(value)


def placed(finding: dict[str, Any]) -> str:
    """Return a finding as a line, its place in front."""
    place = f"{finding['where']}: " if finding.get("where") else ""
    return escape(f"{place}{finding['message']}")


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size_text(count: float) -> str:
    """Return bytes as people read them."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    step = min(len(units) - 1, (int(count).bit_length() - 1) // 10) if count else 0
    return f"{count / 1024**step:.{1 if step else 0}f} {units[step]}"


@contextmanager
def open_client(options: argparse.Namespace) -> Iterator[Any]:
    """Give a Dask client of the scheduler that was named, if one was."""
    if options.scheduler is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(
            "a scheduler needs Dask's distributed", hint="install vedastore with its extra [distributed]"
        ) from None
    try:
        client = Client(options.scheduler, timeout=_PATIENCE_SECONDS)
    except (OSError, ValueError) as error:
        raise UsageError(f"the scheduler cannot be reached: {error}", where=options.scheduler) from None
    with client:
        yield client


@contextmanager
def open_progress(options: argparse.Namespace, unit: str) -> Iterator[Callable[[int, int | None], None] | None]:
    """Show a bar with rate and time left on a terminal; nothing elsewhere."""
    if options.quiet or options.json or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit=unit, unit_scale=unit == "B", leave=False, file=sys.stderr, dynamic_ncols=True) as bar:

        def report(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report
