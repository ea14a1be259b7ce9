"""Commands on stores: info, query, stats, verify, versions."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from vedastore.cli.output import FINDINGS, open_client, open_progress, placed, plural, size_text, tell
from vedastore.cli.selection import choose
from vedastore.errors import UsageError, escape

if TYPE_CHECKING:
    import argparse

_SHOWN = ("id", "position", "split", "classes", "objects", "flags", "geometry")
_COORDS = {"pixel": "pixels", "geographic": "degrees"}


def info(options: argparse.Namespace) -> int:
    """Tell what a store holds."""
    from vedastore.ops.info import info

    document = info(options.store, options.version).to_dict()
    buckets = ", ".join(f"{name} ({plural(rows, 'chip')})" for name, rows in document["buckets"].items())
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
        "size": size_text(document["bytes"]),
        "source": document["source"]["url"],
        "created": document["created"],
    }
    tell(options, document, *(f"{name:10}{escape(str(value))}" for name, value in rows.items()))
    return 0


def verify(options: argparse.Namespace) -> int:
    """Read everything again and check it."""
    from vedastore.ops.options import parse_limits
    from vedastore.ops.verify import verify
    from vedastore.store.snapshot import open_snapshot

    with open_progress(options, "member") as progress, open_client(options) as client:
        report = verify(
            open_snapshot(options.store, options.version),
            against=options.against,
            limits=parse_limits(options.limit),
            workers=options.workers,
            client=client,
            progress=progress,
        )
    what = "members are" if options.against else "images come back"
    verdict = "ok" if report.ok else f"{plural(len(report.problems), 'problem')} found"
    told = [f"problem {p.rule}: {placed(p.to_dict())}" for p in report.problems]
    summary = f"{report.byte_identical} {what} byte-identical, {report.equivalent} equivalent"
    tell(options, asdict(report), f"{options.store}: {verdict}; {plural(report.samples, 'sample')}, {summary}", *told)
    return 0 if report.ok else FINDINGS


def query(options: argparse.Namespace) -> int:
    """Find samples by what the index says of them."""
    from vedastore.views.stores import open as open_collection

    if options.geojson and options.json:
        raise UsageError("there are two forms of output", hint="choose --json or --geojson")
    collection = open_collection(options.store, options.version)
    found = choose(collection, options)
    if options.geojson:
        frame = found.samples[list(_SHOWN)]
        frame = frame.assign(**{name: [list(v) for v in frame[name]] for name in ("classes", "flags")})
        print(frame.to_json(drop_id=True))
        return 0
    rows = found.samples[["id", "classes", "objects"]].itertuples(index=False)
    splits = (s if isinstance(s, str) else None for s in found.samples["split"])
    samples = [
        {"id": r.id, "classes": list(r.classes), "objects": r.objects, "split": split}
        for r, split in zip(rows, splits, strict=True)
    ]
    lines = (
        f"{s['id']}  {s['split'] or '-'}  {plural(s['objects'], 'object')}  {', '.join(s['classes'])}" for s in samples
    )
    tell(options, {"store": options.store, "count": len(samples), "of": len(collection), "samples": samples}, *lines)
    return 0


def stats(options: argparse.Namespace) -> int:
    """Measure bands, classes and objects."""
    from vedastore.views.stores import open as open_collection

    collection = open_collection(options.store, options.version)
    if options.split is not None:
        collection = collection.select(split=options.split)
    with open_progress(options, "chip") as progress, open_client(options) as client:
        found = collection.stats(bucket=options.bucket, workers=options.workers, client=client, progress=progress)
    document = found.to_dict()
    bands = (
        f"band {b['band']:<4} min {_short(b['min'])}  max {_short(b['max'])}  mean {_short(b['mean'])}"
        f"  std {_short(b['std'])}  median {_short(b['percentiles'].get('50'))}  of {b['count']} values"
        for b in document["bands"]
    )
    classes = (
        f"class {name}: {plural(c['samples'], 'sample')}" + (f", {plural(c['objects'], 'object')}" * bool(c["objects"]))
        for name, c in document["classes"].items()
    )
    splits = (f"split {name or 'none'}: {plural(s['samples'], 'sample')}" for name, s in document["splits"].items())
    tell(options, document, plural(found.samples, "sample"), *bands, *classes, *splits)
    return 0


def split(options: argparse.Namespace) -> int:
    """Say which samples train and which test."""
    from vedastore.ops.split import split as split_store
    from vedastore.store.snapshot import open_snapshot

    shares = {"train": options.train, "test": options.test, "validate": options.validate}
    report = split_store(open_snapshot(options.store), shares, options.seed, by=options.by, block=options.block)
    counts = ", ".join(f"{count} {name or 'of none'}" for name, count in report.samples.items())
    leak = f"{plural(report.touching or 0, 'sample')} of a split touch one of another"
    tell(options, asdict(report), f"{report.store}: version {report.version}, {counts}", leak)
    return 0


def _short(number: float | None) -> str:
    return "none" if number is None else f"{number:.6g}"


def versions(options: argparse.Namespace) -> int:
    """List the versions of a store."""
    from vedastore.ops.info import versions

    found = [
        {"version": v.version, "created": v.created, "samples": v.samples, "features": v.features, "parent": v.parent}
        for v in versions(options.store)
    ]
    lines = (f"{v['version']}  {v['created']}  {v['samples']} samples, {v['features']} features" for v in found)
    tell(options, {"versions": found}, *lines)
    return 0
