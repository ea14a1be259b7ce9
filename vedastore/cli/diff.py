"""The command diff: what changed from one version to another, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from vedastore.cli.output import FINDINGS, plural, tell
from vedastore.model import EXAMPLES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from vedastore.ops.differences import ColumnDiff, DiffReport, FieldDiff, ImageDiff, LabelDiff, ObjectDiff

_IMAGES = {
    "pixels": "with other pixels",
    "georeferencing": "with other georeferencing only",
    "file": "with another image file, its pixels and place the same",
}
_DONE = {"added": "added", "removed": "removed", "renamed": "of another class before", "moved": "moved"}


def diff(options: argparse.Namespace) -> int:
    """Tell what changed from one version to another."""
    from vedastore.ops.diff import diff
    from vedastore.store.snapshot import open_snapshot

    place = options.store if options.to is None else options.to
    report = diff(open_snapshot(options.store, options.old), open_snapshot(place, options.new))
    tell(options, report.to_dict() if options.json else {}, *_lines(report))
    return FINDINGS if report.differs and options.exit_code else 0


def _lines(report: DiffReport) -> Iterator[str]:
    old, new = report.old, report.new
    there = f"{new.store}: " if new.store != old.store else ""
    if not report.differs:
        yield f"{old.store}: {old.version} and {there}{new.version} are the same, {plural(old.samples, 'sample')}"
        return
    yield f"{old.store}: {old.version} -> {there}{new.version}, {plural(report.same, 'sample')} the same"
    yield from map(_field, report.fields)
    yield from (f"{member.name} {member.change}" for member in report.members)
    yield from map(_column, report.columns)
    yield from _kind("added", report.added)
    yield from _kind("removed", report.removed)
    for kind, words in _IMAGES.items():
        yield from _kind(words, [_image(i) for i in report.images if i.kind == kind])
    yield from _kind("with a rewritten label file that says the same", [d.id for d in report.labels if d.rewritten])
    others = [label for label in report.labels if not label.rewritten]
    if others:
        objects = _objects([o for label in others for o in label.objects])
        yield f"{plural(len(others), 'sample')} with other labels{f': {objects}' if objects else ''}"
    yield from (f"  {label.id}: {_label(label)}" for label in others[:EXAMPLES])
    if len(others) > EXAMPLES:
        yield f"  and {len(others) - EXAMPLES} more (--json)"


def _kind(words: str, names: Sequence[str]) -> Iterator[str]:
    """Yield a line for the samples that one thing holds for, if there are some."""
    if names:
        more = f" and {len(names) - EXAMPLES} more (--json)" if len(names) > EXAMPLES else ""
        yield f"{plural(len(names), 'sample')} {words}: {', '.join(names[:EXAMPLES])}{more}"


def _field(field: FieldDiff) -> str:
    if field.field != "classes":
        return f"{field.field}: {field.old} -> {field.new}"
    return f"classes: {_signed(set(field.new) - set(field.old), set(field.old) - set(field.new))}"


def _signed(added: set[str], removed: set[str]) -> str:
    return ", ".join([*(f"+{name}" for name in sorted(added)), *(f"-{name}" for name in sorted(removed))])


def _column(column: ColumnDiff) -> str:
    kind = "" if column.old == column.new else f"{column.old or 'absent'} -> {column.new or 'absent'}, "
    return f"{column.name}: {kind}{plural(len(column.samples), 'sample')} with another value"


def _image(image: ImageDiff) -> str:
    words = [word for word in image.changed if word != image.kind]
    return f"{image.id} ({', '.join(words)})" if words else image.id


def _label(label: LabelDiff) -> str:
    far = "" if label.footprint_m is None else f" by {label.footprint_m:.3g} m"
    told = [_signed(set(label.classes_added), set(label.classes_removed)), _objects(label.objects)]
    return "; ".join(filter(None, [*told, f"footprint moved{far}" if label.footprint else ""]))


def _objects(objects: Sequence[ObjectDiff]) -> str:
    """Return what happened to objects, by class; how far at most, and what the least overlap is of those that moved."""
    parts = []
    for change, word in _DONE.items():
        found = Counter(o.class_name for o in objects if o.change == change)
        if found:
            parts.append(f"{', '.join(f'{n} {name}' for name, n in sorted(found.items()))} {word}")
    if far := [o.distance_px for o in objects if o.distance_px is not None]:
        parts[-1] += f" by up to {max(far):.3g} px"
    if shared := [o.iou for o in objects if o.iou is not None]:
        parts[-1] += f" (IoU from {min(shared):.2f})"
    return ", ".join(parts)
