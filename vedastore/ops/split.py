"""Splits: which samples train and which test; a new version of the store that tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import StoreError, UsageError
from vedastore.io.contact import unroll
from vedastore.ops.allotment import Allotment, Facts, SplitOptions, allot
from vedastore.ops.leaks import find_leaks
from vedastore.ops.likeness import read_likeness
from vedastore.ops.select import require_samples, select
from vedastore.ops.shares import Shares
from vedastore.store.revision import commit_columns

if TYPE_CHECKING:
    from collections.abc import Callable

    from vedastore.store.snapshot import Snapshot

    Array = np.ndarray[Any, Any]

_DEFAULT: Final = SplitOptions()


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What a split did.

    Attributes
    ----------
    store, version : str
        The version that it committed.
    samples : dict
        How many samples of the version each split has; "" are those of none.
    left_out : int
        Samples that are of none because they touch one of another split, or are within the buffer of it.
    touching : int
        Samples of a split whose footprint's box touches that of a sample of another one: what a model has seen of one
        split, it may meet in another. None where there are more than 100 splits.
    near : int
        The same within the buffer; None without one.
    near_duplicates : int
        Samples of a split whose image looks like that of a sample of another one; None where it was not looked for.
    groups, largest : int
        How many groups of samples were kept together, single samples among them, and the samples of the largest; 0 for
        splits that were given.
    block : float
        The side of the blocks in degrees; None for a split that is not by place.
    checked, not_checked : tuple of str
        What was looked at to find samples of different splits that show the same, and what was not.
    """

    store: str
    version: str
    samples: dict[str, int]
    left_out: int
    touching: int | None
    near: int | None
    near_duplicates: int | None
    groups: int
    largest: int
    block: float | None
    checked: tuple[str, ...]
    not_checked: tuple[str, ...]


def split(
    snapshot: Snapshot,
    shares: Mapping[str, float],
    seed: int = 0,
    options: SplitOptions = _DEFAULT,
    *,
    positions: Array | None = None,
    given: Mapping[str, str | None] | None = None,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> tuple[SplitReport, Snapshot]:
    """Commit a version in which samples, those at some positions or all, are of splits, and open it.

    See ``Collection.split``.

    Raises
    ------
    UsageError
        When the shares are no percentages, or do not add up to 100, and for no samples.
    SampleNotFoundError
        When splits are given for ids of none of the samples.
    ConflictError
        When another writer has committed since the snapshot was opened.
    """
    import pyarrow as pa

    told = Shares.of(shares, seed)
    if positions is not None:
        require_samples(snapshot, positions)
    if given is not None and (options.by != "id" or options.stratify):
        raise UsageError("splits that are given are not made by place or class", hint="leave one of the two out")
    ids, boxes, before = _read_samples(snapshot)
    own = np.ones(len(ids), dtype=bool)
    if positions is not None:
        own[:] = False
        own[positions] = True
    # Samples that keep a split count where they lie beside the others; those of none do not.
    at = np.flatnonzero(own | (before != None))  # noqa: E711 - an array of objects
    likeness = None
    if options.bits is not None:
        likeness = read_likeness(snapshot, at, workers=workers, client=client, progress=progress)
    chosen = before.copy()
    chosen[own] = None
    facts = Facts([ids[n] for n in at.tolist()], boxes[at], chosen[at], own[at])
    if given is None:
        found = allot(facts, told, options, likeness, lambda: _read_classes(snapshot, at))
    else:
        names = _parse_given(snapshot, np.flatnonzero(own), given)
        found = Allotment(np.array([names.get(i) for i in facts.ids], dtype=object))
    chosen[at] = np.where(facts.own, found.splits, facts.kept)
    leaks = find_leaks(boxes[at], chosen[at], options.buffer, likeness, options.bits)
    changed = commit_columns(snapshot, {"split": pa.array(chosen.tolist(), "string")})
    counts = Counter(name or "" for name in chosen.tolist())
    report = SplitReport(
        snapshot.objects.url,
        changed.version.version,
        dict(sorted(counts.items())),
        found.left_out,
        leaks.touching,
        leaks.near,
        leaks.alike,
        found.groups,
        found.largest,
        found.block,
        leaks.checked,
        leaks.not_checked,
    )
    return report, changed


def _read_samples(snapshot: Snapshot) -> tuple[list[str], Array, Array]:
    """Return ids, boxes (n, 4) and splits of all samples in their order."""
    lookup, everything = snapshot.lookup, np.arange(snapshot.version.samples)
    blocks = [block for block, _ in lookup.blocks(everything)]
    boxes = np.concatenate([np.empty((4, 0)), *map(lookup.boxes, blocks)], axis=1)
    splits = [name or None for block in blocks for name in lookup.splits(block).to_pylist()]
    return lookup.names(everything), unroll(boxes.T), np.array(splits, dtype=object)


def _parse_given(snapshot: Snapshot, positions: Array, given: Any) -> Mapping[str, str | None]:
    if not isinstance(given, Mapping):
        raise UsageError(f"given is {type(given).__name__}, not a mapping of ids to names")
    wrong = [name for name, value in given.items() if value is not None and not is_name(value)]
    if wrong:
        raise UsageError(f"the split of {wrong[0]!r} is {given[wrong[0]]!r}, which is no name")
    select(snapshot, positions, ids=list(given))  # tells which are of no sample
    return given


def is_name(value: object) -> bool:
    """Tell whether a value can be the name of a split: a text of Unicode that is not empty."""
    return isinstance(value, str) and value != "" and value.encode("utf-8", "replace").decode() == value


def _read_classes(snapshot: Snapshot, positions: Array) -> tuple[Array, Array]:
    """Return the pairs of sample and class of samples, by their places among the positions and among the classes."""
    lookup, owners, codes = snapshot.lookup, [np.empty(0, "i8")], [np.empty(0, "i8")]
    place = np.full(snapshot.version.samples, -1)
    place[positions] = np.arange(len(positions))
    for block, _ in lookup.blocks(np.arange(snapshot.version.samples)):
        code, owner = lookup.classes(block)
        if (code < 0).any():
            raise StoreError("the index has a class that the version does not list", where=snapshot.objects.url)
        at = place[owner + lookup.start(block)]
        owners.append(at[at >= 0])
        codes.append(code[at >= 0].astype("i8"))
    return np.concatenate(owners), np.concatenate(codes)
