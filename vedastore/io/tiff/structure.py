"""TIFF structure: header, directories and tag values, each checked against the bytes that are there.

Source: TIFF 6.0 (Adobe, 1992) and BigTIFF (https://www.awaresystems.be/imaging/tiff/bigtiff.html).
Nothing here allocates more than the file holds, follows a loop, or reads outside the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vedastore.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

Buffer = bytes | bytearray | memoryview

SKIP_HINT = "--on-error=skip leaves such a sample out"
DAMAGED, UNSUPPORTED, OVER_LIMIT = "image-damaged", "image-unsupported", "image-limit"  # rules
#: Directories and their values may fill a file some times over (pages may share values), not without bound.
LIMIT_SHARING = 4
LIMIT_VALUES = 1 << 20  # of a tag that is read as Python numbers; tables of segments are read as arrays
KEPT, KEPT_BYTES = 128, 4096  # what is parsed once for all files in which it is the same: how many of it, how long

#: Field type of TIFF -> bytes of one value, and its struct code (rationals are pairs of integers).
KINDS: dict[int, tuple[int, str]] = {
    1: (1, "B"), 2: (1, "B"), 3: (2, "H"), 4: (4, "I"), 5: (8, "2I"), 6: (1, "b"), 7: (1, "B"), 8: (2, "h"),
    9: (4, "i"), 10: (8, "2i"), 11: (4, "f"), 12: (8, "d"), 13: (4, "I"), 16: (8, "Q"), 17: (8, "q"), 18: (8, "Q"),
}  # fmt: skip
ASCII, SHORT, LONG, DOUBLE, LONG8 = 2, 3, 4, 12, 16
WHOLE = frozenset({1, 3, 4, 6, 7, 8, 9, 13, 16, 17, 18})  # types of whole numbers
SUB_DIRECTORIES = (330, 34665, 34853)  # tags of SubIFDs, Exif, GPS
CLASSIC, BIG = 42, 43  # the number that follows the byte order
CLASSIC_HEADER_BYTES, BIG_HEADER_BYTES = 8, 16


def damaged(what: str) -> ImageError:
    """Make the error for a file that is broken."""
    return ImageError(f"damaged TIFF: {what}", hint=SKIP_HINT, rule=DAMAGED)


def unsupported(layout: str) -> ImageError:
    """Make the error for a sound file of a layout that could not be given back."""
    return ImageError(f"TIFF layout that cannot be given back: {layout}", hint=SKIP_HINT, rule=UNSUPPORTED)


def over_limit(what: str, limit: str) -> ImageError:
    """Make the error for a file above a limit; ``limit`` is its name."""
    hint = f"raise it with --limit {limit}=... if you trust the file; {SKIP_HINT}"
    return ImageError(f"TIFF above a limit: {what}", hint=hint, rule=OVER_LIMIT)


class Entry(NamedTuple):
    """One tag of a directory (a tuple, because a release makes millions of them)."""

    kind: int
    number: int  # of values
    offset: int  # where the value's bytes begin
    size_bytes: int
    slot: int  # where the entry's value-or-offset field begins


_struct = lru_cache(struct.Struct)


@dataclass(frozen=True, slots=True)
class Form:
    """What distinguishes the four forms of TIFF: byte order, and classic or big.

    Parameters
    ----------
    order : str
        ``"<"`` or ``">"``, as in struct.
    big : bool
        BigTIFF: 64-bit offsets and counts.
    """

    order: str
    big: bool

    @property
    def header_bytes(self) -> int:
        """Length of the header."""
        return BIG_HEADER_BYTES if self.big else CLASSIC_HEADER_BYTES

    @property
    def pointer(self) -> struct.Struct:
        """An offset, which is also the value field of an entry."""
        return _struct(self.order + ("Q" if self.big else "I"))

    @property
    def count(self) -> struct.Struct:
        """The number of entries in front of a directory."""
        return _struct(self.order + ("Q" if self.big else "H"))

    @property
    def entry(self) -> struct.Struct:
        """One entry: tag, type, count, value or offset."""
        return _struct(self.order + ("HHQQ" if self.big else "HHII"))


_FORMS = {(order, big): Form(order, big) for order in "<>" for big in (False, True)}


@dataclass(frozen=True, slots=True)
class Directory:
    """One image file directory, its value ranges checked, its values read on demand."""

    data: Buffer
    form: Form
    offset: int
    end: int
    next_offset: int
    entries: dict[int, Entry]
    table: bytes = b""  # the directory itself, as it stands in the file

    def raw(self, tag: int) -> bytes | None:
        """Bytes of a tag's value as they stand in the file, or None where the tag is absent."""
        entry = self.entries.get(tag)
        return None if entry is None else bytes(self.data[entry.offset : entry.offset + entry.size_bytes])

    def values(self, tag: int) -> tuple[Any, ...]:
        """Numbers of a tag; empty where the tag is absent or of an unknown type."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind not in KINDS:
            return ()
        if entry.number > LIMIT_VALUES:
            raise damaged(f"tag {tag} has {entry.number} values")
        code = KINDS[entry.kind][1]
        repeat = f"{entry.number}{code}" if len(code) == 1 else code * entry.number
        return struct.unpack_from(self.form.order + repeat, self.data, entry.offset)

    def whole(self, tag: int) -> tuple[int, ...]:
        """Numbers of a tag, which must be whole ones."""
        values = self.values(tag)
        if values and self.entries[tag].kind not in WHOLE:
            raise damaged(f"tag {tag} is not a whole number")
        return values

    def integer(self, tag: int, default: int) -> int:
        """Return the number of a tag, which must be one whole number: libtiff looks past such a tag that has more."""
        values = self.whole(tag)
        if len(values) > 1:
            raise damaged(f"tag {tag} has {len(values)} values instead of one")
        return values[0] if values else default

    def integers(self, tag: int) -> npt.NDArray[np.int64]:
        """All numbers of a tag as int64, without a Python object for each."""
        entry = self.entries.get(tag)
        if entry is None:
            return np.empty(0, np.int64)
        if entry.kind not in (SHORT, LONG, 13, LONG8, 18):
            raise damaged(f"tag {tag} has type {entry.kind}, not a type of offsets or counts")
        kind = np.dtype(f"{self.form.order}u{KINDS[entry.kind][0]}")
        return np.frombuffer(self.data, kind, entry.number, entry.offset).astype(np.int64)

    def text(self, tag: int) -> str | None:
        """Text of a tag up to its first NUL, stripped, or None where the tag is absent."""
        raw = self.raw(tag)
        return None if raw is None else raw.split(b"\0", 1)[0].decode("latin-1").strip()

    def outside(self, tags: frozenset[int]) -> tuple[bytes, ...]:
        """Bytes of those values of these tags that do not lie in the table, in the order of the table."""
        inline = self.form.pointer.size
        return tuple(
            bytes(self.data[e.offset : e.offset + e.size_bytes])
            for tag, e in self.entries.items()
            if e.size_bytes > inline and tag in tags
        )

    def ranges(self) -> list[tuple[int, int]]:
        """Begin and end of the directory itself and of every value that lies outside it."""
        inline = 8 if self.form.big else 4
        values = [(e.offset, e.offset + e.size_bytes) for e in self.entries.values() if e.size_bytes > inline]
        return [(self.offset, self.end), *values]

    def used_bytes(self) -> int:
        """Length of the directory and its values."""
        return sum(end - begin for begin, end in self.ranges())


def read_header(data: Buffer) -> tuple[Form, int]:
    """Read the header.

    Returns
    -------
    form : Form
    offset : int
        Of the first directory.
    """
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None or len(data) < CLASSIC_HEADER_BYTES:
        raise ImageError("not a TIFF: the file does not begin with a TIFF header", hint=SKIP_HINT, rule=DAMAGED)
    (magic,) = struct.unpack_from(order + "H", data, 2)
    if magic == CLASSIC:
        return _FORMS[order, False], struct.unpack_from(order + "I", data, 4)[0]
    if magic == BIG and len(data) >= BIG_HEADER_BYTES and struct.unpack_from(order + "HH", data, 4) == (8, 0):
        return _FORMS[order, True], struct.unpack_from(order + "Q", data, 8)[0]
    raise ImageError("not a TIFF: the file does not begin with a TIFF header", hint=SKIP_HINT, rule=DAMAGED)


def read_directory(data: Buffer, form: Form, offset: int) -> Directory:
    """Read the directory at an offset; every value must lie inside the file."""
    size, count, pointer = len(data), form.count, form.pointer
    if offset < form.header_bytes or offset + count.size > size:
        raise damaged(f"a directory at byte {offset}, outside the file of {size} bytes")
    (length,) = count.unpack_from(data, offset)
    end = offset + count.size + length * form.entry.size + pointer.size
    if end > size:
        raise damaged(f"a directory of {length} entries at byte {offset} runs over the end of the file ({size} bytes)")
    table = bytes(data[offset:end])
    parse = _parse_table if len(table) <= KEPT_BYTES else _parse_table.__wrapped__
    entries, needed = parse(form, offset, table)
    if needed > size:
        tag, entry = next((tag, e) for tag, e in entries.items() if e.offset + e.size_bytes > size)
        raise _misplaced(tag, entry.size_bytes, entry.offset)
    return Directory(data, form, offset, end, pointer.unpack_from(data, end - pointer.size)[0], entries, table)


@lru_cache(maxsize=KEPT)
def _parse_table(form: Form, offset: int, table: bytes) -> tuple[dict[int, Entry], int]:
    """Read a directory's entries, which nobody may change, and how long a file must be to hold their values."""
    entries: dict[int, Entry] = {}
    entry, inline, needed = form.entry, form.pointer.size, 0
    slot = offset + form.count.size + entry.size - inline
    for tag, kind, number, value in entry.iter_unpack(table[form.count.size : -inline]):
        value_bytes = number * KINDS[kind][0] if kind in KINDS else 0
        place = slot if value_bytes <= inline else value
        if place < form.header_bytes:
            raise _misplaced(tag, value_bytes, place)
        if tag in entries:
            raise damaged(f"tag {tag} stands twice in one directory")
        entries[tag] = Entry(kind, number, place, value_bytes, slot)
        needed = max(needed, place + value_bytes)
        slot += entry.size
    return entries, needed


