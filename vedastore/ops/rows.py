"""The rows of a version to be, as they are written and counted: of all its samples, or of a part of them."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from vedastore.errors import StoreError
from vedastore.ops.checks import FlagCount
from vedastore.ops.select import find_bounds
from vedastore.ops.succession import carry_columns
from vedastore.spec.root import Part
from vedastore.store.rows import plan_rows
from vedastore.store.snapshot import Snapshot
from vedastore.store.tables import TableWriter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

    from vedastore.model import LabelCoords
    from vedastore.ops.succession import Succession
    from vedastore.spec.lonlat import Bbox
    from vedastore.spec.root import IndexFile, Version
    from vedastore.store.commit import Write
    from vedastore.store.ledger import Pairs


@dataclass(slots=True)
class Tally:
    """What is counted of rows: objects, images by fidelity, flags; and the box around all footprints."""

    features: int = 0
    fidelity: dict[str, int] = field(default_factory=lambda: {"exact": 0, "equivalent": 0, "decoded": 0})
    flags: FlagCount = field(default_factory=FlagCount)
    bounds: Bbox | None = None

    def add(self, ids: Any, fidelity: Any, flags: Any) -> None:
        """Count some samples."""
        for kind, number in Counter(fidelity).items():
            self.fidelity[kind] = self.fidelity.get(kind, 0) + number
        for sample_id, flagged in zip(ids, flags, strict=True):
            self.flags.add(sample_id, flagged)


class RowWriter:
    """Writes ``samples`` and ``features``; those of a version that follows another one keep what was added to samples.

    Parameters
    ----------
    parent : Snapshot, optional
        The version before.
    plan : Succession, optional
        How the samples follow those of the version before.
    splits : dict, optional
        Splits by id of samples that get others than they had.
    """

    def __init__(
        self,
        parent: Snapshot | None = None,
        plan: Succession | None = None,
        splits: Mapping[str, str | None] | None = None,
    ) -> None:
        self._splits = splits or {}
        self._carried: tuple[Any, Any] | None = None
        self._is_part = plan is not None and plan.is_part
        if parent is not None and plan is not None:
            self._carried = plan.slots, carry_columns(parent, plan)
        self._stack = ExitStack()
        schema = None if parent is None else parent.table("samples").schema
        self._samples = self._stack.enter_context(TableWriter("samples", schema))
        self._features = self._stack.enter_context(TableWriter("features"))
        self._tally = Tally()
        self._finished: dict[str, Future[IndexFile]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def append(self, pairs: Pairs, coords: LabelCoords | None) -> None:
        """Add the rows of some pairs."""
        samples, features = plan_rows(pairs, coords)
        columns = samples.columns
        if self._carried is not None:
            slots, carried = self._carried
            kept = carried.take(np.searchsorted(slots, pairs.position))
            columns = columns | dict(zip(kept.column_names, kept.columns, strict=True))
            if self._splits:
                told = zip(pairs.id, columns["split"].to_pylist(), strict=True)
                columns["split"] = [self._splits.get(name, split) for name, split in told]
        self._samples.append(columns, samples.shapes)
        self._features.append(features.columns, features.shapes)
        self._tally.add(pairs.id, pairs.fidelity, samples.columns["flags"])

    def seal(self, write: Write) -> None:
        """Begin to write both tables to the store: no more rows come."""
        writers = (self._samples, self._features)
        self._finished = {writer.table: writer.seal(write, is_part=self._is_part) for writer in writers}

    def finish(self) -> tuple[dict[str, IndexFile], Tally]:
        """Wait until both are written; return their files, and what was counted of their rows."""
        self._tally.features, self._tally.bounds = self._features.rows, self._samples.bounds
        return {table: future.result() for table, future in self._finished.items()}, self._tally


def put_on_top(
    write: Write, parent: Snapshot, version: Version, files: dict[str, IndexFile], plan: Succession
) -> tuple[Version, Tally]:
    """Return a version that has the tables of its parent with a part on top of them, and what is counted of its rows.

    ``version`` has everything else.
    """
    gone, before = None, parent.version
    if len(plan.removed):
        with TableWriter("removed") as writer:
            writer.append({"position": np.sort(plan.removed)})
            gone = writer.finish(write, is_part=True)
    part = Part(files["samples"], files["features"], gone)
    draft = replace(
        version,
        samples=len(plan.slots),
        index={**version.index, "samples": before.index["samples"], "features": before.index["features"]},
        buckets={**before.buckets, **version.buckets},
        parts=(*before.parts, part),
    )
    tally = count_rows(Snapshot(write.objects, parent.root, draft))
    if tally.features > before.features + files["features"].rows:
        told = f"its samples have {tally.features} objects, which are more than there are"
        raise StoreError(f"the index is damaged: {told}", where=write.objects.url)
    return replace(draft, features=tally.features, fidelity=tally.fidelity, bounds=tally.bounds), tally


def count_rows(snapshot: Snapshot) -> Tally:
    """Count the rows of a version that is written."""
    import pyarrow.compute as pc

    tally = Tally(bounds=find_bounds(snapshot, np.arange(snapshot.version.samples)))
    for table in snapshot.table("samples").iter_batches(["id", "fidelity", "flags", "objects"]):
        tally.features += int(table.column("objects").to_numpy().sum())
        flagged = table.filter(pc.greater(pc.list_value_length(table.column("flags")), 0))
        ids, flags = (flagged.column(name).to_pylist() for name in ("id", "flags"))
        tally.add(ids, table.column("fidelity").to_pylist(), flags)
    return tally
