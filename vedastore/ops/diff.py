"""What changed between two versions: samples by id, their images and labels, columns, and the members beside them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vedastore.errors import StoreError
from vedastore.exchange.release import pixel_digest
from vedastore.io import geometry
from vedastore.ops.differences import (
    ColumnDiff,
    DiffReport,
    FieldDiff,
    ImageDiff,
    LabelDiff,
    MemberDiff,
    ObjectDiff,
    Side,
)
from vedastore.ops.excerpt import export_members, is_edited
from vedastore.ops.matching import Objects, match_objects
from vedastore.spec import keys
from vedastore.spec.release import comparable
from vedastore.store.spilled import SpilledObjects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vedastore.store.index import TableReader
    from vedastore.store.lookup import Positions
    from vedastore.store.snapshot import Snapshot

_TOGETHER: Final = 2**14
"""Samples that differ, read at once."""
_OBJECTS_TOGETHER: Final = 2**14
"""Objects of them that are compared at once, or those of one sample."""
_DIGEST_BYTES: Final = 16
"""What is kept of the SHA-256 of a label or a text while all of them are compared."""
_IMAGE_COLUMNS: Final = ("pixel_digest", "bucket", "row", "height", "width", "crs", "transform", "nodata", "flags")
_OBJECT_COLUMNS: Final = ("ordinal", "geometry", "geometry_px", "box_px")
_FIELDS: Final = ("name", "task", "classes", "label_coords")


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Samples that both versions have, by their positions in each."""

    old: Positions
    new: Positions

    def __len__(self) -> int:
        return len(self.old)

    def chosen(self, which: Any) -> _Pairs:
        return _Pairs(self.old[which], self.new[which])

    def parts(self) -> Iterator[_Pairs]:
        for start in range(0, len(self), _TOGETHER):
            yield self.chosen(slice(start, start + _TOGETHER))


def diff(
    old: Snapshot, new: Snapshot, positions: Positions | None = None, others: Positions | None = None
) -> DiffReport:
    """Compare two versions, of one store or of two; see ``Collection.diff``.

    Where both versions have the same row of the same index file, it is not read. Of all other samples the ids, digests
    of images and labels, and columns are compared. What differs is read in detail: memory grows with the differences,
    and by some 200 bytes for each sample.

    Parameters
    ----------
    old, new : Snapshot
    positions, others : array of int, optional
        Samples of each that are compared, all without them. Where only ``positions`` are given, no sample of the new
        version is told as added.

    Raises
    ------
    StoreError
        When an index is damaged.
    """
    open_ended = positions is None or others is not None
    mine, theirs = _sorted(old, positions), _sorted(new, others)
    shared = _find_shared(old, new, mine, theirs)
    pairs, removed, added = _match(old, new, *_without(shared, mine, theirs))
    image, label = (_differing(old, new, pairs, name) for name in ("image_digest", "label"))
    columns, other_values = _compare_columns(old, new, pairs)
    return DiffReport(
        old=Side(old.objects.url, old.version.version, len(mine)),
        new=Side(new.objects.url, new.version.version, len(theirs) if open_ended else len(mine) - len(removed)),
        same=len(shared) + int(np.count_nonzero(~(image | label | other_values))),
        added=tuple(new.lookup.names(added)) if open_ended else (),
        removed=tuple(old.lookup.names(removed)),
        images=tuple(_iter_images(old, new, pairs.chosen(image))),
        labels=tuple(_iter_labels(old, new, pairs.chosen(label))),
        columns=columns,
        members=tuple(_compare_members(old, new)),
        fields=tuple(
            FieldDiff(name, a, b)
            for name in _FIELDS
            if (a := getattr(old.version, name)) != (b := getattr(new.version, name))
        ),
    )


# ------------------------------------------------------------------------------------------------------ which is which


def _sorted(snapshot: Snapshot, positions: Positions | None) -> Positions:
    """Return positions upwards; those of all samples that are really there without them."""
    everything = int(snapshot.table("samples").starts[-1])
    return np.arange(everything) if positions is None else np.sort(positions)


def _find_shared(old: Snapshot, new: Snapshot, mine: Positions, theirs: Positions) -> _Pairs:
    """Return the samples that are one row of one file in both versions: nothing of them can differ."""
    nothing = np.empty(0, "i8")
    if old.objects.url != new.objects.url:
        return _Pairs(nothing, nothing)
    files = {file: number for number, file in enumerate(old.version.samples_files)}
    numbers = np.array([files.get(file, -1) for file in new.version.samples_files])
    owner, row = old.row_sources(mine)
    other_owner, other_row = new.row_sources(theirs)
    codes = [
        row * len(files) + owner,
        np.where(numbers[other_owner] < 0, -1, other_row * len(files) + numbers[other_owner]),
    ]
    _, at, other_at = np.intersect1d(*codes, return_indices=True)  # -1 is none of the old codes
    return _Pairs(mine[at], theirs[other_at])


