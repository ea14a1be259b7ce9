"""How a release follows a version: which samples are the same, and whether a part says the difference."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.spec.root import PARTS_LIMIT
from vedastore.store.ledger import FILE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vedastore.ops.decisions import Decisions
    from vedastore.ops.options import ConvertOptions
    from vedastore.store.ledger import Ledger
    from vedastore.store.lookup import Positions
    from vedastore.store.snapshot import Snapshot

PART_SHARE: Final = 4
"""A part has at most this part of the samples, and readers pay little for it; beyond it tables are written anew."""


@dataclass(frozen=True, slots=True)
class Succession:
    """The samples of a version to be, by those of the version before it.

    Attributes
    ----------
    before : array of int
        Where each sample was in the version before, -1 for those that are new.
    slots : array of int
        What each sample has in the tables to be; see `store.overlay`.
    written : array of bool
        Of which samples rows are written: of all, unless a part says the difference.
    removed : array of int
        Slots of samples that are gone.
    is_part : bool
    """

    before: Positions
    slots: Positions
    written: Any
    removed: Positions
    is_part: bool


def plan_succession(parent: Snapshot, before: Positions, written: Any) -> Succession:
    """Decide what is written for samples that were at some positions, of which those ``written`` have other rows.

    A part does where the samples that stay are in the order that they were in, and new ones stand behind them.
    """
    kept = before[before >= 0]
    new = len(before) - len(kept)
    gone = np.setdiff1d(np.arange(parent.version.samples), kept)
    in_order = bool((np.diff(kept) > 0).all()) and bool((before[: len(kept)] >= 0).all())
    few = (int(written.sum()) + len(gone)) * PART_SHARE <= parent.version.samples
    if not (in_order and few and len(parent.version.parts) < PARTS_LIMIT):
        everything = np.ones(len(before), bool)
        return Succession(before, np.arange(len(before)), everything, np.empty(0, "i8"), is_part=False)
    slots = np.concatenate([parent.slots[kept], parent.next_slot + np.arange(new)])
    return Succession(before, slots, written, parent.slots[gone], is_part=True)


def plan_edit(parent: Snapshot, changed: Positions, removed: Positions, added: int) -> Succession:
    """Decide what is written where samples at some positions change or go, and others come: always a part."""
    kept = np.setdiff1d(np.arange(parent.version.samples), removed)
    before = np.concatenate([kept, np.full(added, -1)])
    slots = np.concatenate([parent.slots[kept], parent.next_slot + np.arange(added)])
    return Succession(before, slots, (before < 0) | np.isin(before, changed), parent.slots[removed], is_part=True)


def plan_append(parent: Snapshot, ledger: Ledger, decisions: Decisions, options: ConvertOptions) -> Succession:
    """Decide what is written for a release that follows a version."""
    version, before = parent.version, parent.lookup.find_many(ledger.ids())
    alike = (version.label_coords, version.label_options) == (decisions.label_coords, options.labels)
    written = np.ones(len(before), bool)
    if not alike or not (np.diff(before[before >= 0]) > 0).all():
        return plan_succession(parent, before, written)
    stored = _iter_files(parent, before[before >= 0])
    for place, (files, position) in enumerate(zip(ledger.iter_files(), before.tolist(), strict=True)):
        written[place] = position < 0 or files != next(stored)
    return plan_succession(parent, before, written)


def carry_columns(parent: Snapshot, succession: Succession) -> Any:
    """Return splits, and the columns that users have added, as a pyarrow Table of the samples to be.

    They stay with a sample for as long as it has its id.
    """
    import pyarrow as pa

    table = parent.table("samples").read(["split", *parent.table("samples").added])
    return table.take(pa.array(succession.before, mask=succession.before < 0))


def _iter_files(parent: Snapshot, positions: Positions) -> Iterator[tuple[Any, ...]]:
    parts = parent.iter_rows(positions, FILE_COLUMNS)
    rows = (zip(*(part.column(name).to_pylist() for name in FILE_COLUMNS), strict=True) for part in parts)
    return chain.from_iterable(rows)
