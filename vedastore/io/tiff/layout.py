"""How the pixels of one image lie in the file: sample type, strips or tiles, scheme; all checked before allocating."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vedastore.io.tiff.structure import Directory, damaged, over_limit, unsupported
from vedastore.model import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from vedastore.errors import ImageError

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, BANDS, ROWS_PER_STRIP, STRIP_COUNTS, PLANAR, PREDICTOR = 273, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, SAMPLE_FORMAT = 322, 323, 324, 325, 339
SUBSAMPLING, DEPTH, NODATA = 530, 32997, 42113
CMYK, YCBCR, CIELAB, LOGL, LOGLUV = 5, 6, 8, 32844, 32845
#: Colour spaces that GDAL converts to RGB, most of them in samples of 8 bits.
COLOUR_SPACES = {CMYK: "CMYK", YCBCR: "YCbCr", CIELAB: "CIELAB", LOGL: "LogL", LOGLUV: "LogLuv"}
STRIP_TAGS, TILE_TAGS = {STRIP_OFFSETS, STRIP_COUNTS}, {TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS}
#: All tags that say how the pixels lie, and what those of missing segments are: no other is read to take a file apart.
LAYOUT_TAGS = frozenset({
    WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, BANDS, ROWS_PER_STRIP, PLANAR, PREDICTOR, TILE_WIDTH,
    SAMPLE_FORMAT, DEPTH, NODATA, *STRIP_TAGS, *TILE_TAGS,
})  # fmt: skip
CHUNKY, PLANES = 1, 2
DIFFERENCES, FLOAT_BYTES = 2, 3  # predictors; 1 is none
LIMIT_BANDS = (1 << 16) - 1
LIMIT_DIFFERENCES_BYTES = 8  # size of the samples of which libtiff takes differences

NONE, LZW, JPEG, DEFLATE, PACKBITS, DEFLATE_OLD, LERC, LZMA, ZSTD, WEBP = (
    1, 5, 7, 8, 32773, 32946, 34887, 34925, 50000, 50001,
)  # fmt: skip
SCHEMES = {
    NONE: "uncompressed", LZW: "LZW", JPEG: "JPEG", DEFLATE: "Deflate", PACKBITS: "PackBits",
    DEFLATE_OLD: "Deflate (old tag)", LERC: "LERC", LZMA: "LZMA", ZSTD: "Zstandard", WEBP: "WebP",
}  # fmt: skip
LOSSY = frozenset({JPEG, LERC, WEBP})
LIMIT_GDAL_BANDS = 512  # of an image that GDAL decodes: its time grows with their square
PREDICTABLE = frozenset({LZW, DEFLATE, DEFLATE_OLD, LZMA, ZSTD})
#: Names of the schemes that are left to GDAL, whether or not it knows them.
OTHER_SCHEMES = {
    2: "CCITT RLE", 3: "CCITT fax 3", 4: "CCITT fax 4", 6: "old-style JPEG", 32766: "NeXT", 32771: "CCITT RLE (words)",
    32809: "ThunderScan", 32908: "PixarFilm", 32909: "PixarLog", 34661: "JBIG", 34676: "SGI LogLuv",
    34677: "SGI LogLuv 24", 34712: "JPEG 2000", 34892: "lossy DNG JPEG", 34933: "PNG", 34934: "JPEG XR",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
UNSIGNED, SIGNED, FLOAT, VOID, COMPLEX_INTEGER, COMPLEX = 1, 2, 3, 4, 5, 6  # sample formats
KINDS = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f", VOID: "u", COMPLEX: "c"}
FORMATS = {
    UNSIGNED: "unsigned", SIGNED: "signed", FLOAT: "float", VOID: "undefined", COMPLEX_INTEGER: "complex integer",
    COMPLEX: "complex",
}  # fmt: skip
SIZES_BITS = {"u": (8, 16, 32, 64), "i": (8, 16, 32, 64), "f": (16, 32, 64), "c": (64, 128)}


@dataclass(frozen=True, slots=True)
class Layout:
    """Shape and arrangement of the first image; sizes in pixels unless named otherwise.

    ``planes`` is the band count for planar files and 1 for chunky ones; a plane is a grid of ``down`` x ``across``
    segments, each ``segment_height`` x ``segment_width`` pixels of ``samples`` numbers.
    """

    height: int
    width: int
    bands: int
    dtype: np.dtype[np.generic]  # in the file's byte order
    scheme: int
    predictor: int
    planar: bool
    tiled: bool
    segment_height: int
    segment_width: int
    down: int
    across: int

    @property
    def planes(self) -> int:
        """Number of planes."""
        return self.bands if self.planar else 1

    @property
    def samples(self) -> int:
        """Numbers per pixel in one segment."""
        return 1 if self.planar else self.bands

    @property
    def segments(self) -> int:
        """Number of strips or tiles."""
        return self.planes * self.down * self.across

    @property
    def row_bytes(self) -> int:
        """Length of one row of one segment."""
        return self.segment_width * self.samples * self.dtype.itemsize

    @property
    def raw_bytes(self) -> int:
        """Length of all segments, decoded, with tile padding."""
        rows = self.down * self.segment_height * self.across if self.tiled else self.height
        return self.planes * rows * self.row_bytes

    @property
    def native(self) -> np.dtype[np.generic]:
        """The sample type in little-endian order."""
        return self.dtype.newbyteorder("<")

    def segment_sizes(self) -> npt.NDArray[np.int64]:
        """Length of each segment, decoded; only a plane's last strip may be shorter."""
        sizes = np.full(self.segments, self.segment_height * self.row_bytes, np.int64)
        if not self.tiled:
            rows = self.height - (self.down - 1) * self.segment_height
            sizes[self.down - 1 :: self.down] = rows * self.row_bytes
        return sizes


