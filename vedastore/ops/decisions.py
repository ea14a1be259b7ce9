"""What a release is, decided once from all that was read of it: its meta.json, task, classes, label coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vedastore.errors import LabelError, PairError, ReleaseError
from vedastore.io.geojson import parse_json
from vedastore.model import EXAMPLES, LabelCoords, Meta, Task
from vedastore.spec import labels
from vedastore.spec import release as rules

if TYPE_CHECKING:
    from vedastore.ops.options import ConvertOptions
    from vedastore.store.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Decisions:
    """What holds for the whole release.

    ``named`` are the classes that labels name, ``classes`` these and those of meta.json; ``read`` counts the ids that
    are in the release, ``samples`` those that convert; ``astray`` counts the samples whose objects lie more than a
    chip's size outside of it, and names some.
    """

    meta: Meta
    meta_member: str
    task: Task
    named: frozenset[str]
    classes: tuple[str, ...]
    label_coords: LabelCoords | None
    astray: tuple[int, tuple[str, ...]]
    samples: int
    read: int


class Refusals:
    """Takes errors that concern the release as a whole: raises the first, or collects all."""

    def __init__(self, *, collect: bool = False) -> None:
        self.collects = collect
        self.errors: list[ReleaseError] = []

    def add(self, error: ReleaseError) -> None:
        """Raise the error, or note it."""
        if not self.collects:
            raise error
        self.errors.append(error)


def decide(ledger: Ledger, options: ConvertOptions, where: str, refusals: Refusals) -> Decisions:
    """Decide; what does not belong to the release is refused, or rejected in the ledger where that was asked for.

    Raises
    ------
    PairError, LabelError, ReleaseError
        When halves lack the other, labels are of another task, or their coordinates can be read two ways, unless
        refusals are collected.
    """
    _settle_members(ledger, where, refusals)
    member, meta = _meta(ledger, options, where, refusals)
    _pair(ledger, options, where)
    samples = read = ledger.count()
    task = _task(ledger, options, meta, where, refusals) if samples else "classification"
    if options.on_error == "skip":
        samples, read = ledger.count(), ledger.count_read()
    if read == 0 or (samples == 0 and not refusals.collects):
        hint = "a release has images/<id>.tif and labels/<id>.json"
        told = "there is no sample in it" if read == 0 else "there is no sample in it that converts"
        refusals.add(PairError(told, where=where, hint=hint, rule="release-empty"))
    named = ledger.declared_classes()
    label_coords, astray = _label_coords(ledger, options, where, refusals)
    return Decisions(
        meta=meta,
        meta_member=member,
        task=task,
        named=frozenset(named),
        classes=_classes(named, options, meta, where),
        label_coords=label_coords,
        astray=astray,
        samples=samples,
        read=read,
    )


def _pair(ledger: Ledger, options: ConvertOptions, where: str) -> None:
    """Refuse or leave out the halves that lack the other."""
    if options.on_error == "skip":
        ledger.reject_unpaired()
    elif first := ledger.first_unpaired():
        sample_id, member, lack = first
        raise PairError(f"sample {sample_id!r} has no {lack}", where=f"{where}: {member}")


def _settle_members(ledger: Ledger, where: str, refusals: Refusals) -> None:
    """Take ``meta.json`` and ``bounds.geojson`` for the release's own only beside its images, and only once each."""
    found: dict[str, str] = {}
    for name, kind in ledger.settle_members():
        if kind in found:
            hint = "leave one of them out"
            message = f"there are two: {found[kind]} and {name}"
            refusals.add(PairError(message, where=where, hint=hint, rule="release-refused"))
        found.setdefault(kind, name)


def _meta(ledger: Ledger, options: ConvertOptions, where: str, refusals: Refusals) -> tuple[str, Meta]:
    """Return the member that is meta.json, and what it says."""
    found = ledger.read_member("meta")
    if found is None:
        return "", Meta()
    place = f"{where}: {found[0]}"
    try:
        document = parse_json(found[1], place, options.limits)
        try:
            return found[0], rules.parse_meta(document, place, task=options.task)
        except ReleaseError as error:
            if error.rule != "meta-task":
                raise
            refusals.add(error)
            return found[0], rules.parse_meta({**document, "mlType": None}, place)
    except LabelError as error:
        hint = "mend it, or leave it out: a release needs none"
        rule = "label-class" if error.rule == "label-class" else "meta-json"
        refusals.add(ReleaseError(error.message, where=error.where, hint=hint, rule=rule))
    except ReleaseError as error:
        refusals.add(error)
    return found[0], Meta()


def _task(ledger: Ledger, options: ConvertOptions, meta: Meta, where: str, refusals: Refusals) -> Task:
    task = options.task or meta.task
    forms = dict(ledger.label_forms())
    if task is None:
        try:
            task = labels.infer_task(set(forms), only_boxes=forms.get("objects", True), where=where)
        except ReleaseError as error:
            refusals.add(error)
            return "classification"
    for kind in forms:
        if not labels.belongs(task, kind):
            wrong = labels.wrong_task(task, kind, f"{where}: {ledger.first_of_kind(kind)}")
            if options.on_error == "raise":
                raise wrong
            ledger.reject_kind(kind, wrong.message, wrong.rule or "label-task")
    return task


def _classes(named: set[str], options: ConvertOptions, meta: Meta, where: str) -> tuple[str, ...]:
    if options.classes is None:
        return tuple(sorted(named | set(meta.classes)))
    unlisted = sorted(named - set(options.classes))
    if unlisted:
        hint = "add them to classes="
        raise ReleaseError(f"labels name classes that were not given: {', '.join(unlisted)}", where=where, hint=hint)
    return tuple(sorted(set(options.classes)))


def _label_coords(
    ledger: Ledger, options: ConvertOptions, where: str, refusals: Refusals
) -> tuple[LabelCoords | None, tuple[int, tuple[str, ...]]]:
    """Tell what label coordinates are, and which samples have objects that fit neither way."""
    if options.label_coords != "auto":
        return options.label_coords, (0, ())
    decision = labels.CoordinateDecision()
    count, astray = 0, []
    for row in ledger.coordinates():
        evidence = labels.weigh(row.id, row.objects_bounds, row.footprint_bounds, row.height, row.width)
        decision.add(evidence)
        if not evidence.pixel and not evidence.geographic:
            count += 1
            astray += [row.id] if count <= EXAMPLES else []
    try:
        return decision.decide(where), (count, tuple(astray))
    except ReleaseError as error:
        refusals.add(error)
        return None, (0, ())
