"""Write a directory: the one place where a TIFF is changed. All bytes keep their place; what is new goes to the end."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vedastore.io.tiff.structure import CLASSIC, LONG, Buffer, Directory, Form, unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Value:
    """A new value of a tag, its numbers as bytes in the file's byte order."""

    kind: int
    count: int
    data: bytes


def with_changes(data: Buffer, directory: Directory, changes: Mapping[int, Value | None]) -> bytes:
    """Give a TIFF a new first directory.

    Parameters
    ----------
    data : bytes
        The whole file; ``directory`` was read from it, or from a file with the same tags in the same place.
    directory : Directory
        Its first directory. It stays where it is, unused.
    changes : dict
        By tag: the new value, or None to leave the tag out. All other entries are kept verbatim, as are the
        values that they point to and the pointer to the next directory.

    Raises
    ------
    ImageError
        Where a classic TIFF would grow over 4 GiB.
    """
    form = directory.form
    slot_bytes = form.pointer.size
    kept = {tag for tag in directory.entries if tag not in changes}
    tags = sorted(kept | {tag for tag, value in changes.items() if value is not None})
    out = bytearray(data)
    out += b"\0" * (-len(out) % slot_bytes)
    start = len(out)
    place = start + form.count.size + len(tags) * form.entry.size + slot_bytes
    table, tail = bytearray(form.count.pack(len(tags))), bytearray()
    for tag in tags:
        value = changes.get(tag)
        if value is None:
            entry = directory.entries[tag]
            head = form.entry.pack(tag, entry.kind, entry.number, 0)[:-slot_bytes]
            table += head + bytes(directory.data[entry.slot : entry.slot + slot_bytes])
        elif len(value.data) <= slot_bytes:
            head = form.entry.pack(tag, value.kind, value.count, 0)[:-slot_bytes]
            table += head + value.data.ljust(slot_bytes, b"\0")
        else:
            tail += b"\0" * (-(place + len(tail)) % 8)
            _check_fits(place + len(tail), slot_bytes)
            table += form.entry.pack(tag, value.kind, value.count, place + len(tail))
            tail += value.data
    table += form.pointer.pack(directory.next_offset)
    _check_fits(start + len(table) + len(tail), slot_bytes)
    out[form.header_bytes - slot_bytes : form.header_bytes] = form.pointer.pack(start)
    return bytes(out + table + tail)


def new_tiff(order: str, body: bytes, tags: Mapping[int, int | npt.NDArray[np.int64] | Value | None]) -> bytes:
    """Make a classic TIFF.

    Parameters
    ----------
    order : str
        Byte order, as in struct.
    body : bytes
        What follows the header, from byte 8 on.
    tags : dict
        By tag; numbers and arrays are written as LONG.
    """
    form = Form(order, big=False)
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", CLASSIC, 0)
    values: dict[int, Value | None] = {}
    for tag, value in tags.items():
        if isinstance(value, int | np.ndarray):
            numbers = np.atleast_1d(value).astype(f"{order}u4")
            values[tag] = Value(LONG, numbers.size, numbers.tobytes())
        else:
            values[tag] = value
    return with_changes(header + body, Directory(header, form, 0, 0, 0, {}), values)


def _check_fits(place: int, slot_bytes: int) -> None:
    if place >= 1 << (8 * slot_bytes):
        raise unsupported("a classic TIFF that would grow over 4 GiB when its pixels are encoded anew")
