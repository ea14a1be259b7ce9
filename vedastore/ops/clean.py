"""Remove what no version names: what an overwrite replaced, and what an interrupted writer left."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vedastore.errors import ConflictError, StoreError, UsageError
from vedastore.io.objects import open_objects
from vedastore.spec import keys
from vedastore.store.commit import read_root

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from vedastore.io.objects import Objects
    from vedastore.spec.root import Root

GRACE_DAYS: Final = 7.0
_DAY_SECONDS: Final = 86_400
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class CleanReport:
    """What was removed, or would be.

    Attributes
    ----------
    store : str
    removed, bytes : int
        Objects that were removed, and their bytes; that would be, where ``dry_run``.
    waiting : int
        Objects that no version names either, but that a reader or writer may still need.
    foreign : int
        Objects that are none of a store's; they are left alone.
    dry_run : bool
    """

    store: str
    removed: int
    bytes: int
    waiting: int
    foreign: int
    dry_run: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    doomed: dict[str, int]
    waiting: int
    foreign: int


def clean(
    store: str | os.PathLike[str],
    *,
    grace_days: float = GRACE_DAYS,
    dry_run: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> CleanReport:
    """Remove the objects of a store that no version names; see ``vedastore.clean``."""
    days: object = grace_days
    if not (isinstance(days, int | float) and 0 <= days < math.inf):
        raise UsageError(f"the grace period is {grace_days!r}", hint="give a number of days, 0 or more")
    objects = open_objects(store, storage_options)
    for _ in range(_TRIES):
        found = read_root(objects)
        if found is None:  # where the root is lost, all that it named may still be saved
            hint = "vedastore convert makes one from a release"
            raise StoreError("there is no store", where=objects.url, hint=hint)
        plan = _plan(objects, found[0], grace_days * _DAY_SECONDS)
        again = read_root(objects)
        if again is not None and again[1] == found[1]:
            break
    else:
        raise ConflictError("the store changes all the time", where=objects.url, hint="wait for its writers to end")
    if not dry_run:
        for key in plan.doomed:
            objects.delete(key)
    return CleanReport(
        objects.url, len(plan.doomed), sum(plan.doomed.values()), plan.waiting, plan.foreign, dry_run=dry_run
    )


def _plan(objects: Objects, root: Root, grace_seconds: float) -> _Plan:
    """Look at every object once."""
    is_named = _naming(root)
    doomed: dict[str, int] = {}
    latest, waiting, foreign = time.time() - grace_seconds, 0, 0
    changed_seconds = -math.inf
    for key, size, modified in objects.entries():
        if key == keys.ROOT:
            changed_seconds = modified
        elif not keys.is_ours(key):
            foreign += 1
        elif is_named(key):
            continue
        elif modified > latest:
            waiting += 1
        else:
            doomed[key] = size
    if changed_seconds > latest:
        return _Plan({}, waiting + len(doomed), foreign)
    return _Plan(doomed, waiting, foreign)


def _naming(root: Root) -> Callable[[str], bool]:
    """Return what tells whether a key is that of an object which a version has."""
    buckets = root.buckets()
    named = {keys.chips_metadata(), keys.root_copy(root.write_id)}
    named |= {file.key for version in root.versions for file in version.files}
    for name in buckets:
        named |= {keys.bucket_metadata(name), keys.array_metadata(name)}

    def is_named(key: str) -> bool:
        if shard := keys.parse_shard(key):
            name, number = shard
            return name in buckets and number < buckets[name].shards
        return key in named or not named.isdisjoint(keys.beside_stats(key))

    return is_named
