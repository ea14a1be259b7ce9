"""Every object key of a store, and the name of every table in it. Nothing else builds a key."""

from __future__ import annotations

import re
from typing import Final

ROOT: Final = "zarr.json"
INCOMPLETE: Final = ".vedastore-incomplete"
"""Stands while a first conversion is under way: what lies beside it belongs to no version."""

CHIPS: Final = "chips"
INDEX: Final = "index"
ARRAY: Final = "image"
TABLES: Final = ("samples", "features", "members")
LISTS: Final = ("skipped",)
"""Tables that a version has only where the root document cannot hold what they say."""
PARTS: Final = {"samples": "part-samples", "features": "part-features", "removed": "part-removed"}
"""Names of the tables of a part of a version; not every part has the last."""

_BUCKET = re.compile(r"[a-z]+[0-9]+-[0-9]+x[0-9]+x[0-9]+(~[0-9a-f]{8})?")
_DRAFT = re.compile(r"(^|/)\.([^/]+)\.[0-9a-f]{32}$")
"""What a file is named until it is whole."""
_OURS = re.compile(
    "|".join(
        (
            re.escape(ROOT),
            re.escape(INCOMPLETE),
            r"\.vedastore-probe-[0-9a-f]{32}",
            rf"{CHIPS}/({_BUCKET.pattern}/({ARRAY}/)?)?zarr\.json",
            rf"{CHIPS}/{_BUCKET.pattern}/{ARRAY}/c/[0-9]+/0/0/0",
            rf"{INDEX}/[0-9a-f]{{32}}/({'|'.join((*TABLES, *LISTS, *PARTS.values()))})\.parquet",
            rf"{INDEX}/[0-9a-f]{{32}}/(root|stats[^/]*|shard-[0-9]+)\.json",
        )
    )
)
_SHARD = re.compile(rf"{CHIPS}/([^/]+)/{ARRAY}/c/([0-9]{{1,18}})/0/0/0")
_INDEX = re.compile(rf"{INDEX}/[0-9a-f]{{32}}/({'|'.join((*TABLES, *LISTS, *PARTS.values()))})\.parquet")
_WRITE = re.compile(r"[0-9a-f]{32}")


def bucket(dtype: str, bands: int, height: int, width: int, write_id: str = "") -> str:
    """Name the bucket of one (dtype, bands, height, width).

    A write that replaces a store has buckets of its own, named with its id: nobody else writes or reads them.

    >>> bucket("uint8", 3, 256, 256), bucket("uint8", 3, 256, 256, "5c0ffee1" + "0" * 24)
    ('uint8-3x256x256', 'uint8-3x256x256~5c0ffee1')
    """
    return f"{dtype}-{bands}x{height}x{width}" + (f"~{write_id[:8]}" if write_id else "")


def is_bucket(name: str) -> bool:
    """Tell whether a name is a bucket's: keys are built from names of a root document only after this check."""
    return _BUCKET.fullmatch(name) is not None


def bucket_shape(name: str) -> str:
    """Return a bucket's name without what tells the buckets of several writes apart.

    >>> bucket_shape("uint8-3x256x256~5c0ffee1")
    'uint8-3x256x256'
    """
    return name.partition("~")[0]


def is_index(key: str) -> bool:
    """Tell whether a key is that of an index file."""
    return _INDEX.fullmatch(key) is not None


def is_of_write(key: str, write_id: str) -> bool:
    """Tell whether a key is named with the id of a write, so that no other write has it.

    >>> is_of_write(table("5c0ffee1" + "0" * 24, "samples"), "5c0ffee1" + "0" * 24), is_of_write("chips/zarr.json", "5")
    (True, False)
    """
    marks = f"{INDEX}/{write_id}/", f"~{write_id[:8]}/", f"~{second_half(write_id)[:8]}/"
    return any(mark in key for mark in marks)


