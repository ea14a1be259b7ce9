"""The rows of a version under way, in a scratch database: halves of pairs come in any order, rows go out in order.

A release of any size needs only the database's cache in memory. The file lives in the temporary directory, belongs to
one conversion, and is gone with it.
"""

from __future__ import annotations

import struct
from array import array
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self

import orjson

from vedastore.model import EXAMPLES, ImageHalf
from vedastore.spec.release import classify
from vedastore.store.scratch import open_scratch
from vedastore.store.survey import Survey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from vedastore.model import Affine6, Fidelity, LabelHalf, LabelKind

_BATCH_ROWS, _BATCH_BYTES = 256, 16 * 2**20  # of pairs that are given at a time
_BLOB_BYTES: Final = 2**20
"""Larger members are written piece by piece."""
_SCHEMA: Final = """
CREATE TABLE images (id TEXT PRIMARY KEY, image_member TEXT, image_ordinal INTEGER, bucket TEXT, row INTEGER,
    dtype TEXT, bands INTEGER, height INTEGER, width INTEGER, look TEXT, pages INTEGER, crs TEXT, transform BLOB,
    nodata TEXT, image_digest BLOB, pixel_digest BLOB, fidelity TEXT, envelope BLOB);
CREATE TABLE labels (id TEXT PRIMARY KEY, label_member TEXT, label_ordinal INTEGER, kind TEXT, declared TEXT,
    present TEXT, flags TEXT, west REAL, south REAL, east REAL, north REAL, minx REAL, miny REAL, maxx REAL, maxy REAL,
    boxes INTEGER, footprint BLOB, label BLOB, counts TEXT, sizes BLOB, geometries BLOB);
CREATE TABLE rejected (id TEXT, half TEXT, member TEXT, ordinal INTEGER, rule TEXT, reason TEXT);
CREATE TABLE members (ordinal INTEGER PRIMARY KEY, name TEXT, kind TEXT, data BLOB);
CREATE TABLE positions (position INTEGER PRIMARY KEY, id TEXT);
CREATE VIEW pairs AS SELECT * FROM images JOIN labels USING (id) WHERE id NOT IN (SELECT id FROM rejected);
CREATE VIEW halves AS
    SELECT id, 'image' AS half, image_member AS member, image_ordinal AS ordinal FROM images
    UNION ALL SELECT id, 'label', label_member, label_ordinal FROM labels
    UNION ALL SELECT id, half, member, ordinal FROM rejected;
CREATE VIEW ids AS SELECT id FROM images UNION SELECT id FROM labels UNION SELECT id FROM rejected;
CREATE VIEW unpaired AS
    SELECT id, half, member, MIN(ordinal) AS ordinal, iif(half = 'image', 'label', 'image') AS lack FROM halves
        GROUP BY id HAVING MIN(half) = MAX(half);
"""
_INSERT: Final = {
    "image": f"INSERT OR IGNORE INTO images VALUES ({', '.join('?' * 18)})",  # noqa: S608 - nothing from outside
    "label": f"INSERT OR IGNORE INTO labels VALUES ({', '.join('?' * 21)})",  # noqa: S608
}
_DUMP_BYTES: Final = """
SELECT TOTAL(2 * LENGTH(envelope) + 6 * (LENGTH(images.id) + LENGTH(image_member) + IFNULL(LENGTH(crs), 0)) + 1024)
    FROM json_each(?) AS wanted JOIN images ON images.id = wanted.value"""
