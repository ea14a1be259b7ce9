"""The rows of a version under way, in a scratch database: halves of pairs come in any order, rows go out in order.

A release of any size needs only the database's cache in memory. The file lives in the temporary directory, belongs to one
conversion, and is gone with it.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self


from vedastore.store.scratch import open_scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vedastore.model import Affine6, Fidelity, ImageHalf, LabelHalf, LabelKind

_BATCH_ROWS: Final = 256
_SCHEMA: Final = """
CREATE TABLE images (id TEXT PRIMARY KEY, member TEXT, ordinal INTEGER, bucket TEXT, row INTEGER, height INTEGER,
    width INTEGER, crs TEXT, transform TEXT, nodata TEXT, digest BLOB, pixel_digest BLOB, fidelity TEXT, envelope BLOB);
CREATE TABLE labels (id TEXT PRIMARY KEY, member TEXT, ordinal INTEGER, data BLOB, kind TEXT, declared TEXT, present TEXT,
    flags TEXT, footprint BLOB, footprint_bounds TEXT, objects_bounds TEXT, boxes INTEGER, objects INTEGER);
CREATE TABLE objects (label INTEGER, class TEXT, ordinal INTEGER, geometry BLOB);
CREATE TABLE rejected (id TEXT, member TEXT, reason TEXT);
CREATE TABLE members (ordinal INTEGER, name TEXT, kind TEXT, data BLOB);
CREATE TABLE positions (position INTEGER PRIMARY KEY, id TEXT);
"""
_PAIRED: Final = "images JOIN labels USING (id) WHERE id NOT IN (SELECT id FROM rejected)"


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One object of a row: WKB in the coordinates of its label file."""

    class_name: str
    ordinal: int
    geometry: bytes


@dataclass(frozen=True, slots=True)
class PairEntry:
    """One row of the version to be: an image, its place in the shards, and its label."""

    position: int
    id: str
    bucket: str
    row: int
    height: int
    width: int
    crs: str | None
    transform: Affine6 | None
    nodata: str | None
    image_digest: bytes
    pixel_digest: bytes | None
    fidelity: Fidelity
    envelope: bytes
    image_member: str
    image_ordinal: int
    label_member: str
    label_ordinal: int
    label: bytes
    present: tuple[str, ...]
    flags: tuple[str, ...]
    footprint: bytes | None
    objects: tuple[ObjectEntry, ...]


@dataclass(frozen=True, slots=True)
class CoordinateRow:
    """What the decision on label coordinates needs of one georeferenced sample with objects."""

    id: str
    objects_bounds: tuple[float, float, float, float]
    footprint_bounds: tuple[float, float, float, float]
    height: int
    width: int


