"""Splits: which samples train and which test; a new version of the store that tells it."""

from __future__ import annotations

import hashlib
import math
import operator
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate, count
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import UsageError
from vedastore.io import geometry
from vedastore.ops.select import select
from vedastore.store.columns import arrow_array
from vedastore.store.commit import Write
from vedastore.store.tables import TableWriter, arrow_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from vedastore.spec.root import Root
    from vedastore.store.snapshot import Snapshot

_WHOLE: Final = 100.0
_HASH_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class SplitReport:
    """The version that a split committed, and how many samples each split has; "" are those of none."""

    store: str
    version: str
    samples: dict[str, int]


def split(
    snapshot: Snapshot, shares: Mapping[str, float], seed: int = 0, given: Mapping[str, str] | None = None
) -> SplitReport:
    """Commit a version whose samples are of splits; see ``Collection.split``.

    Raises
    ------
    UsageError
        When the shares are no percentages, or do not add up to 100.
    SampleNotFoundError
        When splits are given for ids of no sample.
    ConflictError
        When another writer has committed since the snapshot was opened.
    """
    choose = _by_id(shares, seed) if given is None else _as_given(snapshot, given)
    version, samples = snapshot.version, dict[str, int]()
    with Write(snapshot.objects, onto=snapshot.root) as write, TableWriter("samples") as writer:
        for table in snapshot.table("samples").iter_batches():
            names = [choose(name) for name in table.column("id").to_pylist()]
            for name in names:
                samples[name or ""] = samples.get(name or "", 0) + 1
            at = table.schema.get_field_index("split")
            column = arrow_array(names, table.schema.field(at).type)
            shapes = {"geometry": geometry.parse_wkb(table.column("geometry").to_pylist())}
            rows = table.set_column(at, table.schema.field(at), column).cast(arrow_schema("samples"))
            writer.append_table(rows, shapes)
        changed = replace(
            version,
            version=_name(snapshot.root, version.version),
            parent=version.version,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            index={**version.index, "samples": writer.finish(write)},
        )
        write.commit(changed)
    return SplitReport(snapshot.objects.url, changed.version, dict(sorted(samples.items())))


def _by_id(shares: Mapping[str, float], seed: int) -> Callable[[str], str]:
    """Return what tells the split of an id by its hash alone: adding samples moves none of those that are there."""
    sound = all(type(share) in {int, float} and 0 <= share <= _WHOLE for share in shares.values())
    if not sound or not math.isclose(sum(shares.values()), _WHOLE):
        told = ", ".join(f"{name} {share}" for name, share in shares.items())
        raise UsageError(f"the shares of the splits do not add up to 100: {told}", hint="give percentages")
    try:
        seed = operator.index(seed)
    except TypeError:
        raise UsageError(f"the seed is {seed!r}", hint="give a whole number") from None
    names: list[str] = [name for name, share in shares.items() if share]
    limits = [*accumulate(shares[name] / _WHOLE for name in names)][:-1]

    def choose(sample_id: str) -> str:
        digest = hashlib.blake2b(f"{seed}/{sample_id}".encode(), digest_size=_HASH_BYTES).digest()
        place = int.from_bytes(digest, "little") / 2 ** (8 * _HASH_BYTES)
        return names[bisect_right(limits, place)]

    return choose


def _as_given(snapshot: Snapshot, given: Any) -> Callable[[str], str | None]:
    if not isinstance(given, Mapping):
        raise UsageError(f"given is {type(given).__name__}, not a mapping of ids to names")
    wrong = [name for name, value in given.items() if not _is_name(value)]
    if wrong:
        raise UsageError(f"the split of {wrong[0]!r} is {given[wrong[0]]!r}, which is no name")
    select(snapshot, np.arange(snapshot.version.samples), ids=list(given))  # tells which are of no sample
    return given.get


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.encode("utf-8", "replace").decode() == value


def _name(root: Root, version: str) -> str:
    """Return a name for a change of a version, which has build metadata as semantic versions do: ``1.0.1+1``."""
    taken = {v.version for v in root.versions}
    release = version.partition("+")[0]
    return next(name for number in count(1) if (name := f"{release}+{number}") not in taken)
