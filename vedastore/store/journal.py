"""What a first conversion notes down of its shards, so that it can go on where it was interrupted.

The marker of a place says what is being converted there, and by which writes. Beside it, each shard that is written has
a document of its own that says which images are in it. Whoever goes on proves of every image that its file is the one
that was read, and that what is stored are its pixels. What else a document tells of it, as its CRS, is protected by a
checksum, against damage alone: whoever can forge it can write to the place of the store, and so forge that.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Self, get_args

from vedastore.model import Fidelity, ImageHalf, Look
from vedastore.spec import keys
from vedastore.spec.arrays import ChipSpec
from vedastore.spec.release import classify
from vedastore.store.ledger import parse_image
from vedastore.store.scratch import open_scratch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vedastore.io.objects import Objects
    from vedastore.store.shards import ShardDraft

LIMIT_BYTES: Final = 16 * 2**20
"""A shard whose document would be longer has none, and is converted again."""
_WRITES: Final = 8
"""Interrupted writes that a marker names."""
_ID = re.compile(r"[0-9a-f]{32}")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SLACK_BYTES: Final = 1024
_START_LIMIT: Final = 2**62
_SCHEMA: Final = "CREATE TABLE kept (member TEXT PRIMARY KEY, shard TEXT, chip TEXT);"


def dump_marker(fingerprint: str, writes: Iterable[str]) -> bytes:
    """Return the content of the marker of a place: what is converted to it, and the ids of the writes, latest first."""
    return json.dumps({"fingerprint": fingerprint, "writes": [*writes][:_WRITES]}).encode()


def parse_marker(data: bytes, fingerprint: str) -> tuple[str, ...]:
    """Return the ids of the writes that were interrupted; none where they did something else."""
    try:
        told = json.loads(data)
        writes = tuple(told["writes"][:_WRITES])
        same = told["fingerprint"] == fingerprint and all(_ID.fullmatch(write) for write in writes)
    except (ValueError, LookupError, TypeError, RecursionError):
        return ()
    return writes if same else ()


def dump_shard(key: str, draft: ShardDraft, images: str) -> bytes:
    """Return the document of a shard: of each image the place of its chunks, and what is known of it besides pixels.

    ``images`` is JSON that `Ledger.dump_images` has made of them.
    """
    body = f'{{"shard": {json.dumps(key)}, "places": {json.dumps([*draft.places()])}, "images": {images}}}'.encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


@dataclass(frozen=True, slots=True)
class Kept:
    """An image that an interrupted conversion has stored: where, and what it found out about it."""

    objects: Objects
    key: str
    start: int
    lengths: tuple[int, ...]
    half: ImageHalf

    def read(self) -> list[bytes]:
        """Return its chunks, as they are."""
        return self.objects.read_parts(self.key, self.start, self.lengths)


class Journal:
    """The images that interrupted writes have stored, by member: in a temporary file, whatever their number.

    ``documents`` are those of the last of these writes.
    """

    def __init__(self, objects: Objects, writes: Iterable[str]) -> None:
        self.documents, self.empty = 0, True
        self._objects, self._writes = objects, tuple(writes)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._db = self._stack.enter_context(open_scratch(_SCHEMA))
        for write_id in reversed(self._writes):
            self.documents = 0
            for number in count():
                found = self._objects.read_tagged(keys.journal(write_id, number), LIMIT_BYTES)
                if found is None:
                    break
                self.documents, self.empty = number + 1, False
                self._db.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", _parse(found[0]))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def find(self, member: str) -> Kept | None:
        """Return what is known of the image that a member was; None where nothing is, or what makes no sense."""
        row = self._db.execute("SELECT shard, chip FROM kept WHERE member = ?", (member,)).fetchone()
        try:
            return row and _parse_chip(self._objects, row[0], json.loads(row[1]))
        except (ValueError, LookupError, TypeError, RecursionError):
            return None


def _parse(data: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield (member, shard, what is known of the image) of a document; nothing of one that is damaged."""
    digest, _, body = data.partition(b"\n")
    if digest != hashlib.sha256(body).hexdigest().encode():
        return
    try:
        told = json.loads(body)
        chips = zip(told["places"], told["images"], strict=True)
        rows = [(image["member"], told["shard"], json.dumps([place, image])) for place, image in chips]
    except (ValueError, LookupError, TypeError, RecursionError):
        return
    yield from (row for row in rows if all(map(_is_text, row)))


def _is_text(value: Any) -> bool:
    """Tell whether a value is text that can be written as UTF-8."""
    return isinstance(value, str) and not _SURROGATE.search(value)


def _parse_chip(objects: Objects, key: str, told: list[Any]) -> Kept:
    """Return what is known of an image, each value of the type that it has to be of. ValueError and others if not."""
    (start, lengths), facts = told
    half, lengths = parse_image(facts), tuple(lengths)
    shape = half.bands, half.height, half.width
    spec = ChipSpec(half.dtype, *shape)
    most = 2 * math.prod(spec.chunk_shape) * spec.itemsize + _SLACK_BYTES
    place = keys.parse_shard(key)
    sound = (
        place is not None
        and keys.is_bucket(place[0])
        and all(type(number) is int and number >= 0 for number in (*shape, half.pages, start, *lengths))
        and len(lengths) == spec.chunks_per_sample
        and max(lengths) <= most
        and start <= _START_LIMIT
        and all(text is None or _is_text(text) for text in (half.crs, half.nodata))
        and half.pages <= _START_LIMIT
        and half.id == classify(half.member).id
        and half.look in get_args(Look)
        and half.fidelity in get_args(Fidelity)
    )
    if not sound:
        raise ValueError(key)
    return Kept(objects, key, start, lengths, half)
