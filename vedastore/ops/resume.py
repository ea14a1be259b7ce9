"""Going on with an interrupted conversion: images that it has stored are proved, and neither decoded nor encoded."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from vedastore.errors import StoreError
from vedastore.exchange.release import pixel_digest
from vedastore.ops.options import library_versions
from vedastore.spec.arrays import ChipSpec
from vedastore.spec.release import classify
from vedastore.store.chips import decode_chip
from vedastore.store.shards import Here

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vedastore.exchange.release import ReleaseReader
    from vedastore.io.member import Member, Unread
    from vedastore.model import ImageHalf
    from vedastore.ops.options import ConvertOptions
    from vedastore.store.journal import Journal, Kept


def fingerprint(reader: ReleaseReader, options: ConvertOptions) -> str:
    """Return a digest of what is converted, and how: a conversion goes on where another one of the same began."""
    told = [reader.identity(), asdict(replace(options, mode="create")), library_versions()]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Known:
    """An image of which an interrupted conversion has stored something."""

    member: Member | Unread
    kept: Kept

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""
        return self.member.size_bytes


def with_known(members: Iterable[Member | Unread], journal: Journal) -> Iterator[Member | Unread | Known]:
    """Yield members, with what a journal knows of the images among them."""
    for member in members:
        kept = None if journal.empty or classify(member.name).kind != "image" else journal.find(member.name)
        yield member if kept is None else Known(member, kept)


def prove(kept: Kept, member: Member, options: ConvertOptions) -> tuple[ImageHalf, ChipSpec, Here] | None:
    """Return what `read_image` and `encode_chip` made of a file; None where it is not proved that they did.

    The file has to be the one that was read then, and what is stored has to decode to the pixels that it had.
    """
    half = kept.half._replace(ordinal=member.ordinal)
    spec = ChipSpec(half.dtype, half.bands, half.height, half.width, options.codec)
    fits = math.prod(spec.shape) * spec.itemsize <= options.limits.image_bytes
    if not fits or half.member != member.name or hashlib.sha256(member.data).digest() != half.digest:
        return None
    try:
        chunks = tuple(kept.read())
        pixels = decode_chip(chunks, spec, kept.key)
    except StoreError:
        return None
    return (half, spec, Here.of(chunks)) if pixel_digest(pixels) == half.pixel_digest else None