def second_half(write_id: str) -> str:
    """Return what a write names its second bucket of a shape with."""
    return write_id[len(write_id) // 2 :]


def is_ours(key: str) -> bool:
    """Tell whether a key is one that a store gives to its objects, or to what stands for one that is being written.

    >>> is_ours("chips/uint8-3x256x256~5c0ffee1/image/c/7/0/0/0"), is_ours("notes.txt")
    (True, False)
    >>> is_ours("chips/.zarr.json." + "5c0ffee1" * 4)  # the draft of one
    True
    """
    return _OURS.fullmatch(_DRAFT.sub(r"\1\2", key)) is not None


def chips_metadata() -> str:
    """Key of the group of all buckets."""
    return f"{CHIPS}/zarr.json"


def bucket_metadata(name: str) -> str:
    """Key of a bucket's group."""
    return f"{CHIPS}/{name}/zarr.json"


def array_metadata(name: str) -> str:
    """Key of a bucket's array."""
    return f"{CHIPS}/{name}/{ARRAY}/zarr.json"


def parse_shard(key: str) -> tuple[str, int] | None:
    """Return the bucket and the number of a shard; None where a key is that of another thing.

    >>> parse_shard("chips/uint8-3x256x256/image/c/7/0/0/0")
    ('uint8-3x256x256', 7)
    """
    found = _SHARD.fullmatch(key)
    return None if found is None else (found[1], int(found[2]))


def shard(name: str, number: int) -> str:
    """Key of a bucket's shard: only the sample axis is divided.

    >>> shard("uint8-3x256x256", 7)
    'chips/uint8-3x256x256/image/c/7/0/0/0'
    """
    return f"{CHIPS}/{name}/{ARRAY}/c/{number}/0/0/0"


def stats(samples_key: str, bucket_name: str | None) -> str:
    """Key of the statistics of a version, by that of its table of samples; of one bucket's chips where it is named.

    >>> stats("index/5c0ffee1/samples.parquet", None), stats("index/5c0ffee1/samples.parquet", "uint8-3x256x256")
    ('index/5c0ffee1/stats.json', 'index/5c0ffee1/stats-uint8-3x256x256.json')
    """
    name = "stats" if bucket_name is None else f"stats-{bucket_name}"
    return f"{samples_key.rpartition('/')[0]}/{name}.json"


def beside_stats(key: str) -> tuple[str, ...]:
    """Return the keys of tables of samples, one of which the statistics under a key describe; none for other keys.

    >>> beside_stats("index/5c0ffee1/stats-uint8-3x256x256.json"), beside_stats("index/5c0ffee1/members.parquet")
    (('index/5c0ffee1/samples.parquet', 'index/5c0ffee1/part-samples.parquet'), ())
    """
    folder, _, name = key.rpartition("/")
    is_stats = name.startswith("stats") and name.endswith(".json")
    return tuple(f"{folder}/{table}.parquet" for table in ("samples", PARTS["samples"])) if is_stats else ()


def is_write(write_id: str) -> bool:
    """Tell whether a text is the id of a write: keys are built from those of a root document only after this check."""
    return _WRITE.fullmatch(write_id) is not None


def root_copy(write_id: str) -> str:
    """Key of the copy of the root document that a write made."""
    return f"{INDEX}/{write_id}/root.json"


def parse_root_copy(key: str) -> str | None:
    """Return the id of the write whose root document a key is a copy of; None where a key is that of another thing.

    >>> parse_root_copy(root_copy("5c0ffee1" * 4)), parse_root_copy("index/5c0ffee1/root.json")
    ('5c0ffee15c0ffee15c0ffee15c0ffee1', None)
    """
    write_id = key.removeprefix(f"{INDEX}/").removesuffix("/root.json")
    return write_id if is_write(write_id) and key == root_copy(write_id) else None


def table(write_id: str, name: str) -> str:
    """Key of an index table of one write."""
    return f"{INDEX}/{write_id}/{name}.parquet"


def journal(write_id: str, number: int) -> str:
    """Key of what a first conversion notes down of a shard, while it is under way.

    >>> journal("5c0ffee1", 7)
    'index/5c0ffee1/shard-7.json'
    """
    return f"{INDEX}/{write_id}/shard-{number}.json"