class Ledger:
    """Takes images and labels in any order; gives pairs in the order of the images."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._db = self._stack.enter_context(open_scratch(_SCHEMA))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add_image(self, image: ImageHalf, bucket: str, row: int) -> str | None:
        """Add an image; return the member that has its id already, if one has, and add nothing then."""
        if taken := self._taken("images", image.id):
            return taken
        values = (image.id, image.member, image.ordinal, bucket, row, image.height, image.width, image.crs,
                  _dump(image.transform), image.nodata, image.digest, image.pixel_digest, image.fidelity, image.envelope)  # fmt: skip
        self._db.execute(f"INSERT INTO images VALUES ({_marks(values)})", values)
        return None

    def add_label(self, half: LabelHalf) -> str | None:
        """Add a label; return the member that has its id already, if one has, and add nothing then."""
        if taken := self._taken("labels", half.id):
            return taken
        label = half.label
        boxes = all(o.is_box for o in label.objects)
        values = (half.id, half.member, half.ordinal, half.data, label.kind, _dump(label.declared), _dump(label.present),
                  _dump(label.flags), label.footprint, _dump(label.footprint_bounds), _dump(label.objects_bounds), boxes,
                  len(label.objects))  # fmt: skip
        self._db.execute(f"INSERT INTO labels VALUES ({_marks(values)})", values)
        objects = [(half.ordinal, o.class_name, o.ordinal, o.geometry) for o in label.objects]
        self._db.executemany("INSERT INTO objects VALUES (?, ?, ?, ?)", objects)
        return None

    def add_member(self, ordinal: int, name: str, kind: str, data: bytes) -> None:
        """Add a member that is no half of a pair, to be kept as it is."""
        self._db.execute("INSERT INTO members VALUES (?, ?, ?, ?)", (ordinal, name, kind, data))

    def reject(self, sample_id: str, member: str, reason: str) -> None:
        """Leave a sample out, whatever else is known of it."""
        self._db.execute("INSERT INTO rejected VALUES (?, ?, ?)", (sample_id, member, reason))

    def rejected(self) -> list[dict[str, str]]:
        """Return what was left out: id, member and reason, by id."""
        rows = self._db.execute("SELECT id, member, reason FROM rejected ORDER BY id, member")
        return [{"id": i, "member": m, "reason": r} for i, m, r in rows]

    def unpaired(self) -> Iterator[tuple[str, str, str]]:
        """Yield (id, member, what is missing) for every half without the other."""
        for have, lack in (("images", "labels"), ("labels", "images")):
            yield from self._db.execute(
                f"SELECT id, member, '{lack[:-1]}' FROM {have} WHERE id NOT IN (SELECT id FROM {lack})"
                " AND id NOT IN (SELECT id FROM rejected) ORDER BY ordinal"
            ).fetchall()

    def label_forms(self) -> Iterator[tuple[str, str, LabelKind, bool]]:
        """Yield (id, member, kind, whether all objects are boxes) for one label of each form, the first of its form."""
        query = f"SELECT id, labels.member, kind, boxes, MIN(labels.ordinal) FROM {_PAIRED} GROUP BY kind, boxes"
        yield from ((i, m, kind, bool(boxes)) for i, m, kind, boxes, _ in self._db.execute(query).fetchall())

    def of_kind(self, kind: LabelKind) -> Iterator[tuple[str, str]]:
        """Yield (id, label member) for every label of a form."""
        yield from self._db.execute(f"SELECT id, labels.member FROM {_PAIRED} AND kind = ?", (kind,)).fetchall()

    def declared_classes(self) -> set[str]:
        """Return every class that a label names, present or not."""
        rows = self._db.execute(f"SELECT DISTINCT declared FROM {_PAIRED}")
        return {name for (text,) in rows for name in json.loads(text)}

    def coordinates(self) -> Iterator[CoordinateRow]:
        """Yield what is known of the coordinates of every georeferenced sample with objects."""
        query = (
            f"SELECT id, objects_bounds, footprint_bounds, height, width FROM {_PAIRED}"
            " AND objects_bounds IS NOT NULL AND footprint_bounds IS NOT NULL ORDER BY images.ordinal"
        )
        for sample_id, objects, footprint, height, width in self._db.execute(query):
            yield CoordinateRow(sample_id, tuple(json.loads(objects)), tuple(json.loads(footprint)), height, width)

    def count(self) -> int:
        """Return how many pairs there are; their positions are fixed by this call."""
        self._db.execute("DELETE FROM positions")
        self._db.execute(f"INSERT INTO positions SELECT NULL, id FROM (SELECT id FROM {_PAIRED} ORDER BY images.ordinal)")
        return int(self._db.execute("SELECT COUNT(*) FROM positions").fetchone()[0])

    def iter_pairs(self) -> Iterator[list[PairEntry]]:
        """Yield all pairs in the order of their images, in lists of at most 256."""
        self._db.execute("CREATE INDEX IF NOT EXISTS by_label ON objects (label)")
        query = (
            "SELECT position - 1, id, bucket, row, height, width, crs, transform, nodata, digest, pixel_digest, fidelity,"
            " envelope, images.member, images.ordinal, labels.member, labels.ordinal, data, present, flags, footprint"
            " FROM positions JOIN images USING (id) JOIN labels USING (id) ORDER BY position"
        )
        cursor = self._db.execute(query)
        while rows := cursor.fetchmany(_BATCH_ROWS):
            yield [self._pair(row) for row in rows]

    def _pair(self, row: tuple[Any, ...]) -> PairEntry:
        *plain, present, flags, footprint = row
        plain[7] = _load(plain[7])
        query = "SELECT class, ordinal, geometry FROM objects WHERE label = ? ORDER BY rowid"
        objects = tuple(ObjectEntry(*o) for o in self._db.execute(query, (plain[16],)))
        return PairEntry(*plain, _load(present), _load(flags), footprint, objects)

    def iter_members(self) -> Iterator[tuple[int, str, str, bytes]]:
        """Yield (ordinal, name, kind, bytes) of the members that are no half of a pair, in order."""
        yield from self._db.execute("SELECT ordinal, name, kind, data FROM members ORDER BY ordinal")

    def iter_contents(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Yield (id, digest of the image file, bytes of the label file) of every pair, by id."""
        yield from self._db.execute(f"SELECT id, digest, data FROM {_PAIRED} ORDER BY id")

    def read_member(self, kind: str) -> tuple[str, bytes] | None:
        """Return the name and the bytes of the member of a kind that a release has at most once."""
        row = self._db.execute("SELECT name, data FROM members WHERE kind = ?", (kind,)).fetchone()
        return row

    def _taken(self, table: str, sample_id: str) -> str | None:
        row = self._db.execute(f"SELECT member FROM {table} WHERE id = ?", (sample_id,)).fetchone()
        return row[0] if row else None


def _dump(values: tuple[Any, ...] | None) -> str | None:
    return None if values is None else json.dumps(values)


def _load(text: str | None) -> Any:
    return None if text is None else tuple(json.loads(text))


def _marks(values: tuple[Any, ...]) -> str:
    return ", ".join("?" * len(values))
