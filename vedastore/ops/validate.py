"""Reads a whole release as a conversion would, and compares it with the rules: what is wrong with it, or odd."""

from __future__ import annotations

import hashlib
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from vedastore.exchange.release import ReleaseReader
from vedastore.ops.checks import ON_COORDINATES, FlagCount, check_refused, check_release, ordered
from vedastore.ops.convert import BATCH_BYTES, BATCH_MEMBERS, MEMBER_BYTES
from vedastore.ops.decisions import Decisions, Refusals, decide
from vedastore.ops.roll import Encoded, Roll, read_batch
from vedastore.ops.workers import batched_bytes, map_ordered, open_executor
from vedastore.spec.places import check_options
from vedastore.spec.rules import RULES
from vedastore.store.ledger import Ledger
from vedastore.store.rows import plan_rows

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from vedastore.io.member import Member
    from vedastore.model import Finding, Task
    from vedastore.ops.options import ConvertOptions


@dataclass(frozen=True, slots=True)
class ValidateReport:
    """What a validation found: ``problems`` are errors, ``findings`` warnings and notes.

    ``samples`` counts those that convert. ``places`` has the members of the samples that are named, by id and by
    ``image`` or ``label``.
    """

    samples: int
    task: Task | None
    classes: tuple[str, ...]
    label_coords: str | None
    problems: tuple[Finding, ...]
    findings: tuple[Finding, ...]
    places: dict[str, dict[str, str]] = field(default_factory=dict)

    def count(self, severity: str) -> int:
        """Return how many rules of a severity are broken."""
        return sum(RULES[f.rule].severity == severity for f in (*self.problems, *self.findings))

    def ok(self, *, strict: bool = False) -> bool:
        """Tell whether there is neither error nor warning; no note either, where it is strict."""
        return not (self.count("error") or self.count("warning") or (strict and self.count("note")))


@dataclass(frozen=True, slots=True)
class Examination:
    """A release that was read: its ledger, what was decided, and the report."""

    ledger: Ledger
    decisions: Decisions
    options: ConvertOptions
    report: ValidateReport


def validate(
    release: str | os.PathLike[str],
    options: ConvertOptions,
    *,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> ValidateReport:
    """Read a whole release as a conversion would, and tell everything that is wrong or odd.

    Raises
    ------
    ArchiveError
        When the container itself is damaged: nothing inside it can be trusted then.
    """
    check_options(storage_options, release)
    shared = {"workers": workers, "client": client, "progress": progress}
    with examine(release, options, **shared, storage_options=storage_options) as examination:
        return examination.report


@contextmanager
def examine(
    release: str | os.PathLike[str],
    options: ConvertOptions,
    *,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
    fingerprint: Fingerprint | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[Examination]:
    """Validate a release, and keep all that was learnt of it for as long as the block lasts.

    A ``fingerprint`` takes all names and bytes, for whoever will read the release again.

    Raises
    ------
    ArchiveError
        When the container itself is damaged.
    """
    options = replace(options, on_error="skip")
    reader, refusals = ReleaseReader(release, progress, options.limits, storage_options), Refusals(collect=True)
    with Ledger() as ledger:
        with open_executor(workers, client) as executor, closing(reader.iter_members()) as read:
            found = read if fingerprint is None else fingerprint.pass_on(read)
            roll = Roll(ledger, options, reader.where, refusals)
            members = ((member, len(member.data) + MEMBER_BYTES) for member in found)
            batches = batched_bytes(members, BATCH_BYTES, BATCH_MEMBERS)
            work = partial(read_batch, options=options, where=reader.where, encode=False)
            for outcomes in map_ordered(executor, work, batches):
                for outcome in outcomes:
                    if isinstance(outcome, Encoded):
                        roll.add_image(outcome.half, "", 0)
                    else:
                        roll.add(outcome)
        decisions = decide(ledger, options, reader.where, refusals)
        refused = {error.rule for error in refusals.errors}
        flags = FlagCount(ON_COORDINATES if "coordinates-unclear" in refused else ())
        for pairs in ledger.iter_pairs():
            rows, _ = plan_rows(pairs, decisions.label_coords)
            for sample_id, flagged in zip(pairs.id, rows.columns["flags"], strict=True):
                flags.add(sample_id, flagged)
        problems = ordered(check_refused(ledger, refusals.errors, reader.where))
        checked = check_release(ledger, decisions, options, reader.where, reader.container)
        two = "release-two" in refused  # what they are together means nothing
        findings = () if two else ordered((*checked, *flags.findings(reader.where)))
        report = ValidateReport(
            samples=0 if refusals.errors else decisions.samples,
            task=decisions.task if decisions.samples and not refusals.errors else None,
            classes=decisions.classes,
            label_coords=decisions.label_coords,
            problems=problems,
            findings=findings,
            places=_places(ledger, (*problems, *findings)),
        )
        yield Examination(ledger, decisions, options, report)


class Fingerprint:
    """A digest of the names and bytes of all members in their order: the same release has the same."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def pass_on(self, members: Iterable[Member]) -> Iterator[Member]:
        """Yield the members, and note each."""
        for member in members:
            self._digest.update(f"{len(member.name)} {len(member.data)} {member.name}".encode())
            self._digest.update(member.data)
            yield member

    def hexdigest(self) -> str:
        """Return the digest of what has passed."""
        return self._digest.hexdigest()


def _places(ledger: Ledger, findings: tuple[Finding, ...]) -> dict[str, dict[str, str]]:
    named = {name for finding in findings for name in finding.samples}
    return {name: members for name in sorted(named) if (members := ledger.survey.members_of(name))}
