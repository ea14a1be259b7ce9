"""Questions about all samples of a release at once, answered by its ledger: counts, and the first few ids."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final

from vedastore.model import EXAMPLES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

Bounds = tuple[float, float, float, float]
Named = tuple[int, tuple[str, ...]]
"""How many samples, and the ids of the first of them."""

_CHIPS: Final = "positions JOIN images USING (id)"
_MARKS: Final = "positions JOIN labels USING (id)"
_TRAITS: Final = {
    _CHIPS: {
        "image-black": "look = 'black'",
        "image-constant": "look = 'constant'",
        "image-lossy": "fidelity = 'decoded'",
        "image-equivalent": "fidelity = 'equivalent'",
        "image-pages": "pages > 1",
    },
    _MARKS: {
        "footprint-missing": "footprint IS NULL",
        # WKB: the byte order, then the type as a little-endian uint32; 3 is a Polygon, 1003 one with heights.
        "import-geometry": "substr(footprint, 2, 4) NOT IN (x'03000000', x'eb030000')",
    },
}
"""What one sample alone tells, by rule."""
_SHAPES: Final = {"image-size": "height || ' x ' || width", "image-type": "dtype", "image-bands": "bands"}
_EDGES: Final = """
SELECT MIN(west), MIN(south), MAX(east), MAX(north), MAX((east - west) / width), MAX((north - south) / height)
FROM positions JOIN labels USING (id) JOIN images USING (id) WHERE west IS NOT NULL
"""
_SAME_PIXELS: Final = """
FROM positions JOIN images USING (id) JOIN
    (SELECT pixel_digest AS same, dtype AS kind, bands AS depth, height AS rows, width AS columns,
        MIN(position) AS first FROM positions JOIN images USING (id) WHERE look = 'varied'
        GROUP BY same, kind, depth, rows, columns HAVING COUNT(*) > 1)
    ON pixel_digest = same AND dtype = kind AND bands = depth AND height = rows AND width = columns
