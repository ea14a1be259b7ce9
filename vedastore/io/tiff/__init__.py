"""TIFF bytes <-> pixels and envelope; siblings of this package import these names only."""

from vedastore.io.tiff.compare import differences
from vedastore.io.tiff.file import COPY, VERBATIM, DecodedTiff, EnvelopeInfo, decode, describe, encode
from vedastore.io.tiff.pages import count_pages
from vedastore.io.tiff.write import dump_geotiff

__all__ = [
    "COPY",
    "VERBATIM",
    "DecodedTiff",
    "EnvelopeInfo",
    "count_pages",
    "decode",
    "describe",
    "differences",
    "dump_geotiff",
    "encode",
]