def _misplaced(tag: int, size_bytes: int, place: int) -> ImageError:
    what = f"the value of tag {tag} ({size_bytes} bytes at byte {place})"
    return damaged(f"{what} lies outside the file or upon its header")


def read_first_directory(data: Buffer) -> Directory:
    """Read the directory of the first image."""
    form, offset = read_header(data)
    return read_directory(data, form, offset)


def iter_later_directories(first: Directory) -> Iterator[Directory]:
    """Read the directories behind the first one: further pages, overviews, masks; loops are refused."""
    seen = {first.offset}
    offset = first.next_offset
    allowed_bytes = LIMIT_SHARING * len(first.data)
    while offset:
        if offset in seen:
            raise damaged("the directories form a loop")
        seen.add(offset)
        directory = read_directory(first.data, first.form, offset)
        allowed_bytes -= directory.used_bytes()
        if allowed_bytes < 0:
            raise damaged("the directories overlap")
        yield directory
        offset = directory.next_offset


def iter_sub_directories(parents: list[Directory]) -> Iterator[Directory]:
    """Read the directories that hang below others: SubIFDs, Exif, GPS, and what hangs below those."""
    seen = {parent.offset for parent in parents}
    todo = list(parents)
    allowed_bytes = LIMIT_SHARING * sum(len(parent.data) for parent in parents[:1])
    while todo:
        parent = todo.pop()
        for offset in (int(number) for tag in SUB_DIRECTORIES for number in parent.integers(tag)):
            if offset in seen:
                continue
            seen.add(offset)
            child = read_directory(parent.data, parent.form, offset)
            allowed_bytes -= child.used_bytes()
            if allowed_bytes < 0:
                raise damaged("the directories overlap")
            todo.append(child)
            yield child
