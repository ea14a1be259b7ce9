"""The envelope: all that a TIFF file is besides its first image's pixels, as bytes that describe themselves.

::

    uint32, little-endian    length of the header
    header                   JSON: encoder, fidelity, regions [[offset, length], ...], residue (bytes), size (bytes), v
    frame                    the file without its regions, in file order
    residue                  tile padding that is not zero, zlib-compressed

``regions`` are the ranges of the file in which the pixels lay.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from vedastore.errors import ImageError

if TYPE_CHECKING:
    from vedastore.io.tiff.segments import Region
    from vedastore.model import Fidelity

VERSION = 1
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
    padding : bytes
        Tile padding, where it is not all zero.
    """

    fidelity: Fidelity
    encoder: str
    size_bytes: int
    regions: tuple[Region, ...]
    frame: bytes
    padding: bytes

    def dump(self) -> bytes:
        """Serialise."""
        residue = zlib.compress(self.padding, 9) if self.padding else b""
        header = {
            "encoder": self.encoder, "fidelity": self.fidelity, "regions": self.regions,
            "residue": len(residue), "size": self.size_bytes, "v": VERSION,
        }  # fmt: skip
        text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
        return b"".join((struct.pack("<I", len(text)), text, self.frame, residue))

    def skeleton(self) -> npt.NDArray[np.uint8]:
        """Lay out the file with zeros in place of its pixels."""
        out = np.zeros(self.size_bytes, np.uint8)
        frame = np.frombuffer(self.frame, np.uint8)
        place = taken = 0
        for offset, length in (*self.regions, (self.size_bytes, 0)):
            out[place:offset] = frame[taken : taken + offset - place]
            taken += offset - place
            place = offset + length
        return out


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
        header = json.loads(blob[4 : 4 + length])
        version = header["v"]
        if version != VERSION:
            raise ImageError(f"an envelope of version {version}; this vedastore knows version {VERSION}")
        regions = tuple((int(offset), int(size)) for offset, size in header["regions"])
        size_bytes, residue = int(header["size"]), int(header["residue"])
        end = len(blob) - residue
        frame, packed = blob[4 + length : end], blob[end:]
        _check(regions, size_bytes, len(frame), residue)
        padding = zlib.decompress(packed) if residue else b""
        return Envelope(FIDELITIES[header["fidelity"]], str(header["encoder"]), size_bytes, regions, frame, padding)
    except (struct.error, ValueError, KeyError, TypeError, zlib.error, RecursionError) as error:
        raise ImageError(f"damaged envelope of an image ({error})") from None


def _check(regions: tuple[Region, ...], size_bytes: int, frame_bytes: int, residue: int) -> None:
    place = 0
    for offset, length in regions:
        if offset < place or length < 0:
            raise ValueError("regions out of order")
        place = offset + length
    if place > size_bytes or residue < 0 or frame_bytes + sum(length for _, length in regions) != size_bytes:
        raise ValueError("lengths that do not add up")
