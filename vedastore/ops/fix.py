"""Writes a release anew, mended where no guessing is needed: a plan first, then one pass that copies and applies it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vedastore.errors import ArchiveError, LabelError, UsageError
from vedastore.exchange.release import ReleaseReader, ReleaseWriter
from vedastore.io.files import new_file
from vedastore.io.geojson import parse_json
from vedastore.ops.validate import Examination, Fingerprint, ValidateReport, examine, validate
from vedastore.ops.workers import count_workers
from vedastore.spec import repairs
from vedastore.spec.places import local_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vedastore.model import Limits
    from vedastore.ops.options import ConvertOptions


_DOUBTS: Final = {
    *("footprint-swapped", "footprint-disagrees", "footprint-out-of-range", "footprint-missing", "footprint-empty"),
    *("footprint-antimeridian", "footprint-not-rectangle"),
}
"""What makes footprints no evidence against what meta.json and bounds.geojson say."""


@dataclass(frozen=True, slots=True)
class Edit:
    """What was done to a member, and for which rule."""

    member: str
    rule: str
    done: str


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one member: other bytes, another name, or nothing; None keeps what is there."""

    ordinal: int
    edits: tuple[Edit, ...]
    name: str | None = None
    data: bytes | None = None
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class FixReport:
    """What was mended, and what a validation of the new release finds."""

    out: str
    edits: tuple[Edit, ...]
    report: ValidateReport


