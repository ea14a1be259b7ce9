"""Small changes to valid inputs: blind ones, and some that keep a format's own checks satisfied."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from tests.fuzz_seeds import TIFF_NUMBERS, words

if TYPE_CHECKING:
    from random import Random

_BLOCK = 512
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|[\[\]{}:,]|[a-zA-Z]+')


def mutate(target: str, data: bytes, random: Random) -> bytes:
    """Change an input of a target in one to four places."""
    changes = [_blindly]
    if target == "archive":
        changes += [_tar_field, _tar_block]
    elif target.startswith("tiff"):
        changes += [_tiff_entry, _tiff_entry]
    elif target != "gzip":
        changes += [_json_token, _json_token]
    for _ in range(random.choice((1, 1, 2, 4))):
        data = random.choice(changes)(target, data, random)
    return mend(target, data, random)


def mend(target: str, data: bytes, random: Random) -> bytes:
    """Give the headers of a tar their checksums again, most of the time; what has none stays as it is."""
    if target != "archive" or random.random() < 0.2:
        return data
    out = bytearray(data)
    for start in range(0, len(out) - _BLOCK + 1, _BLOCK):
        block = out[start : start + _BLOCK]
        if block[257:262] == b"ustar" or (
            block[257:265] == bytes(8) and re.fullmatch(rb"[0-7 ]{6}\0 ", block[148:156])
        ):
            total = sum(block) - sum(block[148:156]) + 8 * 32
            out[start + 148 : start + 156] = b"%06o\0 " % total
    return bytes(out)


def _blindly(target: str, data: bytes, random: Random) -> bytes:
    at, end = sorted((random.randint(0, len(data)), random.randint(0, len(data))))
    end = min(end, at + random.choice((1, 1, 4, 16, 512, 4096)))
    word = random.choice(words(target))
    match random.randrange(8):
        case 0 if at < len(data):
            return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + bytes([random.choice((0, 1, 127, 128, 255, random.randrange(256)))]) + data[at + 1 :]
        case 2:
            return data[:at] + word + data[at:]
        case 3:
            return data[:at] + word + data[at + len(word) :]
        case 4:
            return data[:at] + data[end:]
        case 5:
            return data[:end] + data[at:]
        case 6:
            return data[:at]
        case _:
            return data[:at] + data[end:] + data[at:end]


def _tar_field(target: str, data: bytes, random: Random) -> bytes:
    """Write a word into a field of one of the headers: name, size, kind, magic, prefix."""
    headers = [i for i in range(0, len(data), _BLOCK) if data[i + 257 : i + 262] == b"ustar"]
    if not headers:
        return data
    start = random.choice(headers)
    offset, length = random.choice(((0, 100), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155)))
    word = bytes([random.choice(b"01234567xgLKSVDM\0")]) if length == 1 else random.choice(words(target))
    at = start + offset
    return data[:at] + word[:length] + data[at + len(word[:length]) :]


def _tar_block(target: str, data: bytes, random: Random) -> bytes:
    """Leave blocks out, repeat them, or put them elsewhere."""
    blocks = [data[i : i + _BLOCK] for i in range(0, len(data), _BLOCK)]
    chosen = random.randrange(len(blocks) or 1)
    piece = blocks[chosen : chosen + random.randint(1, 3)]
    if random.random() < 0.5:
        del blocks[chosen : chosen + len(piece)]
    at = random.randint(0, len(blocks))
    return b"".join(blocks[:at] + piece * random.randint(0, 2) + blocks[at:])


def _tiff_entry(target: str, data: bytes, random: Random) -> bytes:
    """Change tag, type, count or value of one entry of the first directory."""
    order = ">" if data[:2] == b"MM" else "<"
    if len(data) < 16:
        return data
    big = struct.unpack_from(order + "H", data, 2) == (43,)
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    entry = struct.Struct(order + ("HHQQ" if big else "HHII"))
    first = start + (8 if big else 2)
    if start + 8 > len(data):
        return data
    (number,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    at = first + entry.size * random.randrange(min(number, 64) or 1)
    if at + entry.size > len(data):
        return data
    fields = list(entry.unpack_from(data, at))
    which = random.choice((0, 1, 2, 3, 3, 3))
    near = (fields[which] + random.choice((-1, 1, 8, -8, 256)), fields[which] * 2, fields[which] // 2)
    top = 0xFFFF if which < 2 else 0xFFFFFFFF
    fields[which] = random.choice((*near, random.choice(TIFF_NUMBERS), len(data), start, top)) & top
    return data[:at] + entry.pack(*fields) + data[at + entry.size :]


def _json_token(target: str, data: bytes, random: Random) -> bytes:
    """Replace, repeat or leave out one token."""
    tokens = list(_TOKEN.finditer(data))
    if not tokens:
        return data
    one, other = random.choice(tokens), random.choice(tokens)
    new = random.choice((random.choice(words(target)), other[0], b"", one[0] + b"," + other[0]))
    return data[: one.start()] + new + data[one.end() :]
