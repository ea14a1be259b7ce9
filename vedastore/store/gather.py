"""Chips of many small buckets, written together as one: every write that adds samples makes a bucket of its own.

Earlier versions keep the buckets that they have. What is gathered is at most as large as what it is gathered with, so
that no chip is copied more often than its bucket can double.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.spec import arrays, keys
from vedastore.spec.root import Bucket, dump_json
from vedastore.store.chips import ShardReader, check_chunk
from vedastore.store.shards import Here, ShardDraft, Spill

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vedastore.spec.arrays import ChipSpec
    from vedastore.store.commit import Write
    from vedastore.store.snapshot import Snapshot

BUCKETS_KEPT: Final = 8
"""Small buckets of one kind that a version may have: fewer are not worth a copy."""


def gather(write: Write, snapshot: Snapshot) -> tuple[dict[str, Bucket], dict[str, Any]]:
    """Write the chips of small buckets together, where there are many.

    Returns
    -------
    (dict of Bucket, dict of pyarrow.Array)
        The buckets that samples of the version are in then, and what ``bucket`` and ``row`` of its samples are, for
        `write_samples`; an empty dictionary where they stay.
    """
    import pyarrow as pa

    table = snapshot.table("samples").read(["bucket", "row"])
    named, codes = np.unique(table.column("bucket").to_numpy(), return_inverse=True)
    rows = table.column("row").to_numpy().copy()
    names: list[str] = named.tolist()
    before = snapshot.version.buckets
    buckets, moved = {name: before[name] for name in names}, False
    for spec, chosen in _choose(buckets):
        places = np.flatnonzero(np.isin(codes, [names.index(name) for name in chosen]))
        chips, at = np.unique(np.stack([codes[places], rows[places]]), axis=1, return_inverse=True)
        name, bucket = _copy(write, snapshot, spec, [(names[code], row) for code, row in chips.T.tolist()])
        buckets = {n: b for n, b in buckets.items() if n not in chosen} | {name: bucket}
        rows[places], codes[places], moved = at.reshape(-1), len(names), True
        names.append(name)
    columns = {"bucket": pa.array([names[code] for code in codes.tolist()], "string"), "row": pa.array(rows, "int64")}
    return buckets, columns if moved else {}


def _choose(buckets: dict[str, Bucket]) -> Iterator[tuple[ChipSpec, list[str]]]:
    """Yield the names of buckets that are to be one: the smallest, as long as each has no more than those before it."""
    for spec in {bucket.spec: None for bucket in buckets.values()}:
        most = max(spec.samples_per_shard, BUCKETS_KEPT)
        small = sorted((b.rows, name) for name, b in buckets.items() if b.spec == spec and b.rows < most)
        total, chosen = 0, []
        for rows, name in small:
            if rows > max(total, 1):
                break
            total += rows
            chosen.append(name)
        if len(chosen) > BUCKETS_KEPT // 2 and len(small) > BUCKETS_KEPT:
            yield spec, chosen


def _copy(write: Write, snapshot: Snapshot, spec: ChipSpec, chips: list[tuple[str, int]]) -> tuple[str, Bucket]:
    """Write some chips, as they are stored, to a bucket of their own."""
    name = write.name_gathered(spec)
    readers = {bucket: ShardReader(snapshot.objects, bucket, spec) for bucket, _ in chips}
    size, spill = 0, Spill()
    try:
        for start in range(0, len(chips), spec.samples_per_shard):
            draft = ShardDraft(spec, spill)
            for bucket, row in chips[start : start + spec.samples_per_shard]:
                chunks = readers[bucket].read_chunks(row)
                for chunk in chunks:
                    check_chunk(chunk, f"{snapshot.objects.url}: {bucket}: row {row}")
                draft.append(Here.of(chunks))
            size += write.put(keys.shard(name, start // spec.samples_per_shard), draft.parts())
    finally:
        spill.close()
    for key, document in arrays.bucket_documents(name, spec, len(chips)).items():
        write.put(key, [dump_json(document)])
    return name, Bucket(spec, len(chips), size)
