"""Commands on stores: info, query, stats, split, assign, verify, versions."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any

from vedastore.cli.output import FINDINGS, open_client, open_progress, placed, plural, size_text, tell, tell_rows
from vedastore.cli.selection import choose
from vedastore.errors import UsageError, escape

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import geopandas as gpd

    from vedastore.views.collection import Collection

_TOGETHER = 2**14
"""Rows that are read at once: only their text is kept."""
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
    from vedastore.io.objects import open_objects
    from vedastore.ops.options import parse_limits
    from vedastore.ops.repair import repair
    from vedastore.ops.verify import verify
    from vedastore.store.snapshot import open_version

    if options.root and not options.repair:
        raise UsageError("--root says what to repair from", hint="add --repair")
    objects = open_objects(options.store)
    with open_progress(options, "member") as progress, open_client(options) as client:
        common = {"against": options.against, "limits": parse_limits(options.limit), "workers": options.workers}
        common |= {"client": client, "progress": progress}
        if options.repair:
            report = repair(objects, version=options.version, write_id=options.root, **common)
        else:
            report = verify(open_version(objects, options.version), **common)
    what = "members are" if options.against else "images come back"
    verdict = "ok" if report.ok else f"{plural(len(report.problems), 'problem')} found"
    told = [f"repaired {r.rule}: {placed(r.to_dict())}" for r in report.repaired]
    told += [f"problem {p.rule}: {placed(p.to_dict())}" for p in report.problems]
    told += [f"note {n.rule}: {placed(n.to_dict())}" for n in report.notes]
    summary = f"{report.byte_identical} {what} byte-identical, {report.equivalent} equivalent"
    tell(options, asdict(report), f"{options.store}: {verdict}; {plural(report.samples, 'sample')}, {summary}", *told)
    return 0 if report.ok else FINDINGS


def query(options: argparse.Namespace) -> int:
    """Find samples by what the index says of them."""
    from vedastore.exchange.splits import dump_splits
    from vedastore.views.stores import open as open_collection

    if options.geojson + options.json + options.csv > 1:
        raise UsageError("there are two forms of output", hint="choose --json, --geojson or --csv")
    collection = open_collection(options.store, options.version)
    found = choose(collection, options)
    parts = (_frame(found[start : start + _TOGETHER]) for start in range(0, len(found), _TOGETHER))
    if options.geojson:
        tell_rows({"type": "FeatureCollection"}, "features", chain.from_iterable(map(_features, parts)))
        return 0
    if options.csv:
        pairs = (pair for part in parts for pair in part[["id", "split"]].itertuples(index=False))
        sys.stdout.writelines([*dump_splits(pairs)])
        return 0
    rows = (
        row for part in parts for row in part[["id", "classes", "objects", "split", *found.columns]].to_dict("records")
    )
    if options.json:
        tell_rows({"store": options.store, "count": len(found), "of": len(collection)}, "samples", rows)
        return 0
    lines = (
        f"{r['id']}  {r['split'] or '-'}  {plural(r['objects'], 'object')}  {', '.join(r['classes'])}" for r in rows
    )
    tell(options, {}, *lines)
    return 0


def _frame(part: Collection) -> gpd.GeoDataFrame:
    """Return the table of some samples as JSON can hold it."""
    frame = part.samples
    values = frame[["split", *part.columns]].astype(object)  # JSON has neither NaN nor infinity
    lists = {name: [list(v) for v in frame[name]] for name in ("classes", "flags")}
    values = values.where(values.notna() & ~values.isin([math.inf, -math.inf]), None)
    return frame.assign(**values, **lists)[[*_SHOWN, *part.columns]]


def _features(frame: gpd.GeoDataFrame) -> Iterator[dict[str, Any]]:
    return frame.iterfeatures(na="null", drop_id=True)  # type: ignore[no-any-return]


def stats(options: argparse.Namespace) -> int:
    """Measure bands, classes and objects."""
    from vedastore.ops.picture import check_target
    from vedastore.views.stores import open as open_collection

    if options.plot is not None:
        check_target(options.plot)  # before anything is measured
    elif options.overwrite:
        raise UsageError("there is no picture to overwrite", hint="name one with --plot")
    collection = open_collection(options.store, options.version)
    if options.split is not None:
        collection = collection.select(split=options.split)
    with open_progress(options, "chip") as progress, open_client(options) as client:
        chosen = {"bucket": options.bucket, "cached": not options.fresh, "workers": options.workers}
        found = collection.stats(**chosen, client=client, progress=progress)
    if options.plot is not None:
        found.plot(options.plot, overwrite=options.overwrite)
    document = found.to_dict()
    bands = (
        f"band {b['band']:<4} min {_short(b['min'])}  max {_short(b['max'])}  mean {_short(b['mean'])}"
        f"  std {_short(b['std'])}  median {_short(b['percentiles'].get('50'))}  of {b['count']} values"
        for b in document["bands"]
    )
    classes = (f"class {name}: {_counts(c)}{_areas(c)}" for name, c in document["classes"].items())
    splits = (f"split {name or 'none'}: {_counts(s)}" for name, s in document["splits"].items())
    tell(options, document, plural(found.samples, "sample"), *bands, *classes, *splits)
    return 0


def _counts(entry: dict[str, Any]) -> str:
    objects = f", {plural(entry['objects'], 'object')}" if entry["objects"] else ""
    return plural(entry["samples"], "sample") + objects


def _areas(entry: dict[str, Any]) -> str:
    """Return the median area of the objects of a class, in pixels and on the ground, as far as it is known."""
    units = {"area_px": "px", "area_m2": "m2"}
    known = [
        f"{_short(entry[name]['median'])} {unit}" for name, unit in units.items() if entry.get(name, {}).get("count")
    ]
    return f", median area {', '.join(known)}" if known else ""


def split(options: argparse.Namespace) -> int:
    """Say which samples train and which test."""
    from vedastore.exchange.splits import read_splits
    from vedastore.ops.allotment import SplitOptions
    from vedastore.ops.split import split as split_store
    from vedastore.store.snapshot import open_snapshot

    if options.bits is not None and not options.duplicates:
        raise UsageError("--bits says how alike images are that are not looked for", hint="add --duplicates")
    duplicates = options.duplicates if options.bits is None else options.bits
    with open_progress(options, "chip") as progress, open_client(options) as client:
        report, _ = split_store(
            open_snapshot(options.store),
            {"train": options.train, "test": options.test, "validate": options.validate},
            options.seed,
            SplitOptions(options.by, options.block, options.buffer, options.stratify, duplicates),
            given=None if options.given is None else read_splits(options.given),
            workers=options.workers,
            client=client,
            progress=progress,
        )
    total = max(1, sum(report.samples.values()))
    shares = (f"{n} {name or 'of none'} ({100 * n / total:.1f} %)" for name, n in report.samples.items())
    told = [f"checked {line}" for line in report.checked] + [f"not checked: {line}" for line in report.not_checked]
    if report.block is not None:
        told.insert(0, f"blocks of {report.block:g} degrees")
    if report.largest > 1:
        told.insert(0, f"{report.groups} groups were kept together, the largest of {report.largest} samples")
    tell(options, asdict(report), f"{report.store}: version {report.version}, {', '.join(shares)}", *told)
    return 0


def assign(options: argparse.Namespace) -> int:
    """Write columns of a CSV file to the samples that they belong to."""
    import numpy as np

    from vedastore.io.csv import read_csv
    from vedastore.ops.assign import assign as assign_columns
    from vedastore.store.snapshot import open_snapshot

    given = {str(name): column for name, column in read_csv(options.file).items()} if options.file else {}
    snapshot = open_snapshot(options.store)
    everything = np.arange(snapshot.version.samples)
    report, _ = assign_columns(snapshot, everything, given | dict.fromkeys(options.remove))
    counts = [f"{name}: {plural(count, 'value')}" for name, count in report.columns.items()]
    told = "; ".join(counts + [f"{name}: removed" for name in report.removed])
    tell(options, asdict(report), f"{report.store}: version {report.version}, {told}")
    return 0


def clean(options: argparse.Namespace) -> int:
    """Remove what no version names."""
    from vedastore.ops.clean import GRACE_DAYS, clean

    days = GRACE_DAYS if options.grace is None else options.grace
    report = clean(options.store, grace_days=days, dry_run=options.dry_run)
    done = "would be removed" if report.dry_run else "removed"
    told = [f"{plural(report.removed, 'object')} {done}, {size_text(report.bytes)}"]
    told += [f"{report.waiting} wait for the end of the grace period"] if report.waiting else []
    told += [f"{report.foreign} are none of a store's"] if report.foreign else []
    tell(options, asdict(report), f"{report.store}: {'; '.join(told)}")
    return 0


def _short(number: float | None) -> str:
    return "none" if number is None else f"{number:.6g}"


def versions(options: argparse.Namespace) -> int:
    """List the versions of a store."""
    from vedastore.ops.info import versions

    told = ("version", "created", "samples", "features", "parent", "author", "message")
    found = [{name: getattr(v, name) for name in told} for v in versions(options.store)]
    lines = (
        f"{escape(v['version'])}  {v['created']}  {v['samples']} samples, {v['features']} features"
        + (f"  made from {escape(v['parent'])}" if v["parent"] is not None else "")
        + "".join(f"  {escape(v[name])}" for name in ("author", "message") if v[name])
        for v in found
    )
    tell(options, {"versions": found}, *lines)
    return 0
