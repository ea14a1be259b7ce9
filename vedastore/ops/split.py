"""Splits: which samples train and which test; a new version of the store that tells it."""

from __future__ import annotations

import hashlib
import math
import operator
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import UsageError
from vedastore.io.contact import touching, unroll
from vedastore.ops.select import select
from vedastore.store.revision import commit_columns

if TYPE_CHECKING:
    from collections.abc import Callable

    from vedastore.store.snapshot import Snapshot

_WHOLE: Final = 100.0
_HASH_BYTES: Final = 8
_WORLD_DEGREES: Final = 360.0
_BLOCK_LEAST: Final = 1e-6
_BLOCK_CHIPS: Final = 16
"""Sides of a chip that the side of a block has."""
_SPLITS_COMPARED: Final = 100


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What a split did.

    Attributes
    ----------
    store, version : str
        The version that it committed.
    samples : dict
        How many samples each split has; "" are those of none.
    left_out : int
        Samples that are of none because they touch one of another split.
    touching : int
        Samples of a split whose footprint's box touches that of a sample of another one: what a model has seen of one
        split, it may meet in another. None where there are more than 100 splits.
    """

    store: str
    version: str
    samples: dict[str, int]
    left_out: int
    touching: int | None


def split(
    snapshot: Snapshot,
    shares: Mapping[str, float],
    seed: int = 0,
    *,
    by: str = "id",
    block: float | None = None,
    given: Mapping[str, str] | None = None,
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
    import pyarrow as pa

    if by not in {"id", "place"}:
        raise UsageError(f"a split is by id or by place, not by {by!r}")
    if given is not None and by != "id":
        raise UsageError("splits that are given are not made by place", hint="leave one of the two out")
    ids, boxes = _read_samples(snapshot)
    chosen = np.array([*map(_by_id(shares, seed) if given is None else _as_given(snapshot, given), ids)], dtype=object)
    before = int(np.count_nonzero(chosen != None))  # noqa: E711 - an array of objects
    if given is None and by == "place":
        chosen = _by_place(boxes, chosen, shares, seed, block)
    kept = int(np.count_nonzero(chosen != None))  # noqa: E711
    counts = Counter(name or "" for name in chosen.tolist())
    changed = commit_columns(snapshot, {"split": pa.array(chosen.tolist(), "string")})
    touch = _count_meeting(boxes, chosen)
    return SplitReport(snapshot.objects.url, changed.version, dict(sorted(counts.items())), before - kept, touch)


def _read_samples(snapshot: Snapshot) -> tuple[list[str], Any]:
    """Return ids and boxes (n, 4) of all samples in their order."""
    lookup, everything = snapshot.lookup, np.arange(snapshot.version.samples)
    boxes = [lookup.boxes(block) for block, _ in lookup.blocks(everything)]
    return lookup.names(everything), unroll(np.concatenate([np.empty((4, 0)), *boxes], axis=1).T)


def _by_place(boxes: Any, by_id: Any, shares: Mapping[str, float], seed: int, block: Any) -> Any:
    """Return splits by the block of the ground that a sample's centre is in; by id where it is nowhere.

    A sample that touches one of a smaller split is of none.
    """
    known = ~np.isnan(boxes[:, 0])
    sides = boxes[known, 2:] - boxes[known, :2]
    if block is None:
        block = _BLOCK_CHIPS * float(np.median(sides.max(axis=1))) if len(sides) else 1.0
    if not (isinstance(block, int | float) and _BLOCK_LEAST <= block <= _WORLD_DEGREES):
        raise UsageError(f"a block of {block} degrees makes no sense", hint="give the side of a block in degrees")
    choose, chosen = _by_id(shares, seed), by_id.copy()
    centres = (boxes[known, :2] + boxes[known, 2:]) / 2
    centres[:, 0] = (centres[:, 0] + _WORLD_DEGREES / 2) % _WORLD_DEGREES
    chosen[known] = [choose(f"{x} {y}") for x, y in np.floor(centres / block).astype("i8").tolist()]
    smaller = sorted((name for name in shares if shares[name]), key=lambda name: shares[name])
    for index in range(len(smaller) - 1, 0, -1):
        own = np.flatnonzero(chosen == smaller[index])
        rest = np.isin(chosen.astype(str), smaller[:index])
        chosen[own[touching(boxes[own], boxes[rest])]] = None
    return chosen


def _count_meeting(boxes: Any, chosen: Any) -> int | None:
    """Count the samples of a split that touch one of another."""
    texts = np.array([name or "" for name in chosen.tolist()])
    names = {*texts.tolist()} - {""}
    if len(names) > _SPLITS_COMPARED:
        return None
    each = (touching(boxes[texts == name], boxes[(texts != name) & (texts != "")]) for name in names)
    return sum(int(meeting.sum()) for meeting in each)


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
