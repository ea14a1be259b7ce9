"""TIFF files by hand, from the specification alone: layouts that no library at hand writes."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

SIZES = {"I": 4, "Q": 8}
CODES = {1: "B", 2: "s", 3: "H", 4: "I", 12: "d", 13: "I", 16: "Q", 18: "Q"}
KINDS = {"B": 1, "H": 3, "I": 4, "d": 12, "Q": 16}


@dataclass
class Page:
    """Tags ``{tag: (code, values)}`` with codes of struct, or ``"text"``; strips or tiles; directories below by tag."""

    tags: dict
    segments: list
    below: dict = field(default_factory=dict)


def image(width, height, *, bits=8, scheme=1, colours=1, bands=1, form=1, tile=None, **more):
    """The tags of one image, whose segments are one strip or the given tiles; ``t266=("H", 2)`` adds a tag."""
    tags = {
        256: ("H", [width]), 257: ("H", [height]), 258: ("H", [bits] * bands), 259: ("H", [scheme]),
        262: ("H", [colours]), 277: ("H", [bands]), 339: ("H", [form] * bands),
    }  # fmt: skip
    tags |= {322: ("H", [tile[0]]), 323: ("H", [tile[1]])} if tile else {278: ("H", [height])}
    return tags | {int(name[1:]): (code, _listed(values)) for name, (code, values) in more.items()}


def _listed(values):
    return [values] if isinstance(values, int) else values


def tiff(*pages, order="<", big=False):
    """A file: for each page its segments, the directories below it, long values, then its directory."""
    out = bytearray(16 if big else 8)
    out[:4] = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if big else 42)
    if big:
        struct.pack_into(f"{order}HH", out, 4, 8, 0)
    link = 8 if big else 4
    for page in pages:
        start, following = _page(out, page, order, big)
        struct.pack_into(order + "IQ"[big], out, link, start)
        link = following
    return bytes(out)


def _page(out, page, order, big):
    tags = dict(page.tags)
    if page.segments:
        where = 324 if 322 in tags else 273
        places = [_append(out, segment) for segment in page.segments]
        tags.setdefault(where, ("I", places))
        tags.setdefault(where + (1 if where == 324 else 6), ("I", [len(segment) for segment in page.segments]))
    for tag, children in page.below.items():
        tags[tag] = ("Q" if big else "I", [_page(out, child, order, big)[0] for child in children])
    pointer, entry = ("Q", "HHQ") if big else ("I", "HHI")
    table = bytearray(struct.pack(order + ("Q" if big else "H"), len(tags)))
    for tag, (code, values) in sorted(tags.items()):
        raw, kind, number = _value(code, values, order)
        room = SIZES[pointer]
        slot = raw.ljust(room, b"\0") if len(raw) <= room else struct.pack(order + pointer, _append(out, raw))
        table += struct.pack(order + entry, tag, kind, number) + slot
    start = _append(out, table)
    out += bytes(SIZES[pointer])
    return start, len(out) - SIZES[pointer]


def _value(code, values, order):
    if code == "text":
        return values.encode() + b"\0", 2, len(values.encode()) + 1
    if isinstance(code, int):  # a type of its own
        return values, code, len(values)
    return struct.pack(f"{order}{len(values)}{code}", *values), KINDS[code], len(values)


def _append(out, data):
    out += b"\0" * (-len(out) % 2)
    place = len(out)
    out += data
    return place


def read_tags(data):
    """Byte order, BigTIFF or not, number of pages, the first page's tags: numbers, bytes, or None for other types."""
    order, big = "<" if data[:2] == b"II" else ">", data[2] + data[3] == 43
    pointer, entry, count = ("Q", "HHQ", "Q") if big else ("I", "HHI", "H")
    (place,) = struct.unpack_from(order + pointer, data, 8 if big else 4)
    pages = []
    while place:
        (number,) = struct.unpack_from(order + count, data, place)
        place += struct.calcsize(order + count)
        pages.append({})
        for _ in range(number):
            tag, kind, length = struct.unpack_from(order + entry, data, place)
            place += struct.calcsize(order + entry)
            layout = f"{order}{length}{CODES[kind]}" if kind in CODES else None
            start = place
            if layout and struct.calcsize(layout) > SIZES[pointer]:
                (start,) = struct.unpack_from(order + pointer, data, place)
            pages[-1][tag] = struct.unpack_from(layout, data, start) if layout else None
            place += SIZES[pointer]
        (place,) = struct.unpack_from(order + pointer, data, place)
    return order, big, len(pages), pages[0]


def pack_bits(values, bits):
    """Numbers (row, column) of so many bits, highest bit first, rows padded to whole bytes."""
    weights = np.arange(bits - 1, -1, -1, dtype="u8")
    ones = (values.astype("u8")[..., None] >> weights) & np.uint64(1)
    return np.packbits(ones.astype("u1").reshape(values.shape[0], -1), axis=1).tobytes()


def reverse_bits(data):
    """Every byte with its lowest bit first."""
    return np.packbits(np.unpackbits(np.frombuffer(data, "u1")).reshape(-1, 8)[:, ::-1]).tobytes()


def float24(values, order="<"):
    """Floats of 24 bits: sign, 7 bits of exponent (bias 63), 16 of mantissa."""
    whole = values.astype("f4").view("u4")
    exponent = ((whole >> 23) & 0xFF).astype("i8") - 127 + 63
    numbers = ((whole >> 31) << 23) | (exponent.astype("u4") << 16) | ((whole >> 7) & 0xFFFF)
    parts = numbers.astype("<u4").view("u1").reshape(-1, 4)[:, :3]
    return np.ascontiguousarray(parts if order == "<" else parts[:, ::-1]).tobytes()
