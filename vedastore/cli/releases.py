"""Commands on releases: convert, export, validate, demo."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from vedastore.cli.output import FINDINGS, open_client, open_progress, plural, size_text, tell, tell_sarif
from vedastore.cli.selection import choose
from vedastore.errors import ArchiveError, UsageError, escape
from vedastore.model import Finding, LabelOptions
from vedastore.spec.rules import SEVERITIES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from vedastore.ops.convert import ConvertReport
    from vedastore.ops.fix import Edit


def convert(options: argparse.Namespace) -> int:
    """Turn a release into a store."""
    from vedastore.ops.convert import convert_all
    from vedastore.ops.options import ConvertOptions, parse_limits
    from vedastore.views.findings import to_document

    chosen = ConvertOptions(
        mode="overwrite" if options.overwrite else "append" if options.append else "create",
        label_coords=options.label_coords,
        on_error=options.on_error,
        labels=LabelOptions(options.label_field, options.default_label),
        task=options.task,
        name=options.name,
        version=options.version,
        codec=options.codec,
        limits=parse_limits(options.limit),
    )
    with open_progress(options, "B") as progress, open_client(options) as client:
        how = {"workers": options.workers, "client": client, "progress": progress}
        reports = [*convert_all(options.source, options.store, chosen, **how)]
    report, version = reports[-1], reports[-1].version
    tell(
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
            "resumed": report.resumed,
            "skipped": version.skipped,
            "skipped_samples": report.skipped,
            "kept_members": report.kept_members,
            "findings": [to_document(f) for f in version.findings],
            **({"versions": [r.version.version for r in reports]} if len(reports) > 1 else {}),
        },
        *(line for r in reports for line in _lines(r)),
    )
    return FINDINGS if any(r.skipped for r in reports) else 0


def _lines(report: ConvertReport) -> Iterator[str]:
    """Yield what people are told of a conversion."""
    from vedastore.views.findings import to_document, to_line

    version = report.version
    yield (
        f"{report.store}: version {version.version}, {plural(version.samples, 'sample')}, "
        f"{plural(version.features, 'feature')}, {size_text(version.bytes)}"
    )
    if report.resumed:
        yield f"took over {plural(report.resumed, 'sample')} of an interrupted conversion"
    yield from (f"skipped {s['id']}: {s['reason']}" for s in version.skipped)
    if report.skipped > len(version.skipped):
        yield f"skipped {report.skipped} samples in all"
    yield from (to_line(f) for f in map(to_document, version.findings) if f["severity"] != "note")


def export(options: argparse.Namespace) -> int:
    """Turn a store, or some samples of it, into a release."""
    from vedastore.views.stores import open as open_collection

    collection = choose(open_collection(options.store, options.version), options)
    with open_progress(options, "member") as progress, open_client(options) as client:
        report = collection.export(
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
    counts += f", {len(report.rewritten)} rewritten" if report.rewritten else ""
    left = [f"left out {plural(report.left_out, 'member')} of other samples"] if report.left_out else []
    tell(
        options,
        asdict(report),
        f"{report.dest}: {plural(report.members, 'member')} ({counts}), {size_text(report.bytes)}",
        *(f"rewritten {done.member}: {done.reason}" for done in report.rewritten),
        *left,
        *request,
    )
    return 0


def validate(options: argparse.Namespace) -> int:
    """Tell what is wrong with a release."""
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
        with open_progress(options, "B") as progress, open_client(options) as client:
            shared = {"workers": options.workers, "client": client, "progress": progress}
            if options.fix is None:
                report = validate(options.release, chosen, **shared)
            else:
                fixed = fix(options.release, options.fix, chosen, overwrite=options.overwrite, **shared)
                report, edits = fixed.report, fixed.edits
    except ArchiveError as error:
        if options.sarif:
            refused = Finding(error.rule or "archive-damaged", error.message, error.where)
            tell_sarif([refused], options.release, {})
        raise
    release = options.fix or options.release
    found = (*report.problems, *report.findings)
    if options.sarif:
        tell_sarif(found, release, report.places)
        return 0 if report.ok(strict=options.strict) else FINDINGS
    documents = [to_document(f.to_dict()) for f in found]
    counts = {f"{severity}s": report.count(severity) for severity in SEVERITIES}
    tell(
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
        f"{plural(report.samples, 'sample')} {'converts' if report.samples == 1 else 'convert'}"
        + "".join(f", {plural(count, noun[:-1])}" for noun, count in counts.items() if count),
    )
    return 0 if report.ok(strict=options.strict) else FINDINGS


def demo(options: argparse.Namespace) -> int:
    """Run the main job on a release made on the spot."""
    from vedastore.views.demo import demo

    report = demo(options.dir)
    ok = "nothing was lost" if report.verify.ok else "something was lost"
    means = ", ".join(f"{m:.2f}" for m in report.band_means)
    objects = ", ".join(plural(count, name) for name, count in report.class_objects.items())
    tell(
        options,
        asdict(report),
        f"made      {report.release}",
        f"converted {report.store}",
        f"analysed  mean of each band: {means}; {objects}",
        f"exported  {report.export.dest}",
        f"verified  {report.verify.byte_identical} of {report.export.members} members byte-identical: {ok}",
    )
    return 0 if report.verify.ok else FINDINGS
