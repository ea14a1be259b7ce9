"""The command line: parse, call one function, render. Results on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vedastore.errors import ArchiveError, StoreError, UsageError, VedastoreError, escape
from vedastore.model import TASKS, Finding, LabelOptions
from vedastore.spec.rules import SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vedastore.ops.fix import Edit

FINDINGS = 1
INTERRUPTED = 130
_COORDS = {"pixel": "pixels", "geographic": "degrees"}


class _Parser(argparse.ArgumentParser):
    """Reports a wrong usage like every other error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - stands for the stream that was closed
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    as_json = "--json" in arguments
    try:
        options = _parser().parse_args(arguments)
        code: int = options.run(options)
        sys.stdout.flush()
    except VedastoreError as error:
        _tell_error(error, as_json=as_json)
        return error.exit_code
    except KeyboardInterrupt:
        print("vedastore: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except MemoryError:
        hint = "give it more memory, or fewer workers"
        _tell_error(StoreError("there is not enough memory", hint=hint), as_json=as_json)
        return StoreError.exit_code
    except OSError as error:  # what the verbs do has named errors; only the printing is left
        hint = "the work itself is done; look where the output goes"
        _tell_error(StoreError(f"the result cannot be printed: {error.strerror}", hint=hint), as_json=False)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return StoreError.exit_code
    return code


def _convert(options: argparse.Namespace) -> int:
    from vedastore.ops.convert import convert
    from vedastore.ops.options import ConvertOptions, parse_limits
    from vedastore.views.findings import to_document, to_line

    if len(options.source) > 1:
        raise UsageError(f"there are {len(options.source)} sources", hint="convert one release to one store")
    chosen = ConvertOptions(
        mode="overwrite" if options.overwrite else "create",
        label_coords=options.label_coords,
        on_error=options.on_error,
        labels=LabelOptions(options.label_field, options.default_label),
        task=options.task,
        name=options.name,
        version=options.version,
        codec=options.codec,
        limits=parse_limits(options.limit),
    )
    with _progress(options, "B") as progress, _client(options) as client:
        report = convert(
            options.source[0], options.store, chosen, workers=options.workers, client=client, progress=progress
        )
    version = report.version
    findings = [to_document(f) for f in version.findings]
    _tell(
        options,
        {
            "store": report.store,
            "version": version.version,
            "samples": version.samples,
            "features": version.features,
            "task": version.task,
            "classes": version.classes,
            "label_coords": version.label_coords,
            "fidelity": version.fidelity,
            "content": version.content,
            "read": report.read,
            "skipped": version.skipped,
            "skipped_samples": report.skipped,
            "kept_members": report.kept_members,
            "findings": findings,
        },
        f"{report.store}: version {version.version}, {_plural(version.samples, 'sample')}, "
        f"{_plural(version.features, 'feature')}, {_size(version.bytes)}",
        *(f"skipped {s['id']}: {s['reason']}" for s in version.skipped),
        *([f"skipped {report.skipped} samples in all"] if report.skipped > len(version.skipped) else []),
        *(to_line(f) for f in findings if f["severity"] != "note"),
    )
    return FINDINGS if report.skipped else 0


def _export(options: argparse.Namespace) -> int:
    from vedastore.ops.export import export
    from vedastore.store.snapshot import open_snapshot

    with _progress(options, "member") as progress, _client(options) as client:
        report = export(
            open_snapshot(options.store, options.version),
            options.dest,
            for_import=options.for_import,
            overwrite=options.overwrite,
            level=options.level,
            workers=options.workers,
            client=client,
            progress=progress,
        )
    request = [] if report.request is None else [json.dumps(report.request, indent=1)]
    counts = f"{report.identical} byte-identical, {report.equivalent} equivalent"
    _tell(
        options,
        asdict(report),
        f"{report.dest}: {_plural(report.members, 'member')} ({counts}), {_size(report.bytes)}",
        *request,
    )
    return 0


def _info(options: argparse.Namespace) -> int:
    from vedastore.ops.info import info

    document = info(options.store, options.version).to_dict()
    buckets = ", ".join(f"{name} ({_plural(rows, 'chip')})" for name, rows in document["buckets"].items())
    bounds = document["bounds"]
    rows = {
        "name": document["name"],
        "task": document["task"],
        "classes": ", ".join(document["classes"]),
        "samples": document["samples"],
        "features": document["features"],
        "version": f"{document['version']} of {', '.join(document['versions'])}",
        "buckets": buckets,
        "bounds": "not georeferenced" if bounds is None else ", ".join(f"{b:.6f}" for b in bounds),
        **({"labels": f"in {_COORDS[document['label_coords']]}"} if document["label_coords"] else {}),
        **({"skipped": f"{len(document['skipped'])} samples were left out (--json)"} if document["skipped"] else {}),
        **({"findings": ", ".join(f["rule"] for f in document["findings"])} if document["findings"] else {}),
        "size": _size(document["bytes"]),
        "source": document["source"]["url"],
        "created": document["created"],
    }
    _tell(options, document, *(f"{name:10}{escape(str(value))}" for name, value in rows.items()))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from vedastore.ops.options import parse_limits
    from vedastore.ops.verify import verify
    from vedastore.store.snapshot import open_snapshot

    with _progress(options, "member") as progress, _client(options) as client:
        report = verify(
            open_snapshot(options.store, options.version),
            against=options.against,
            limits=parse_limits(options.limit),
            workers=options.workers,
            client=client,
            progress=progress,
        )
    what = "members are" if options.against else "images come back"
    verdict = "ok" if report.ok else f"{_plural(len(report.problems), 'problem')} found"
    told = [f"problem {p.rule}: {_placed(p.to_dict())}" for p in report.problems]
    summary = f"{report.byte_identical} {what} byte-identical, {report.equivalent} equivalent"
    _tell(options, asdict(report), f"{options.store}: {verdict}; {_plural(report.samples, 'sample')}, {summary}", *told)
    return 0 if report.ok else FINDINGS


def _validate(options: argparse.Namespace) -> int:
    from vedastore.ops.fix import fix
    from vedastore.ops.options import ConvertOptions, parse_limits
    from vedastore.ops.validate import validate
    from vedastore.views.findings import to_document, to_line

    if options.sarif and options.json:
        raise UsageError("there are two forms of output", hint="choose --json or --sarif")
    chosen = ConvertOptions(
        label_coords=options.label_coords,
        labels=LabelOptions(options.label_field, options.default_label),
        task=options.task,
        limits=parse_limits(options.limit),
    )
    edits: tuple[Edit, ...] = ()
    try:
        with _progress(options, "B") as progress, _client(options) as client:
            shared = {"workers": options.workers, "client": client, "progress": progress}
            if options.fix is None:
                report = validate(options.release, chosen, **shared)
            else:
                fixed = fix(options.release, options.fix, chosen, overwrite=options.overwrite, **shared)
                report, edits = fixed.report, fixed.edits
    except ArchiveError as error:
        if options.sarif:
            refused = Finding(error.rule or "archive-damaged", error.message, error.where)
            _tell_sarif([refused], options.release, {})
        raise
    release = options.fix or options.release
    found = (*report.problems, *report.findings)
    if options.sarif:
        _tell_sarif(found, release, report.places)
        return 0 if report.ok(strict=options.strict) else FINDINGS
    documents = [to_document(f.to_dict()) for f in found]
    counts = {f"{severity}s": report.count(severity) for severity in SEVERITIES}
    _tell(
        options,
        {
            "ok": report.ok(strict=options.strict),
            "samples": report.samples,
            "task": report.task,
            "classes": report.classes,
            "label_coords": report.label_coords,
            **counts,
            "findings": [d for d in documents if d["severity"] != "error"],
            "problems": [d for d in documents if d["severity"] == "error"],
            **({} if options.fix is None else {"fixed": release, "edits": [asdict(edit) for edit in edits]}),
        },
        *(escape(f"fixed    {edit.rule}  {edit.member}: {edit.done}") for edit in edits),
        *map(to_line, documents),
        f"{release}: {'ok' if report.ok(strict=options.strict) else 'not ok'}; "
        f"{_plural(report.samples, 'sample')} {'converts' if report.samples == 1 else 'convert'}"
        + "".join(f", {_plural(count, noun[:-1])}" for noun, count in counts.items() if count),
    )
    return 0 if report.ok(strict=options.strict) else FINDINGS


def _versions(options: argparse.Namespace) -> int:
    from vedastore.ops.info import versions

    found = [
        {"version": v.version, "created": v.created, "samples": v.samples, "features": v.features, "parent": v.parent}
        for v in versions(options.store)
    ]
    lines = (f"{v['version']}  {v['created']}  {v['samples']} samples, {v['features']} features" for v in found)
    _tell(options, {"versions": found}, *lines)
    return 0


def _demo(options: argparse.Namespace) -> int:
    from vedastore.views.demo import demo

    report = demo(options.dir)
    ok = "nothing was lost" if report.verify.ok else "something was lost"
    means = ", ".join(f"{m:.2f}" for m in report.band_means)
    objects = ", ".join(_plural(count, name) for name, count in report.class_objects.items())
    _tell(
        options,
        asdict(report),
        f"made      {report.release}",
        f"converted {report.store}",
        f"analysed  mean of each band: {means}; {objects}",
        f"exported  {report.export.dest}",
        f"verified  {report.verify.byte_identical} of {report.export.members} members byte-identical: {ok}",
    )
    return 0 if report.verify.ok else FINDINGS


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vedastore",
        description="Labelled Earth-observation chips: releases to Zarr stores, and back byte for byte.",
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str, example: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.add_argument("--json", action="store_true", help="print one JSON document")
        sub.add_argument("--quiet", action="store_true", help="print nothing but errors")
        sub.set_defaults(run=run)
        return sub

    sub = command(
        "convert", _convert, "turn a release into a store", "vedastore convert ts_104-1.0.1.tar.gz ts_104.zarr"
    )
    sub.add_argument("source", nargs="+", metavar="SOURCE", help="a .tar.gz, .tgz or .tar, or an extracted directory")
    sub.add_argument("store", metavar="STORE", help="the store's directory")
    sub.add_argument("--overwrite", action="store_true", help="replace a store that is there")
    sub.add_argument(
        "--on-error", choices=["raise", "skip"], default="raise", help="refuse the release, or leave bad samples out"
    )
    sub.add_argument("--name", metavar="N", help="the collection's name, instead of meta.json's")
    sub.add_argument("--version", metavar="V", help="the version's name, instead of meta.json's")
    sub.add_argument(
        "--codec",
        choices=["default", "compact"],
        default="default",
        help="what any Zarr reader has, or a smaller store",
    )
    _add_workers(sub)
    _add_label_options(sub)
    _add_limits(sub)

    sub = command(
        "export", _export, "turn a store into a release again", "vedastore export ts_104.zarr ts_104-1.0.1.tar.gz"
    )
    sub.add_argument("store", metavar="STORE", help="the store's directory")
    sub.add_argument("dest", metavar="DEST.tar.gz", help="the archive to write: .tar.gz, .tgz or .tar")
    sub.add_argument("--version", metavar="V", help="the version to export, the latest without it")
    sub.add_argument(
        "--for-import", action="store_true", help="only images and labels; print the request for bulk import"
    )
    sub.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    sub.add_argument(
        "--level", type=int, metavar="N", help="1 and 2 (the default) compress fast, 3 to 9 as gzip does, more slowly"
    )
    _add_workers(sub)

    sub = command("info", _info, "tell what a store holds", "vedastore info ts_104.zarr")
    sub.add_argument("store", metavar="STORE", help="the store's directory")
    sub.add_argument("--version", metavar="V", help="the version to describe, the latest without it")

    sub = command(
        "verify",
        _verify,
        "read everything again and check it",
        "vedastore verify ts_104.zarr --against ts_104-1.0.1.tar.gz",
    )
    sub.add_argument("store", metavar="STORE", help="the store's directory")
    sub.add_argument("--against", metavar="RELEASE", help="compare member by member with a release")
    sub.add_argument("--version", metavar="V", help="the version to verify, the latest without it")
    _add_workers(sub)
    _add_limits(sub)

    sub = command("validate", _validate, "tell what is wrong with a release", "vedastore validate ts_104-1.0.1.tar.gz")
    sub.add_argument("release", metavar="RELEASE", help="a .tar.gz, .tgz or .tar, or an extracted directory")
    sub.add_argument("--sarif", action="store_true", help="print a SARIF 2.1.0 document, for code hosts")
    sub.add_argument("--strict", action="store_true", help="let notes count too: end with 1 when there is one")
    sub.add_argument("--fix", metavar="OUT.tar.gz", help="write a release that is mended where nothing is guessed")
    sub.add_argument("--overwrite", action="store_true", help="with --fix, replace a file that is there")
    _add_workers(sub)
    _add_label_options(sub)
    _add_limits(sub)

    sub = command("versions", _versions, "list the versions of a store", "vedastore versions ts_104.zarr")
    sub.add_argument("store", metavar="STORE", help="the store's directory")

    sub = command("demo", _demo, "run the main job on a release made on the spot", "vedastore demo /tmp/vedastore-demo")
    sub.add_argument("dir", metavar="DIR", nargs="?", help="where to; a new temporary directory without it")
    return parser


def _add_label_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--label-coords",
        choices=["auto", "pixel", "geographic"],
        default="auto",
        help="what georeferenced labels' coordinates are",
    )
    sub.add_argument("--label-field", metavar="F", help="the property that holds the label, instead of 'label'")
    sub.add_argument("--default-label", metavar="L", help="the class of samples that have no label")
    sub.add_argument("--task", choices=TASKS, help="the task, instead of meta.json's")


