"""TIFF bytes <-> pixels and envelope; siblings of this package import these names only."""

from vedastore.io.tiff.compare import differences
from vedastore.io.tiff.file import DecodedTiff, EnvelopeInfo, decode, describe, encode

__all__ = ["DecodedTiff", "EnvelopeInfo", "decode", "describe", "differences", "encode"]