_DUMP: Final = """
SELECT json_group_array(json_object('id', id, 'member', image_member, 'ordinal', image_ordinal, 'dtype', dtype,
    'bands', bands, 'height', height, 'width', width, 'look', look, 'pages', pages, 'crs', crs,
    'transform', hex(transform), 'nodata', nodata, 'digest', hex(image_digest), 'pixel_digest', hex(pixel_digest),
    'fidelity', fidelity, 'envelope', hex(envelope)))
FROM (SELECT images.* FROM json_each(?) AS wanted JOIN images ON images.id = wanted.value ORDER BY wanted.key)"""
_TRANSFORM: Final = struct.Struct("6d")
_SIZES: Final = "Q"
_REJECTED: Final = """
SELECT id, member, rule, reason FROM rejected
UNION SELECT id, image_member, NULL, NULL FROM images WHERE id IN (SELECT id FROM rejected)
UNION SELECT id, label_member, NULL, NULL FROM labels WHERE id IN (SELECT id FROM rejected)
ORDER BY id, member, rule, reason
"""
_ALL_PAIRED: Final = """
SELECT images = labels AND images = pairs AND NOT EXISTS (SELECT * FROM rejected)
FROM (SELECT COUNT(*) AS images FROM images), (SELECT COUNT(*) AS labels FROM labels),
    (SELECT COUNT(*) AS pairs FROM images JOIN labels USING (id))
"""
_PAIRS: Final = """
SELECT position - 1 AS position, id, bucket, row, height, width, crs, transform, nodata, image_digest, pixel_digest,
    fidelity, envelope, image_member, image_ordinal, label_member, label_ordinal, label, present, flags, footprint,
    counts, sizes, geometries
FROM positions JOIN images USING (id) JOIN labels USING (id) ORDER BY positions.position
"""
FILE_COLUMNS: Final = (
    "image_digest", "image_member", "image_ordinal", "label", "label_member", "label_ordinal",
)  # fmt: skip
_FILES: Final = f"SELECT {', '.join(FILE_COLUMNS)} FROM positions JOIN pairs USING (id) ORDER BY position"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Half:
    """One file of a pair."""

    id: str
    kind: Literal["image", "label"]
    member: str
    ordinal: int


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of some rows, column by column: whose each is, its class, its WKB as its label file has it."""

    owner: list[int]
    class_name: list[str]
    ordinal: list[int]
    geometry: list[bytes]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Some rows of the version to be, column by column: images, their places in the shards, and their labels."""

    position: Sequence[int]
    id: Sequence[str]
    bucket: Sequence[str]
    row: Sequence[int]
    height: Sequence[int]
    width: Sequence[int]
    crs: Sequence[str | None]
    transform: Sequence[Affine6 | None]
    nodata: Sequence[str | None]
    image_digest: Sequence[bytes]
    pixel_digest: Sequence[bytes]
    fidelity: Sequence[Fidelity]
    envelope: Sequence[bytes]
    image_member: Sequence[str]
    image_ordinal: Sequence[int]
    label_member: Sequence[str]
    label_ordinal: Sequence[int]
    label: Sequence[bytes]
    present: Sequence[tuple[str, ...]]
    flags: Sequence[tuple[str, ...]]
    footprint: Sequence[bytes | None]
    objects: Objects

    def __len__(self) -> int:
        return len(self.id)


class CoordinateRow(NamedTuple):
    """What the decision on label coordinates needs of one georeferenced sample with objects."""

    id: str
    objects_bounds: tuple[float, float, float, float]
    footprint_bounds: tuple[float, float, float, float]
    height: int
    width: int


class LabelRow(NamedTuple):
    """A label as the ledger takes it, so that whoever reads it does the work, and little has to pass to this process.

    ``declared``, ``present`` and ``flags`` are lists in JSON, ``counts`` one of (class, number) of objects in their
    order; ``sizes`` are the lengths of their geometries, which stand in one piece.
    """

    id: str
    label_member: str
    label_ordinal: int
    kind: LabelKind
    declared: str
    present: str
    flags: str
    west: float | None
    south: float | None
    east: float | None
    north: float | None
    minx: float | None
    miny: float | None
    maxx: float | None
    maxy: float | None
    boxes: bool
    footprint: bytes | None
    label: bytes
    counts: str
    sizes: bytes
    geometries: bytes

    @classmethod
    def of(cls, half: LabelHalf) -> Self:
        """Return the row of a label."""
        label, nowhere = half.label, (None, None, None, None)
        west, south, east, north = label.footprint_bounds or nowhere
        minx, miny, maxx, maxy = label.objects_bounds or nowhere
        geometries = [o.geometry for o in label.objects]
        counts = [(name, len([*group])) for name, group in groupby(label.objects, key=attrgetter("class_name"))]
        return cls(
            half.id, half.member, half.ordinal, label.kind, _dump(label.declared), _dump(label.present),
            _dump(label.flags), west, south, east, north, minx, miny, maxx, maxy,
            all(o.is_box for o in label.objects), label.footprint, half.data, _dump(counts),
            array(_SIZES, map(len, geometries)).tobytes(), b"".join(geometries),
        )  # fmt: skip


