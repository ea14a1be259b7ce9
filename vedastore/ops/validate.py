"""Tells whether an archive or directory is a release that converts: its structure, its pairs, its labels and images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from vedastore.errors import ReleaseError
from vedastore.exchange.release import ReleaseReader
from vedastore.model import Finding, Task
from vedastore.ops.convert import BATCH_BYTES, BATCH_MEMBERS, MEMBER_BYTES
from vedastore.ops.decisions import FlagCount, decide
from vedastore.ops.roll import Encoded, Roll, read_batch
from vedastore.ops.workers import batched_bytes, map_ordered, open_executor
from vedastore.store.ledger import Ledger
from vedastore.store.rows import plan_rows

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from vedastore.ops.options import ConvertOptions


@dataclass(frozen=True, slots=True)
class ValidateReport:
    """What a validation found: ``problems`` keep a sample out of a conversion, ``findings`` do not."""

    ok: bool
    samples: int
    task: Task | None
    classes: tuple[str, ...]
    label_coords: str | None
    problems: tuple[Finding, ...]
    findings: tuple[Finding, ...]


def validate(
    release: str | os.PathLike[str],
    options: ConvertOptions,
    *,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> ValidateReport:
    """Read a whole release as a conversion would, and tell everything that is wrong or odd.

    Raises
    ------
    ArchiveError
        When the container itself is damaged: nothing inside it can be trusted then.
    """
    options = replace(options, on_error="skip")
    reader = ReleaseReader(release, progress, options.limits)
    with Ledger() as ledger, open_executor(workers, client) as executor:
        roll = Roll(ledger, options, reader.where)
        members = ((member, len(member.data) + MEMBER_BYTES) for member in reader.iter_members())
        batches = batched_bytes(members, BATCH_BYTES, BATCH_MEMBERS)
        work = partial(read_batch, options=options, where=reader.where, encode=False)
        for outcomes in map_ordered(executor, work, batches):
            for outcome in outcomes:
                if isinstance(outcome, Encoded):
                    roll.add_image(outcome.half, "", 0)
                else:
                    roll.add(outcome)
        try:
            decisions = decide(ledger, options, reader.where)
        except ReleaseError as error:
            problems = (*_problems(ledger), Finding(error.kind, error.message, error.where))
            return ValidateReport(False, 0, None, (), None, problems, ())
        flags = FlagCount()
        for pairs in ledger.iter_pairs():
            rows, _ = plan_rows(pairs, decisions.label_coords)
            for pair, flagged in zip(pairs, rows["flags"], strict=True):
                flags.add(pair.id, flagged)
        problems, findings = _problems(ledger), (*decisions.findings, *flags.findings())
    return ValidateReport(
        ok=not problems and not findings,
        samples=decisions.samples,
        task=decisions.task,
        classes=decisions.classes,
        label_coords=decisions.label_coords,
        problems=problems,
        findings=findings,
    )


def _problems(ledger: Ledger) -> tuple[Finding, ...]:
    return tuple(Finding("sample", r["reason"], ", ".join(r["members"])) for r in ledger.rejected())