def _without(pairs: _Pairs, mine: Positions, theirs: Positions) -> tuple[Positions, Positions]:
    return np.setdiff1d(mine, pairs.old, assume_unique=True), np.setdiff1d(theirs, pairs.new, assume_unique=True)


def _match(old: Snapshot, new: Snapshot, mine: Positions, theirs: Positions) -> tuple[_Pairs, Positions, Positions]:
    """Return the samples that both have, by id, those of the old version alone, and those of the new one alone."""
    at = pc.index_in(_ids(old, mine), value_set=_ids(new, theirs)).fill_null(-1).to_numpy()
    pairs = _Pairs(mine[at >= 0], theirs[at[at >= 0]])
    return pairs, *_without(pairs, mine, theirs)


def _ids(snapshot: Snapshot, positions: Positions) -> Any:
    ids = pa.chunked_array(snapshot.lookup.id_parts(positions), "string")
    if pc.count_distinct(ids).as_py() != len(ids):
        raise StoreError("two samples have the same id", where=snapshot.objects.url)
    return ids


# ------------------------------------------------------------------------------------------------- what differs at all


def _differing(old: Snapshot, new: Snapshot, pairs: _Pairs, name: str) -> Any:
    """Tell which pairs have other values in a column, (n,); a version without it has no value in any."""
    a, b = (_read_column(s.table("samples"), at, name) for s, at in ((old, pairs.old), (new, pairs.new)))
    if a is None or b is None or a.type != b.type:
        valued = [column.is_valid().to_numpy() for column in (a, b) if column is not None]
        return np.logical_or.reduce([np.zeros(len(pairs), bool), *valued])
    equal = pc.fill_null(pc.equal(a, b), False)
    return ~pc.or_(equal, pc.and_(a.is_null(), b.is_null())).to_numpy()


def _read_column(table: TableReader, positions: Positions, name: str) -> Any:
    """Return a column in a form that can be compared, a ChunkedArray; None where the table has no such column.

    Texts and bytes are digests, so that it is of bounded size; numbers are their bits, so that NaN is NaN.
    """
    if name not in table.schema.names:
        return None
    kind = table.schema.field(name).type
    if pa.types.is_binary(kind) or pa.types.is_string(kind):
        return _read(table, positions, (name,), _digests).column(0)
    column = _read(table, positions, (name,)).column(0)
    return pa.chunked_array([part.view("int64") for part in column.chunks]) if pa.types.is_floating(kind) else column


def _digests(part: Any) -> Any:
    """Return a table of one column with digests in place of its texts or bytes."""
    values = part.column(0).to_pylist()
    raw = (value.encode() if isinstance(value, str) else value for value in values)
    found = [None if value is None else hashlib.sha256(value).digest()[:_DIGEST_BYTES] for value in raw]
    return pa.table([pa.array(found, pa.binary(_DIGEST_BYTES))], part.column_names)


def _compare_columns(old: Snapshot, new: Snapshot, pairs: _Pairs) -> tuple[tuple[ColumnDiff, ...], Any]:
    """Return the columns that are other, and which pairs have another value in one of them."""
    schemas = [snapshot.table("samples").schema for snapshot in (old, new)]
    names = ["split", *sorted({*old.table("samples").added, *new.table("samples").added})]
    found, anywhere = [], np.zeros(len(pairs), bool)
    for name in names:
        was, now = (str(schema.field(name).type) if name in schema.names else None for schema in schemas)
        other = _differing(old, new, pairs, name)
        if other.any() or was != now:
            found.append(ColumnDiff(name, was, now, tuple(old.lookup.names(pairs.old[other]))))
            anywhere |= other
    return tuple(found), anywhere


def _read(
    table: TableReader, positions: Positions, columns: tuple[str, ...], change: Callable[[Any], Any] = lambda part: part
) -> Any:
    """Return rows at positions in any order, each part changed; one row group is in memory besides them."""
    order = np.argsort(positions, kind="stable")
    parts = [change(table.read_rows(run, columns)) for run in table.split(positions[order]) if len(run)]
    found = pa.concat_tables([change(table.read(columns, [])), *parts]).combine_chunks()
    return found if (np.diff(order) == 1).all() else found.take(pa.array(np.argsort(order)))


# --------------------------------------------------------------------------------------------------------- the details


def _iter_images(old: Snapshot, new: Snapshot, pairs: _Pairs) -> Iterator[ImageDiff]:
    for part in pairs.parts():
        rows = [
            [_image_facts(snapshot, row) for row in _read(snapshot.table("samples"), at, _IMAGE_COLUMNS).to_pylist()]
            for snapshot, at in ((old, part.old), (new, part.new))
        ]
        for sample_id, a, b in zip(old.lookup.names(part.old), *rows, strict=True):
            yield ImageDiff(sample_id, tuple(name for name in a if a[name] != b[name]) or ("file",))


