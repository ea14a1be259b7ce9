"""What a release is, decided once from all that was read of it: task, classes, label coordinates, findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vedastore.errors import LabelError, PairError, ReleaseError
from vedastore.io.geojson import parse_json
from vedastore.model import Finding, LabelCoords, Meta, Task
from vedastore.spec import labels
from vedastore.spec import release as rules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vedastore.ops.options import ConvertOptions
    from vedastore.store.ledger import Ledger

EXAMPLES: Final = 3
_FLAG_FINDINGS: Final = {
    "ring-unclosed": "a ring is not closed; it is closed in the index, and as it was in the label",
    "footprint-skewed": "the footprint is no exact parallelogram; the transform is the closest one",
    "footprint-disagrees": "the footprint lies more than a pixel off the image's own georeferencing, which is used",
    "footprint-antimeridian": "the footprint runs over the antimeridian, so pixels cannot be placed on the ground",
    "footprint-out-of-range": "the footprint has longitudes or latitudes that do not exist",
    "geometry-invalid": "a footprint or an object crosses or touches itself; it is stored as it is",
    "objects-unplaced": "an object of the label has no place in pixels",
    "footprint-not-rectangle": "the footprint is no rectangle, so pixels cannot be placed on the ground",
}


@dataclass(frozen=True, slots=True)
class Decisions:
    """What holds for the whole release."""

    meta: Meta
    task: Task
    classes: tuple[str, ...]
    label_coords: LabelCoords | None
    samples: int
    kept_members: tuple[str, ...]
    findings: tuple[Finding, ...]


def decide(ledger: Ledger, options: ConvertOptions, where: str) -> Decisions:
    """Decide; what does not belong to the release is refused, or rejected in the ledger where that was asked for.

    Raises
    ------
    PairError, LabelError, ReleaseError
        When halves lack the other, labels are of another task, or their coordinates can be read two ways.
    """
    findings: list[Finding] = []
    _settle_members(ledger, where)
    meta = _meta(ledger, options, where)
    for sample_id, member, lack in ledger.unpaired():
        _refuse(
            PairError(f"sample {sample_id!r} has no {lack}", where=f"{where}: {member}"),
            sample_id,
            member,
            ledger,
            options,
        )
    task = _task(ledger, options, meta, where) if ledger.count() else "classification"
    named = ledger.declared_classes()
    samples = ledger.count()
    if samples == 0:
        hint = "a release has images/<id>.tif and labels/<id>.json"
        raise PairError("there is no sample in it", where=where, hint=hint)
    if meta.declared is not None:
        findings += rules.check_meta(meta, named, f"{where}: meta.json")
    findings += _bounds_findings(ledger, options, samples, where)
    label_coords, astray = _label_coords(ledger, options, where)
    findings += astray
    kept = tuple(name for _, name, kind, _ in ledger.iter_members() if kind == "unknown")
    if kept:
        message = f"{len(kept)} members are kept for export, though no part of a release: {_some(kept)}"
        findings.append(Finding("kept-member", message, where))
    return Decisions(
        meta=meta,
        task=task,
        classes=_classes(named, options, meta, where),
        label_coords=label_coords,
        samples=samples,
        kept_members=kept,
        findings=tuple(findings),
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (" ..." if len(names) > EXAMPLES else "")


class FlagCount:
    """Counts the flags of rows as they are written, and tells them as findings."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, sample_id: str, flags: list[str]) -> None:
        """Count one sample's flags."""
        for flag in flags:
            self._counts[flag] = self._counts.get(flag, 0) + 1
            examples = self._examples.setdefault(flag, [])
            if len(examples) < EXAMPLES:
                examples.append(sample_id)

    def findings(self) -> list[Finding]:
        """Return one finding a flag, with some of the samples that have it."""
        return [
            Finding(
                flag.replace("_", "-"), f"{text} ({self._counts[flag]} samples: {', '.join(self._examples[flag])} ...)"
            )
            for flag, text in _FLAG_FINDINGS.items()
            if flag in self._counts
        ]


def _refuse(error: ReleaseError, sample_id: str, member: str, ledger: Ledger, options: ConvertOptions) -> None:
    if options.on_error == "raise":
        raise error
    ledger.reject(sample_id, member, error.message)


def _settle_members(ledger: Ledger, where: str) -> None:
    """Take ``meta.json`` and ``bounds.geojson`` for the release's own only beside its images, and only once each."""
    found: dict[str, str] = {}
    for name, kind in ledger.settle_members():
        if kind in found:
            raise PairError(f"there are two: {found[kind]} and {name}", where=where)
        found[kind] = name


def _meta(ledger: Ledger, options: ConvertOptions, where: str) -> Meta:
    found = ledger.read_member("meta")
    if found is None:
        return Meta()
    place = f"{where}: {found[0]}"
    try:
        return rules.parse_meta(parse_json(found[1], place, options.limits), place, task=options.task)
    except LabelError as error:
        hint = "mend it, or leave it out: a release needs none"
        raise ReleaseError(error.message, where=error.where, hint=hint) from error


def _task(ledger: Ledger, options: ConvertOptions, meta: Meta, where: str) -> Task:
    task = options.task or meta.task
    forms = dict(ledger.label_forms())
    if task is None:
        task = labels.infer_task(set(forms), only_boxes=forms.get("objects", True), where=where)
    for kind in forms:
        if not labels.belongs(task, kind):
            for sample_id, member in ledger.of_kind(kind):
                error = labels.wrong_task(task, kind, f"{where}: {member}")
                _refuse(error, sample_id, member, ledger, options)
    return task


def _classes(named: set[str], options: ConvertOptions, meta: Meta, where: str) -> tuple[str, ...]:
    if options.classes is None:
        return tuple(sorted(named | set(meta.classes)))
    unlisted = sorted(named - set(options.classes))
    if unlisted:
        hint = "add them to classes="
        raise ReleaseError(f"labels name classes that were not given: {', '.join(unlisted)}", where=where, hint=hint)
    return tuple(sorted(set(options.classes)))


def _label_coords(ledger: Ledger, options: ConvertOptions, where: str) -> tuple[LabelCoords | None, list[Finding]]:
    if options.label_coords != "auto":
        return options.label_coords, []
    decision = labels.CoordinateDecision()
    for row in ledger.coordinates():
        decision.add(labels.weigh(row.id, row.objects_bounds, row.footprint_bounds, row.height, row.width))
    coords = decision.decide(where)
    message = f"objects lie more than a chip's size outside of it (samples: {', '.join(decision.astray)} ...)"
    return coords, [Finding("objects-astray", message, where)] if decision.astray else []


def _bounds_findings(ledger: Ledger, options: ConvertOptions, samples: int, where: str) -> list[Finding]:
    found = ledger.read_member("bounds")
    if found is None:
        return []
    place = f"{where}: {found[0]}"
    try:
        document: Any = parse_json(found[1], place, options.limits)
    except LabelError as error:
        return [Finding("bounds-json", error.message, place)]
    return rules.check_bounds(document, samples, place)