def parse_layout(directory: Directory, limits: Limits = DEFAULT_LIMITS) -> Layout:
    """Read the arrangement of the pixels out of a directory.

    Raises
    ------
    ImageError
        For damage, for a layout that could not be given back, and for an image over the limits.
    """
    scheme = directory.integer(COMPRESSION, NONE)
    bands = directory.integer(BANDS, 1)
    height, width = directory.integer(HEIGHT, 0), directory.integer(WIDTH, 0)
    if height <= 0 or width <= 0 or bands <= 0:
        raise damaged(f"an image of {bands} bands, {height} rows and {width} columns")
    if bands > LIMIT_BANDS:
        raise unsupported(f"{bands} bands")
    dtype = _parse_dtype(directory, scheme, bands)
    _refuse_unsupported(directory, scheme, dtype)
    tiled = TILE_WIDTH in directory.entries
    if directory.entries.keys() & (STRIP_TAGS if tiled else TILE_TAGS):
        raise unsupported("tags of strips as well as of tiles")  # libtiff takes those that come last
    if tiled:
        segment_height, segment_width = directory.integer(TILE_HEIGHT, 0), directory.integer(TILE_WIDTH, 0)
    else:
        segment_height, segment_width = min(directory.integer(ROWS_PER_STRIP, height), height), width
    if segment_height <= 0 or segment_width <= 0:
        raise damaged(f"strips or tiles of {segment_height} x {segment_width} pixels")
    layout = Layout(
        height=height, width=width, bands=bands, dtype=dtype, scheme=scheme,
        predictor=_parse_predictor(directory, scheme, dtype),
        planar=_parse_planar(directory) and bands > 1, tiled=tiled,
        segment_height=segment_height, segment_width=segment_width,
        down=-(-height // segment_height), across=-(-width // segment_width),
    )  # fmt: skip
    if layout.raw_bytes > limits.image_bytes:
        raise too_large(layout.raw_bytes, limits)
    return layout


def too_large(image_bytes: int, limits: Limits) -> ImageError:
    """Make the error for an image above the limit."""
    return over_limit(f"an image of {image_bytes} bytes, over the limit of {limits.image_bytes}", "image_bytes")


def read_sample_type(directory: Directory) -> tuple[int, int]:
    """Read bits and format (as in the tag) of the samples, which all bands must share."""
    bits, formats = set(directory.whole(BITS)) or {1}, set(directory.whole(SAMPLE_FORMAT)) or {1}
    if len(bits) > 1 or len(formats) > 1:
        raise unsupported("bands of different sample types")
    return bits.pop(), formats.pop()


def name_samples(bits: int, form: int) -> str:
    """Name a sample type."""
    return f"{bits}-bit {FORMATS.get(form, f'format-{form}')} samples"


def name_scheme(scheme: int) -> str:
    """Name a compression."""
    return SCHEMES.get(scheme) or OTHER_SCHEMES.get(scheme) or f"compression {scheme}"


def _parse_dtype(directory: Directory, scheme: int, bands: int) -> np.dtype[np.generic]:
    bits, form = read_sample_type(directory)
    kind = KINDS.get(form)
    if kind is None or bits not in SIZES_BITS[kind]:
        raise unsupported(f"{name_samples(bits, form)}, {name_scheme(scheme)}, {bands} bands")
    return np.dtype(f"{directory.form.order}{kind}{bits // 8}")


def _refuse_unsupported(directory: Directory, scheme: int, dtype: np.dtype[np.generic]) -> None:
    if scheme not in SCHEMES:
        raise unsupported(f"compression {name_scheme(scheme)}")
    bands = directory.integer(BANDS, 1)
    if scheme in LOSSY and bands > LIMIT_GDAL_BANDS:
        raise unsupported(f"{bands} bands, {SCHEMES[scheme]}")
    if directory.integer(FILL_ORDER, 1) != 1:
        raise unsupported("reversed bit order (FillOrder 2)")
    if directory.integer(DEPTH, 1) != 1:
        raise unsupported("volumes (ImageDepth above 1)")
    colours = directory.integer(PHOTOMETRIC, 1)
    kept = (colours == YCBCR and scheme == JPEG) or (colours == CMYK and dtype.itemsize > 1)
    if colours in COLOUR_SPACES and not kept:
        raise unsupported(f"{COLOUR_SPACES[colours]} samples, {SCHEMES[scheme]}")


def _parse_predictor(directory: Directory, scheme: int, dtype: np.dtype[np.generic]) -> int:
    predictor = directory.integer(PREDICTOR, 1)
    if predictor == 1 or scheme in LOSSY:
        return 1
    if scheme not in PREDICTABLE:
        raise unsupported(f"predictor {predictor} on {SCHEMES[scheme]} samples")
    halves = dtype.kind == "c" and dtype.byteorder == ">"  # libtiff swaps the two numbers of a complex one
    if predictor == DIFFERENCES and dtype.itemsize <= LIMIT_DIFFERENCES_BYTES and not halves:
        return predictor
    if predictor == FLOAT_BYTES and dtype.kind == "f":
        return predictor
    raise unsupported(f"predictor {predictor} on {dtype.itemsize * 8}-bit {dtype.name} samples")


def _parse_planar(directory: Directory) -> bool:
    planar = directory.integer(PLANAR, 1)
    if planar not in (CHUNKY, PLANES):
        raise damaged(f"planar configuration {planar}")
    return planar == PLANES