def _add_workers(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--workers", metavar="N", type=int, help="threads to use; one a core without it")
    sub.add_argument("--scheduler", metavar="ADDRESS", help="run on the Dask cluster of this scheduler")


def _add_limits(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--limit",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="change a limit, such as image_bytes=4GiB; may be given several times",
    )


class _ShowVersion(argparse.Action):
    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"vedastore {version('vedastore')}")
        raise SystemExit(0)


@contextmanager
def _client(options: argparse.Namespace) -> Iterator[Any]:
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
        client = Client(options.scheduler)
    except (OSError, ValueError) as error:
        raise UsageError(f"the scheduler cannot be reached: {error}", where=options.scheduler) from None
    with client:
        yield client


@contextmanager
def _progress(options: argparse.Namespace, unit: str) -> Iterator[Callable[[int, int | None], None] | None]:
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


def _tell(options: argparse.Namespace, document: dict[str, Any], *lines: str) -> None:
    """Print a result: as one JSON document, or as lines."""
    if options.json:
        print(json.dumps(document, default=_plain, indent=1))
    elif not options.quiet:
        for line in (part for text in lines for part in text.split("\n")):
            print(escape(line))


def _tell_sarif(findings: Sequence[Finding], release: str, places: dict[str, dict[str, str]]) -> None:
    """Print findings as SARIF, with the release named as it was given."""
    from importlib.metadata import version

    from vedastore.exchange.sarif import dump_sarif

    print(json.dumps(dump_sarif(findings, release, version("vedastore"), places), indent=1))


def _tell_error(error: VedastoreError, *, as_json: bool) -> None:
    if as_json:
        told = {"kind": error.kind, "message": error.message, "where": error.where, "hint": error.hint}
        document = told | ({"rule": error.rule} if error.rule else {})
        print(json.dumps({"error": document}))
    print(f"vedastore: {error}", file=sys.stderr)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | set | frozenset) else str(value)


def _placed(finding: dict[str, Any]) -> str:
    place = f"{finding['where']}: " if finding.get("where") else ""
    return escape(f"{place}{finding['message']}")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _size(count: float) -> str:
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    step = min(len(units) - 1, (int(count).bit_length() - 1) // 10) if count else 0
    return f"{count / 1024**step:.{1 if step else 0}f} {units[step]}"


if __name__ == "__main__":
    sys.exit(main())