def _image_facts(snapshot: Snapshot, row: dict[str, Any]) -> dict[str, Any]:
    """Return what can be other of an image; what its footprint says in its place is not its own."""
    own = "footprint-georeferenced" not in row["flags"]
    shape = (keys.bucket_shape(row["bucket"]), row["height"], row["width"])
    digest = row["pixel_digest"] or pixel_digest(snapshot.chips(row["bucket"]).read(row["row"]))  # older stores
    place = {"crs": row["crs"] if own else None, "transform": row["transform"] if own else None}
    return {"pixels": (shape, digest), "shape": shape, **place, "nodata": row["nodata"]}


def _iter_labels(old: Snapshot, new: Snapshot, pairs: _Pairs) -> Iterator[LabelDiff]:
    spilled = [
        SpilledObjects(partial(snapshot.table, "features"), _OBJECT_COLUMNS, at)
        for snapshot, at in ((old, pairs.old), (new, pairs.new))
    ]
    for part in pairs.parts():
        a, b = (
            _read(snapshot.table("samples"), at, ("classes", "geometry", "objects"))
            for snapshot, at in ((old, part.old), (new, part.new))
        )
        objects = _compare_objects(spilled, part, *(table.column("objects").to_numpy() for table in (a, b)))
        moved, metres = _footprints(*(table.column("geometry").to_pylist() for table in (a, b)))
        classes = zip(*(table.column("classes").to_pylist() for table in (a, b)), strict=True)
        for i, (sample_id, (had, has)) in enumerate(zip(old.lookup.names(part.old), classes, strict=True)):
            added, removed = tuple(sorted({*has} - {*had})), tuple(sorted({*had} - {*has}))
            yield LabelDiff(sample_id, added, removed, moved[i], metres[i], tuple(objects.get(i, ())))


def _compare_objects(spilled: list[SpilledObjects], pairs: _Pairs, *counts: Any) -> dict[int, list[ObjectDiff]]:
    """Return what became of the objects of some samples that have so many in each version, by the samples' places."""
    found: dict[int, list[ObjectDiff]] = defaultdict(list)
    parts = np.cumsum(np.add(*counts, dtype="i8")) // _OBJECTS_TOGETHER
    for places in np.split(np.arange(len(pairs)), np.flatnonzero(np.diff(parts)) + 1):
        sides = (_objects(s, at[places]) for s, at in zip(spilled, (pairs.old, pairs.new), strict=True))
        for owner, told in match_objects(*sides):
            found[int(places[owner])].append(told)
    return found


def _footprints(old: list[bytes | None], new: list[bytes | None]) -> tuple[list[bool], list[float | None]]:
    """Tell which footprints are other, and how far the centroid of each of these moved, metres."""
    shapes = [geometry.parse_wkb(side) for side in (old, new)]
    other = [a != b for a, b in zip(*map(geometry.normal_wkb, shapes), strict=True)]
    metres: list[float | None] = [None] * len(other)
    at = np.flatnonzero(other)
    for i, distance in zip(at.tolist(), geometry.ground_distances(*(s[at] for s in shapes)).tolist(), strict=True):
        metres[i] = distance if np.isfinite(distance) else None
    return other, metres


def _objects(spilled: SpilledObjects, positions: Positions) -> Objects:
    owner, table = spilled.read(positions)
    names, ordinals, ground, pixel = (
        table.column(name).to_pylist() for name in ("class", "ordinal", "geometry", "geometry_px")
    )
    column = table.column("box_px").combine_chunks()
    boxes = np.full((len(owner), 4), np.nan)
    boxes[column.is_valid().to_numpy(zero_copy_only=False)] = column.flatten().to_numpy().reshape(-1, 4)
    return Objects(owner.tolist(), names, ordinals, ground, pixel, boxes)


def _compare_members(old: Snapshot, new: Snapshot) -> Iterator[MemberDiff]:
    """Yield the members besides images and labels that exports have otherwise; order and top folder do not count."""
    stored = [(snapshot.objects.url, snapshot.version.index["members"]) for snapshot in (old, new)]
    if stored[0] == stored[1] and not (is_edited(old) or is_edited(new)):
        return
    a, b = map(_member_digests, (old, new))
    for name in sorted({*a, *b}):
        if a.get(name) != b.get(name):
            yield MemberDiff(name, "added" if name not in a else "removed" if name not in b else "changed")


def _member_digests(snapshot: Snapshot) -> dict[str, list[bytes]]:
    top, found = snapshot.top, defaultdict(list)
    for member in export_members(snapshot):
        if member.kind != "directory":
            found[comparable(member.member, top)].append(hashlib.sha256(member.data).digest())
    return {name: sorted(digests) for name, digests in found.items()}
