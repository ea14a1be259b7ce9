"""Statistics that a store keeps of its versions. Nothing depends on them: they can be made again."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vedastore.errors import StoreError
from vedastore.spec import keys
from vedastore.spec.statistics import LIMIT_BYTES, dump_stats, parse_stats

if TYPE_CHECKING:
    from vedastore.store.snapshot import Snapshot


def stats_key(snapshot: Snapshot, bucket: str | None) -> str:
    """Return the key of the statistics of a version."""
    return keys.stats(snapshot.version.samples_files[-1].key, bucket)


def read_kept(snapshot: Snapshot, bucket: str | None) -> dict[str, Any] | None:
    """Return the statistics that the store keeps of a version; None where there are none, or those of another one.

    Raises
    ------
    StoreError
        When they are damaged, or cannot be those of the version.
    """
    objects, key = snapshot.objects, stats_key(snapshot, bucket)
    tagged = objects.read_tagged(key, LIMIT_BYTES)
    if tagged is None:
        return None
    where = f"{objects.url}/{key}"
    hint = "stats --fresh measures again, and keeps what it finds"
    try:
        return parse_stats(tagged[0], snapshot.version, bucket)
    except ValueError as error:
        raise StoreError(f"the statistics that are kept here are damaged: {error}", where=where, hint=hint) from None


def keep_stats(snapshot: Snapshot, bucket: str | None, stats: dict[str, Any]) -> None:
    """Keep the statistics of a version, where that can be done: in a store that can be written, and that is sound."""
    with suppress(StoreError, ValueError):  # whoever asks has an answer, kept or not
        data = dump_stats(stats, snapshot.version, bucket)
        snapshot.objects.replace(stats_key(snapshot, bucket), data)