def parse_image(told: dict[str, Any]) -> ImageHalf:
    """Return an image of what `Ledger.dump_images` told of it; ValueError and others where that makes no sense."""
    digests = {name: bytes.fromhex(told[name]) for name in ("digest", "pixel_digest", "envelope")}
    transform = bytes.fromhex(told["transform"])
    if len(transform) not in {0, _TRANSFORM.size}:
        raise ValueError(transform)
    return ImageHalf(**{**told, **digests, "transform": _TRANSFORM.unpack(transform) if transform else None})


class Ledger:
    """Takes images and labels in any order; gives pairs in the order of the images."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._db = self._stack.enter_context(open_scratch(_SCHEMA))
        self.survey = Survey(self._db)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def add_image(self, image: ImageHalf, bucket: str, row: int) -> str | None:
        """Add an image; return the member that has its id already, if one has, and add nothing then."""
        row_values = (
            image.id, image.member, image.ordinal, bucket, row, image.dtype, image.bands, image.height, image.width,
            image.look, image.pages, image.crs, image.transform and _TRANSFORM.pack(*image.transform), image.nodata,
            image.digest, image.pixel_digest, image.fidelity, image.envelope,
        )  # fmt: skip
        return self._insert("image", row_values)

    def dump_images(self, ids: Sequence[str], most: int) -> str | None:
        """Return images that were added, in the order of their ids: an array of JSON that `parse_image` understands.

        None where it would be longer than ``most``. The database makes the text, all at once: it takes a tenth of the
        time, and the interpreter's lock once.
        """
        wanted = (_dump(ids),)
        if self._db.execute(_DUMP_BYTES, wanted).fetchone()[0] > most:
            return None
        return str(self._db.execute(_DUMP, wanted).fetchone()[0])

    def add_label(self, row: LabelRow) -> str | None:
        """Add a label; return the member that has its id already, if one has, and add nothing then."""
        return self._insert("label", row)

    def _insert(self, half: Literal["image", "label"], values: tuple[Any, ...]) -> str | None:
        """Insert a row of images or labels; return the member that has its id already."""
        if self._db.execute(_INSERT[half], values).rowcount:
            return None
        taken = f"SELECT {half}_member FROM {half}s WHERE id = ?"  # noqa: S608 - one of two words
        return str(self._db.execute(taken, values[:1]).fetchone()[0])

    def add_member(self, ordinal: int, name: str, kind: str, data: bytes) -> None:
        """Add a member that is no half of a pair, to be kept as it is."""
        if len(data) <= _BLOB_BYTES:
            self._db.execute("INSERT INTO members VALUES (?, ?, ?, ?)", (ordinal, name, kind, data))
            return
        room = (ordinal, name, kind, len(data))
        row = self._db.execute("INSERT INTO members VALUES (?, ?, ?, zeroblob(?))", room).lastrowid
        with self._db.blobopen("members", "data", row or 0) as blob:  # a parameter would be copied, twice
            for start in range(0, len(data), _BLOB_BYTES):
                blob.write(data[start : start + _BLOB_BYTES])

    def reject(self, half: Half, reason: str, rule: str) -> None:
        """Leave a sample out, whatever else is known of it."""
        row = (half.id, half.kind, half.member, half.ordinal, rule, reason)
        self._db.execute("INSERT INTO rejected VALUES (?, ?, ?, ?, ?, ?)", row)

    def iter_rejected(self) -> Iterator[dict[str, Any]]:
        """Yield what was left out, one entry an id: the id, all its members, every rule and every reason."""
        for sample_id, rows in groupby(self._db.execute(_REJECTED), key=itemgetter(0)):
            entries = list(rows)
            columns = [list(dict.fromkeys(e[i] for e in entries if e[i] is not None)) for i in (1, 2, 3)]
            members, rules, reasons = columns
            yield {"id": sample_id, "members": members, "rules": rules, "reason": "; ".join(reasons)}

    def count_read(self) -> int:
        """Return how many ids the release has, whatever became of them."""
        return int(self._db.execute("SELECT COUNT(DISTINCT id) FROM halves").fetchone()[0])

    def count_rejected(self) -> int:
        """Return how many ids were left out."""
        return int(self._db.execute("SELECT COUNT(DISTINCT id) FROM rejected").fetchone()[0])

    def first_unpaired(self) -> tuple[str, str, str] | None:
        """Return (id, member, what is missing) of the first half without the other."""
        if self._db.execute(_ALL_PAIRED).fetchone()[0]:
            return None
        found = self._db.execute("SELECT id, member, lack FROM unpaired ORDER BY ordinal LIMIT 1").fetchone()
        return found and tuple(found)

    def reject_unpaired(self) -> None:
        """Leave out every half without the other."""
        self._db.execute(
            "INSERT INTO rejected SELECT id, half, member, ordinal, 'pair-incomplete',"
            " printf('sample ''%s'' has no %s', id, lack) FROM unpaired"
        )

    def label_forms(self) -> list[tuple[LabelKind, bool]]:
        """Return the forms of labels that occur, each with whether all its objects are boxes."""
        rows = self._db.execute("SELECT kind, MIN(boxes) FROM pairs GROUP BY kind ORDER BY kind")
        return [(kind, bool(boxes)) for kind, boxes in rows]

    def first_of_kind(self, kind: LabelKind) -> str:
        """Return the member of the first label of a form that occurs in a pair."""
        query = "SELECT label_member FROM pairs WHERE kind = ? ORDER BY label_ordinal LIMIT 1"
        return str(self._db.execute(query, (kind,)).fetchone()[0])

    def reject_kind(self, kind: LabelKind, reason: str, rule: str) -> None:
        """Leave out every sample whose label is of a form."""
        query = "INSERT INTO rejected SELECT id, 'label', label_member, label_ordinal, ?, ? FROM labels WHERE kind = ?"
        self._db.execute(query, (rule, reason, kind))

    def declared_classes(self) -> set[str]:
        """Return every class that a label names, present or not."""
        rows = self._db.execute("SELECT DISTINCT declared FROM pairs")
        return {name for (text,) in rows for name in orjson.loads(text)}

    def coordinates(self) -> Iterator[CoordinateRow]:
        """Yield what is known of the coordinates of every georeferenced sample with objects."""
        query = (
            "SELECT id, minx, miny, maxx, maxy, west, south, east, north, height, width FROM pairs"
            " WHERE minx IS NOT NULL AND west IS NOT NULL ORDER BY image_ordinal"
        )
        for row in self._db.execute(query):
            yield CoordinateRow(row[0], row[1:5], row[5:9], *row[9:])

    def count(self) -> int:
        """Return how many pairs there are; their positions are fixed by this call."""
        self._db.execute("DELETE FROM positions")
        self._db.execute("INSERT INTO positions SELECT NULL, id FROM (SELECT id FROM pairs ORDER BY image_ordinal)")
        return int(self._db.execute("SELECT COUNT(*) FROM positions").fetchone()[0])

    def ids(self) -> list[str]:
        """Return the ids of all pairs, in the order of their images."""
        return [name for (name,) in self._db.execute("SELECT id FROM positions ORDER BY position")]

    def iter_files(self) -> Iterator[tuple[Any, ...]]:
        """Yield what tells whether a sample is the same as another one, in the order of their images."""
        yield from self._db.execute(_FILES)

    def place(self, places: Iterable[tuple[int, str]]) -> None:
        """Let some pairs only have a position, and other ones than before: (position, id)."""
        self._db.execute("DELETE FROM positions")
        self._db.executemany("INSERT INTO positions VALUES (? + 1, ?)", places)

    def iter_pairs(self) -> Iterator[Pairs]:
        """Yield all pairs in the order of their images, at most 256 at a time, fewer where they are large."""
        cursor = self._db.execute(_PAIRS)
        names = [column[0] for column in cursor.description]
        large = itemgetter(*(names.index(name) for name in ("label", "envelope", "geometries")))
        batch: list[tuple[Any, ...]] = []
        size = 0
        for row in cursor:
            batch.append(row)
            size += sum(map(len, large(row)))
            if len(batch) == _BATCH_ROWS or size > _BATCH_BYTES:
                yield _pairs(names, batch)
                batch, size = [], 0
        if batch:
            yield _pairs(names, batch)

    def settle_members(self) -> list[tuple[str, str]]:
        """Make unknown members of those that do not stand in the release's top folder; return the others that matter.

        Those are (name, kind) of every ``meta.json`` and ``bounds.geojson`` of the release itself.
        """
        top = self.read_top()
        found = self._db.execute("SELECT name, kind FROM members WHERE kind IN ('meta', 'bounds') ORDER BY ordinal")
        own: list[tuple[str, str]] = []
        foreign: list[tuple[str, str]] = []
        for name, kind in found:
            (own if classify(name).top == top else foreign).append((name, kind))
        self._db.executemany("UPDATE members SET kind = 'unknown' WHERE name = ? AND kind = ?", foreign)
        return own

    def kept_members(self) -> tuple[int, tuple[str, ...]]:
        """Return how many members are no part of a release, and the names of the first."""
        (count,) = self._db.execute("SELECT COUNT(*) FROM members WHERE kind = 'unknown'").fetchone()
        query = "SELECT name FROM members WHERE kind = 'unknown' ORDER BY ordinal LIMIT ?"
        return count, tuple(name for (name,) in self._db.execute(query, (EXAMPLES,)))

    def iter_members(self) -> Iterator[tuple[int, str, str, bytes]]:
        """Yield (ordinal, name, kind, bytes) of the members that are no half of a pair, in order."""
        yield from self._db.execute("SELECT ordinal, name, kind, data FROM members ORDER BY ordinal")

    def iter_member_names(self) -> Iterator[tuple[int, str, str]]:
        """Yield (ordinal, name, kind) of the members that are no half of a pair, in order."""
        yield from self._db.execute("SELECT ordinal, name, kind FROM members ORDER BY ordinal")

    def read_top(self) -> str:
        """Return the release's top folder; an empty text where it has none."""
        row = self._db.execute("SELECT image_member FROM images LIMIT 1").fetchone()
        return classify(row[0]).top if row else ""

    def iter_contents(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Yield (id, digest of the image file, bytes of the label file) of every pair, by id."""
        yield from self._db.execute("SELECT id, image_digest, label FROM pairs ORDER BY id")

    def read_member(self, kind: str) -> tuple[str, bytes] | None:
        """Return the name and the bytes of the member of a kind that a release has at most once."""
        row = self._db.execute("SELECT name, data FROM members WHERE kind = ?", (kind,)).fetchone()
        return None if row is None else (row[0], row[1])


def _dump(value: Any) -> str:
    return orjson.dumps(value).decode()


def _pairs(names: list[str], rows: list[tuple[Any, ...]]) -> Pairs:
    columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
    counts, sizes, geometries = (columns.pop(name) for name in ("counts", "sizes", "geometries"))
    for name in ("present", "flags"):
        texts = {text: tuple(orjson.loads(text)) for text in {*columns[name]}}
        columns[name] = [texts[text] for text in columns[name]]
    columns["transform"] = [None if t is None else _TRANSFORM.unpack(t) for t in columns["transform"]]
    return Pairs(**columns, objects=_objects(counts, sizes, geometries))


def _objects(counts: Sequence[str], sizes: Sequence[bytes], geometries: Sequence[bytes]) -> Objects:
    objects = Objects([], [], [], [])
    for index, (text, lengths, data) in enumerate(zip(counts, sizes, geometries, strict=True)):
        for name, count in orjson.loads(text):
            objects.owner.extend([index] * count)
            objects.class_name.extend([name] * count)
            objects.ordinal.extend(range(count))
        ends = [*accumulate(array(_SIZES, lengths), initial=0)]
        objects.geometry.extend(data[start:end] for start, end in pairwise(ends))
    return objects