def fix(
    release: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: ConvertOptions,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> FixReport:
    """Write a mended release as ``.tar.gz``; images and everything that no rule names stay byte for byte.

    Raises
    ------
    ArchiveError
        When the release cannot be trusted, or changed meanwhile; nothing is written then.
    ConflictError
        When the target exists.
    StoreError
        When the target cannot be written.
    """
    _check_target(release, out)
    read = Fingerprint()
    shared: dict[str, Any] = {"workers": workers, "progress": progress}
    with examine(release, options, client=client, fingerprint=read, **shared) as examination:
        edits = _apply(release, out, examination, read, overwrite=overwrite, **shared)
    report = validate(out, options, workers=workers, client=client)
    return FixReport(os.fspath(out), edits, report)


def _check_target(release: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    source, target = Path(local_path(release)).resolve(), Path(local_path(out)).resolve()
    if not target.name.lower().endswith((".tar.gz", ".tgz")):
        raise UsageError("the target is no tar.gz", where=os.fspath(out), hint="let its name end in .tar.gz or .tgz")
    if source in (target, *target.parents):
        hint = "choose a place outside of it"
        raise UsageError("the target is the release, or lies in it", where=os.fspath(out), hint=hint)


def _apply(
    release: str | os.PathLike[str],
    out: str | os.PathLike[str],
    examination: Examination,
    read: Fingerprint,
    *,
    overwrite: bool,
    workers: int | None,
    progress: Callable[[int, int | None], None] | None,
) -> tuple[Edit, ...]:
    """Copy the release member by member, each with its change; return all edits."""
    reader, fingerprint = ReleaseReader(release, progress, examination.options.limits), Fingerprint()
    edits: list[Edit] = []
    with ExitStack() as stack:
        file = stack.enter_context(new_file(out, overwrite=overwrite))
        deflaters = stack.enter_context(ThreadPoolExecutor(count_workers(workers), thread_name_prefix="vedastore-gzip"))
        writer = ReleaseWriter(file, compress=True, executor=deflaters)
        changes = plan_fixes(examination)
        change = next(changes, None)
        for member in fingerprint.pass_on(reader.iter_members()):
            if change is None or change.ordinal != member.ordinal:
                writer.add(member.name, member.data, is_dir=member.is_dir)
                continue
            edits += change.edits
            if not change.dropped:
                data = member.data if change.data is None else change.data
                writer.add(change.name or member.name, data, is_dir=member.is_dir)
            change = next(changes, None)
        if fingerprint.hexdigest() != read.hexdigest():
            raise ArchiveError("the release changed while it was read", where=reader.where, hint="try again")
        writer.close()
    packed = (f for f in examination.report.findings if f.rule == "import-container")
    return (*edits, *(Edit(reader.where, f.rule, "packed as tar.gz") for f in packed))


def plan_fixes(examination: Examination) -> Iterator[Change]:
    """Yield what is to be done to members, in their order."""
    plans = (_plan_labels(examination), _plan_images(examination), _plan_others(examination))
    return merge(*plans, key=attrgetter("ordinal"))


def _plan_labels(examination: Examination) -> Iterator[Change]:
    for ordinal, member, data in examination.ledger.survey.iter_odd_labels():
        try:
            mended, done = repairs.mend_label(data, examination.options.labels.label_field)
        except RecursionError:  # too deep to be written anew; it stays as it is
            mended, done = data, {}
        edits = [Edit(member, rule, told) for rule, told in done.items()]
        name, renamed = _rename(member, ".json")
        if edits or renamed:
            yield Change(ordinal, (*edits, *renamed), name, mended)


def _plan_images(examination: Examination) -> Iterator[Change]:
    for ordinal, member in examination.ledger.survey.iter_odd_images():
        name, renamed = _rename(member, ".tif")
        yield Change(ordinal, renamed, name)


def _rename(member: str, suffix: str) -> tuple[str | None, tuple[Edit, ...]]:
    """Return a member's name with a suffix, where it has another one; ids have one file, so the name is free."""
    if member.endswith(suffix):
        return None, ()
    name = member.rpartition(".")[0] + suffix
    return name, (Edit(member, "import-suffix", f"renamed to {name}"),)


def _plan_others(examination: Examination) -> Iterator[Change]:
    """Plan for meta.json, bounds.geojson, and what operating systems left; their own order is that of the archive."""
    broken = {finding.rule for finding in examination.report.findings}
    for ordinal, name, kind in examination.ledger.iter_member_names():
        if kind in {"unknown", "directory"} and repairs.DROPPINGS.search(name.rstrip("/")):
            yield Change(ordinal, (Edit(name, "kept-member", "left out"),), dropped=True)
        elif kind == "meta" and name == examination.decisions.meta_member:
            yield from _plan_meta(examination, ordinal, name, broken)
        elif kind == "bounds" and (reasons := sorted(r for r in broken if r.startswith("bounds-"))):
            yield from _plan_bounds(examination, ordinal, name, reasons)


def _plan_meta(examination: Examination, ordinal: int, name: str, broken: set[str]) -> Iterator[Change]:
    found = examination.ledger.read_member("meta")
    if found is None or examination.decisions.meta.declared is None:
        return
    edges = examination.ledger.survey.edges() if _complete(examination) else None
    data, done = repairs.mend_meta(
        found[1], broken, named=examination.decisions.named, bbox=None if edges is None else edges[0]
    )
    if done:
        yield Change(ordinal, tuple(Edit(name, rule, told) for rule, told in done.items()), data=data)


def _plan_bounds(examination: Examination, ordinal: int, name: str, reasons: list[str]) -> Iterator[Change]:
    """Make bounds.geojson anew: a feature for each sample, or one around all where that would be too large to read."""
    ledger, limits = examination.ledger, examination.options.limits
    found = ledger.read_member("bounds")
    if not _complete(examination) or found is None or not repairs.is_plain_bounds(found[1]):
        return
    data = _dump_footprints(examination)
    told = "a feature for each sample, from its footprint"
    if not _can_be_read(data, name, limits):
        edges = ledger.survey.edges()
        if edges is None:
            return
        data, told = repairs.dump_bounds([repairs.box_feature(*edges[0])]), "one feature around all footprints"
    yield Change(ordinal, tuple(Edit(name, rule, told) for rule in reasons), data=data)


def _can_be_read(data: bytes, name: str, limits: Limits) -> bool:
    """Tell whether a file is within the limits."""
    if len(data) > limits.json_bytes:
        return False
    try:
        parse_json(data, name, limits)
    except LabelError:
        return False
    return True


def _dump_footprints(examination: Examination) -> bytes:
    """Return bounds.geojson with a feature for each sample, or its beginning where it is above the limit."""
    features: list[bytes] = []
    size = 0
    for sample_id, label in examination.ledger.survey.iter_labels():
        features.append(repairs.footprint_feature(sample_id, label))
        size += len(features[-1])
        if size > examination.options.limits.json_bytes:
            break
    return repairs.dump_bounds(features)


def _complete(examination: Examination) -> bool:
    """Tell whether every footprint is known and none is in doubt: a box around the others would be a guess."""
    doubted = {finding.rule for finding in examination.report.findings} & _DOUBTS
    known = examination.decisions.read == examination.decisions.samples > 0 and not examination.report.problems
    return known and not doubted
