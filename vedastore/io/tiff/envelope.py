"""The envelope: all that a TIFF file is besides its first image's pixels, as bytes that describe themselves.

::

    uint32, little-endian    length of the header
    header                   JSON: encoder, fidelity, regions [[offset, length], ...], residue (bytes), size (bytes), v
    frame                    the file without its regions, in file order
    residue                  tile padding that is not zero, zlib-compressed

``regions`` are the ranges of the file in which the pixels lay. A file that is kept whole has none: it is its frame.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from vedastore.errors import ImageError
from vedastore.io.tiff.structure import KEPT, KEPT_BYTES

if TYPE_CHECKING:
    from vedastore.io.tiff.segments import Region
    from vedastore.model import Fidelity

VERSION = 1
KEPT_REGIONS = 64  # of a header that is kept for other files
EXACT: Final = "exact"
EQUIVALENT: Final = "equivalent"
DECODED: Final = "decoded"
FIDELITIES: dict[str, Fidelity] = {EXACT: EXACT, EQUIVALENT: EQUIVALENT, DECODED: DECODED}


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed envelope.

    Parameters
    ----------
    fidelity : str
        ``exact``: the file comes back byte for byte. ``equivalent``: same pixels, tags, scheme and layout.
        ``decoded``: the pixels as decoded from a lossy file, stored losslessly.
    encoder : str
        Which encoder gives the stored bytes again (or replaces them).
    size_bytes : int
        Length of the file.
    regions : tuple of (offset, length)
        Ranges of the pixels, ascending and apart.
    frame : bytes
    residue : bytes
        Tile padding that is not all zero, as `pack_padding` made it.
    """

    fidelity: Fidelity
    encoder: str
    size_bytes: int
    regions: tuple[Region, ...]
    frame: bytes
    residue: bytes

    def dump(self) -> bytes:
        """Serialise."""
        dump = _dump_header if len(self.regions) <= KEPT_REGIONS else _dump_header.__wrapped__
        header = dump(self.encoder, self.fidelity, self.regions, len(self.residue), self.size_bytes)
        return b"".join((header, self.frame, self.residue))

    def padding(self, size_bytes: int) -> bytes:
        """Unpack the tile padding, which must have this length where there is any."""
        if not self.residue:
            return b""
        unpacker = zlib.decompressobj()
        try:
            padding = unpacker.decompress(self.residue, size_bytes + 1)
        except zlib.error as error:
            raise ImageError(f"damaged envelope of an image ({error})") from None
        if len(padding) != size_bytes:
            raise ImageError("damaged envelope of an image (its tile padding has another length than the tiles need)")
        return padding

    def fill(self, raw: npt.NDArray[np.uint8]) -> bytes:
        """Lay out a file that has one region, with its bytes."""
        ((offset, _),) = self.regions
        return b"".join((self.frame[:offset], raw.data, self.frame[offset:]))

    def skeleton(self, limit_bytes: int) -> npt.NDArray[np.uint8]:
        """Lay out the file with zeros in place of its pixels, for which it may have so many bytes."""
        if self.size_bytes - len(self.frame) > limit_bytes:
            raise ImageError(f"damaged envelope of an image (it has room for more than {limit_bytes} bytes of pixels)")
        out = np.zeros(self.size_bytes, np.uint8)
        frame = np.frombuffer(self.frame, np.uint8)
        place = taken = 0
        for offset, length in (*self.regions, (self.size_bytes, 0)):
            out[place:offset] = frame[taken : taken + offset - place]
            taken += offset - place
            place = offset + length
        return out


@lru_cache(maxsize=KEPT)
def _dump_header(encoder: str, fidelity: str, regions: tuple[Region, ...], residue: int, size_bytes: int) -> bytes:
    header = {
        "encoder": encoder, "fidelity": fidelity, "regions": regions, "residue": residue, "size": size_bytes,
        "v": VERSION,
    }  # fmt: skip
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    return struct.pack("<I", len(text)) + text


def pack_padding(padding: bytes) -> bytes:
    """Pack tile padding for an envelope."""
    return zlib.compress(padding, 9) if padding else b""


def cut_frame(data: bytes, regions: tuple[Region, ...]) -> bytes:
    """Leave the regions out of a file."""
    begins = [0, *(offset + length for offset, length in regions)]
    ends = [*(offset for offset, _ in regions), len(data)]
    return b"".join(data[a:b] for a, b in zip(begins, ends, strict=True))


def parse_envelope(blob: bytes) -> Envelope:
    """Read an envelope.

    Raises
    ------
    ImageError
        Where it is damaged, or of a later version.
    """
    try:
        (length,) = struct.unpack_from("<I", blob)
        parse = _parse_header if length <= KEPT_BYTES else _parse_header.__wrapped__
        fidelity, encoder, size_bytes, regions, frame_bytes, residue = parse(blob[4 : 4 + length])
    except (struct.error, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ImageError(f"damaged envelope of an image ({error})") from None
    end = len(blob) - residue
    frame, packed = blob[4 + length : end], blob[end:]
    if len(frame) != frame_bytes:
        raise ImageError("damaged envelope of an image (lengths that do not add up)")
    return Envelope(fidelity, encoder, size_bytes, regions, frame, packed)


@lru_cache(maxsize=KEPT)
def _parse_header(text: bytes) -> tuple[Fidelity, str, int, tuple[Region, ...], int, int]:
    """Read what a header says: fidelity, encoder, size, regions, lengths of frame and residue."""
    header = json.loads(text)
    version = header["v"]
    if version != VERSION:
        raise ImageError(f"an envelope of version {version}; this vedastore knows version {VERSION}")
    regions = tuple((int(offset), int(size)) for offset, size in header["regions"])
    size_bytes, residue = int(header["size"]), int(header["residue"])
    place = 0
    for offset, length in regions:
        if offset < place or length < 0:
            raise ValueError("regions out of order")
        place = offset + length
    if place > size_bytes or residue < 0:
        raise ValueError("lengths that do not add up")
    frame_bytes = size_bytes - sum(length for _, length in regions)
    return FIDELITIES[header["fidelity"]], str(header["encoder"]), size_bytes, regions, frame_bytes, residue
