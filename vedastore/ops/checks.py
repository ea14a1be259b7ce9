"""Compares a release with the rules of ``spec.rules``: one finding a rule, however many samples break it.

A conversion and a validation find the same. Memory does not depend on how many samples there are, or are bad.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from vedastore.errors import ReleaseError
from vedastore.io.coverage import Coverage
from vedastore.io.geojson import iter_features
from vedastore.model import EXAMPLES, Finding
from vedastore.spec import release as rules
from vedastore.spec.rules import RULES, SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from vedastore.ops.decisions import Decisions
    from vedastore.ops.options import ConvertOptions
    from vedastore.store.ledger import Ledger

ON_COORDINATES: Final = ("object-outside", "objects-unplaced", "geometry-degenerate")
"""Rules that mean nothing where it is not known what label coordinates are."""
_ORDER: Final = {rule: place for place, rule in enumerate(RULES)}
_CONTAINERS: Final = {"tar": "a plain tar archive", "directory": "a directory"}


class FlagCount:
    """Counts the flags of rows that are rules, and tells them as findings; ``ignored`` rules aside."""

    def __init__(self, ignored: Collection[str] = ()) -> None:
        self._ignored = ignored
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, sample_id: str, flags: list[str]) -> None:
        """Count one sample's flags."""
        for rule in flags:
            if rule in RULES and rule not in self._ignored:
                self._counts[rule] = self._counts.get(rule, 0) + 1
                examples = self._examples.setdefault(rule, [])
                if len(examples) < EXAMPLES:
                    examples.append(sample_id)

    def findings(self, where: str) -> list[Finding]:
        """Return one finding a rule."""
        return [many(rule, count, tuple(self._examples[rule]), where) for rule, count in self._counts.items()]


def many(
    rule: str, count: int, names: tuple[str, ...], where: str, *, told: str | None = None, noun: str = "sample"
) -> Finding:
    """Return a finding about some samples or members: how many, the first of them, and what is the matter."""
    listed = rules.some(names) + (" ..." if len(names) < count and not rules.some(names).endswith(" ...") else "")
    message = f"{count} {noun}{'' if count == 1 else 's'}: {listed} — {told or RULES[rule].title}"
    return Finding(rule, message, where, count, names)


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings: errors, warnings, notes; within these as in the catalogue, and what it does not know last."""
    last = len(SEVERITIES), len(_ORDER)
    known = {rule: (SEVERITIES.index(RULES[rule].severity), place) for rule, place in _ORDER.items()}
    return tuple(sorted(findings, key=lambda f: known.get(f.rule, last)))


def check_refused(ledger: Ledger, errors: Iterable[ReleaseError], where: str) -> Iterator[Finding]:
    """Yield what does not convert: errors of the release as a whole, and of samples that were rejected."""
    for error in errors:
        yield Finding(error.rule or "release-refused", error.message, error.where or where)
    for rule, (count, ids), member, reason in ledger.survey.refused():
        first = f"{member}: {reason}"
        told = first if count == 1 else f"{RULES[rule].title}; the first is {first}"
        yield many(rule, count, ids, f"{where}: {member}", told=told)


def check_release(
    ledger: Ledger, decisions: Decisions, options: ConvertOptions, where: str, container: str
) -> Iterator[Finding]:
    """Yield everything that is worth knowing of a release that was decided, the flags of its rows aside."""
    complete = decisions.read == decisions.samples
    yield from _check_members(ledger, where)
    for rule, (count, ids) in ledger.survey.alike_names():
        yield many(rule, count, ids, where)
    if decisions.samples:
        yield from rules.check_classes(decisions.named, where)
        yield from _check_meta(ledger, decisions, where, complete=complete)
        yield from _check_bounds(ledger, decisions, options, where)
        yield from _check_samples(ledger, decisions, where)
        yield from _check_import(ledger, options, where, container)


def _check_members(ledger: Ledger, where: str) -> Iterator[Finding]:
    count, names = ledger.kept_members()
    if count:
        yield many("kept-member", count, names, where, noun="member")


def _check_meta(ledger: Ledger, decisions: Decisions, where: str, *, complete: bool) -> Iterator[Finding]:
    meta, place = decisions.meta, f"{where}: {decisions.meta_member}"
    if not decisions.meta_member:
        yield Finding("meta-missing", "there is no meta.json", where)
    if meta.declared is None:
        return
    yield from rules.check_meta(meta, set(decisions.named), place, complete=complete)
    if edges := ledger.survey.edges():
        yield from rules.check_bbox(meta, *edges, place, complete=complete)


def _check_bounds(ledger: Ledger, decisions: Decisions, options: ConvertOptions, where: str) -> Iterator[Finding]:
    found = ledger.read_member("bounds")
    if found is None:
        return
    place = f"{where}: {found[0]}"
    try:
        features = islice(iter_features(found[1], place, options.limits), max(decisions.read, decisions.samples, 1) + 1)
        boxes = [rules.parse_bounds(feature, place) for feature in features]  # one too many is as good as all
    except ReleaseError as error:
        yield Finding("bounds-json", error.message, place)
        return
    yield from rules.check_bounds(len(boxes), decisions.samples, place, read=decisions.read)
    count = 0
    outside: list[str] = []
    coverage = Coverage([box for box in boxes if box is not None])
    for rows in ledger.survey.iter_boxes():
        edges = np.array([row[1:5] for row in rows])
        size = edges[:, 2:] - edges[:, :2]
        margins = np.maximum(size / [row[5:] for row in rows], rules.BBOX_TOLERANCE)
        missed = coverage.misses(edges, margins)
        # A footprint over the antimeridian has no box of its own.
        missed = missed[size[missed, 0] <= rules.HALF_WORLD_DEGREES]
        count += len(missed)
        outside += [rows[i][0] for i in missed[: EXAMPLES - len(outside)].tolist()]
    if count:
        yield many("bounds-footprint", count, tuple(outside), place)


def _check_samples(ledger: Ledger, decisions: Decisions, where: str) -> Iterator[Finding]:
    for rule, values, (count, ids) in ledger.survey.shapes():
        shown = [f"{value} ({number})" for value, number in values]
        told = f"{RULES[rule].title}: {rules.some(shown)}"
        yield many(rule, count, ids, where, told=told)
    for rule, (count, ids) in ledger.survey.traits():
        if rule != "footprint-missing" or count < decisions.samples:
            yield many(rule, count, ids, where)
    count, ids = ledger.survey.duplicates()
    if count:
        yield many("image-duplicate", count, ids, where)
    count, ids = decisions.astray
    if count:
        yield many("objects-astray", count, ids, where)


def _check_import(ledger: Ledger, options: ConvertOptions, where: str, container: str) -> Iterator[Finding]:
    """Yield what bulk import would not take; which footprints are no Polygon is told with the samples."""
    if container in _CONTAINERS:
        yield Finding("import-container", f"the release is {_CONTAINERS[container]}, no tar.gz", where)
    count, names = ledger.survey.suffixes()
    if count:
        yield many("import-suffix", count, names, where, noun="member")
    chosen = {"--label-field": options.labels.label_field, "--default-label": options.labels.default_label}
    used = [f"{name} {value}" for name, value in chosen.items() if value is not None]
    if used:
        yield Finding("import-option", f"the labels were read with {' and '.join(used)}", where)