"""
_ALIKE: Final = {
    "name-normal-form": "SELECT id, nfc(id) AS alike FROM ids WHERE nfc(id) IN"
    " (SELECT nfc(id) FROM ids GROUP BY 1 HAVING COUNT(*) > 1) ORDER BY alike, id",
    "name-case": "SELECT id, lowered(id) AS alike FROM ids WHERE lowered(id) IN"
    " (SELECT lowered(id) FROM ids GROUP BY 1 HAVING COUNT(DISTINCT nfc(id)) > 1) ORDER BY alike, id",
}


class Survey:
    """Answers about the pairs of a ledger, in the order of their positions and in bounded memory."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database
        database.create_function("nfc", 1, _nfc, deterministic=True)
        database.create_function("lowered", 1, _lowered, deterministic=True)

    def traits(self) -> Iterator[tuple[str, Named]]:
        """Yield (rule, samples) for what one sample alone tells."""
        for source, traits in _TRAITS.items():
            sums = ", ".join(f"SUM({condition})" for condition in traits.values())
            counts = self._db.execute(f"SELECT {sums} FROM {source}").fetchone()  # noqa: S608 - texts from above
            for (rule, condition), count in zip(traits.items(), counts, strict=True):
                if count:
                    yield rule, (count, self._ids(f"FROM {source} WHERE {condition} ORDER BY position"))

    def shapes(self) -> Iterator[tuple[str, list[tuple[str, int]], Named]]:
        """Yield (rule, values with their counts, samples that do not have the most frequent value)."""
        for rule, value in _SHAPES.items():
            query = f"SELECT {value}, COUNT(*) FROM {_CHIPS} GROUP BY 1 ORDER BY 2 DESC, MIN(position)"  # noqa: S608
            found = [(str(v), c) for v, c in self._db.execute(query).fetchmany(EXAMPLES)]
            if len(found) > 1:
                odd = f"FROM {_CHIPS} WHERE CAST({value} AS TEXT) != ? ORDER BY position"
                (count,) = self._db.execute(f"SELECT COUNT(*) {odd}", found[0][:1]).fetchone()
                yield rule, found, (count, self._ids(odd, found[0][0]))

    def duplicates(self) -> Named:
        """Return the samples that have the pixels of another one; those with nothing to see do not count."""
        (count,) = self._db.execute(f"SELECT COUNT(*) {_SAME_PIXELS}").fetchone()
        return count, self._ids(f"{_SAME_PIXELS} ORDER BY first, position") if count else ()

    def alike_names(self) -> Iterator[tuple[str, Named]]:
        """Yield (rule, ids) for ids that some systems take for the same."""
        names, distinct = self._db.execute("SELECT COUNT(*), COUNT(DISTINCT lowered(id)) FROM ids").fetchone()
        if names == distinct:
            return
        for rule, query in _ALIKE.items():
            count = 0
            examples: list[str] = []
            for sample_id, _ in self._db.execute(query):
                count += 1
                if len(examples) < EXAMPLES:
                    examples.append(sample_id)
            if count:
                yield rule, (count, tuple(examples))

    def suffixes(self) -> tuple[int, tuple[str, ...]]:
        """Return the members of pairs whose suffix is not exactly ``.tif`` or ``.json``."""
        query = (
            "SELECT image_member AS member, image_ordinal AS ordinal FROM positions JOIN images USING (id)"
            " WHERE substr(image_member, -4) != '.tif' UNION ALL SELECT label_member, label_ordinal"
            " FROM positions JOIN labels USING (id) WHERE substr(label_member, -5) != '.json' ORDER BY ordinal"
        )
        count = int(self._db.execute(f"SELECT COUNT(*) FROM ({query})").fetchone()[0])  # noqa: S608
        return count, tuple(row[0] for row in self._db.execute(query).fetchmany(EXAMPLES)) if count else ()

    def iter_labels(self) -> Iterator[tuple[str, bytes]]:
        """Yield (id, bytes of the label file) of all samples."""
        yield from self._db.execute("SELECT id, label FROM positions JOIN labels USING (id) ORDER BY position")

    def iter_odd_labels(self) -> Iterator[tuple[int, str, bytes]]:
        """Yield (ordinal, member, bytes) of label files that a repair may change, in the order of the release."""
        yield from self._db.execute(
            "SELECT label_ordinal, label_member, label FROM positions JOIN labels USING (id)"
            " WHERE flags LIKE '%unclosed%' OR substr(label, 1, 3) = x'efbbbf' OR substr(label_member, -5) != '.json'"
            " OR (substr(footprint, 2, 4) IN (x'06000000', x'ee030000') AND substr(footprint, 6, 4) = x'01000000')"
            " ORDER BY label_ordinal"
        )

    def iter_odd_images(self) -> Iterator[tuple[int, str]]:
        """Yield (ordinal, member) of images whose suffix is not exactly ``.tif``, in the order of the release."""
        yield from self._db.execute(
            "SELECT image_ordinal, image_member FROM positions JOIN images USING (id)"
            " WHERE substr(image_member, -4) != '.tif' ORDER BY image_ordinal"
        )

    def edges(self) -> tuple[Bounds, tuple[float, float]] | None:
        """Return the box around all footprints, and the width and height of the largest pixel, degrees."""
        row = self._db.execute(_EDGES).fetchone()
        return None if row[0] is None else (row[:4], row[4:])

    def iter_boxes(self) -> Iterator[list[tuple[str, float, float, float, float, int, int]]]:
        """Yield (id, west, south, east, north, width, height) of georeferenced samples, 1024 at a time."""
        cursor = self._db.execute(
            "SELECT id, west, south, east, north, width, height FROM positions JOIN labels USING (id)"
            " JOIN images USING (id) WHERE west IS NOT NULL ORDER BY position"
        )
        while rows := cursor.fetchmany(1024):
            yield rows

    def refused(self) -> Iterator[tuple[str, Named, str, str]]:
        """Yield (rule, samples, member of the first, its reason) for what was rejected."""
        counts = self._db.execute(
            "SELECT rule, COUNT(DISTINCT id) FROM rejected GROUP BY rule ORDER BY rule"
        ).fetchall()
        for rule, count in counts:
            first = "SELECT member, reason FROM rejected WHERE rule = ? ORDER BY ordinal LIMIT 1"
            member, reason = self._db.execute(first, (rule,)).fetchone()
            yield (
                rule,
                (count, self._ids("FROM rejected WHERE rule = ? GROUP BY id ORDER BY MIN(ordinal)", rule)),
                member,
                reason,
            )

    def members_of(self, sample_id: str) -> dict[str, str]:
        """Return the members of an id by what they are: ``image``, ``label``."""
        return dict(
            self._db.execute("SELECT half, member FROM halves WHERE id = ? ORDER BY ordinal DESC", (sample_id,))
        )

    def _ids(self, source: str, *values: str) -> tuple[str, ...]:
        query = f"SELECT id {source} LIMIT {EXAMPLES}"
        return tuple(row[0] for row in self._db.execute(query, values))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _lowered(text: str) -> str:
    return text.lower() if text.isascii() else _nfc(_nfc(text).lower())
