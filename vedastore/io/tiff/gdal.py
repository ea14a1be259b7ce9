"""What is left to GDAL: lossy pixels, and the exact bytes that GDAL's encoders write. Always driver GTiff, by force."""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vedastore.errors import ImageError
from vedastore.io.tiff.directories import Value, new_tiff, with_changes
from vedastore.io.tiff.layout import SCHEMES, Layout, parse_layout
from vedastore.io.tiff.segments import gather, parse_segments
from vedastore.io.tiff.structure import (
    CLASSIC_HEADER_BYTES,
    DOUBLE,
    Directory,
    damaged,
    read_first_directory,
    unsupported,
)
from vedastore.model import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Bytes = npt.NDArray[np.uint8]

PIXEL_SCALE, TIE_POINTS, MATRIX = 33550, 33922, 34264
#: Tags that say how to decode pixels: those of the layout, options of CCITT, predictor, palette, tiles, lines of CCITT,
#: ink set, extra samples, JPEG tables, old-style JPEG, all on YCbCr, SGI's tags, nodata, LERC parameters.
DECODING = {
    *range(254, 270), *range(273, 285), 292, 293, 317, 320, *range(322, 329), 332, 338, 339, 347, *range(512, 522),
    *range(529, 533), *range(32995, 32999), 37439, 42113, 50674,
}  # fmt: skip
#: Two pixels wide and high: any transform that is not the identity keeps rasterio from warning that there is none.
#: (Warnings cannot be silenced safely beside other threads.)
PLACEHOLDER = (2.0, 2.0, 0.0), (0.0,) * 6

CANNOT = re.compile(r"unsupported|not supported|(can ?not|can't) handle|missing codec", re.IGNORECASE)
MEMORY_FILE = re.compile(r"(/vsimem/[\w-]+/)?[\da-f-]{36}\.tif[:,] ?")

TRUSTED = Limits(image_bytes=1 << 62, image_trusted_bytes=1 << 62)  # for files that were made here


@contextmanager
def open_tiff(data: bytes, what: str) -> Iterator[Any]:
    """Open a TIFF in memory with rasterio, with the GTiff driver only; every failure becomes an ImageError.

    It is a refusal of the layout where GDAL itself says that it cannot do such a thing, else the file is damaged.
    """
    import rasterio
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    try:
        with rasterio.MemoryFile(data) as memory, memory.open(driver="GTiff") as dataset:
            yield dataset
    except (RasterioError, CPLE_BaseError, OSError, ValueError, TypeError) as error:
        reason = _reason(error)
        refuse = unsupported if CANNOT.search(reason) else damaged
        raise refuse(f"{what} cannot be read by GDAL ({reason})") from None


def _reason(error: BaseException) -> str:
    """Say what GDAL said first, without the name of the file in memory."""
    while error.__cause__ is not None:
        error = error.__cause__
    return MEMORY_FILE.sub("", str(error)).rstrip(".")


def placeholder(order: str) -> dict[int, Value | None]:
    """Make tags of a georeferencing that means nothing, for a file that is to be opened by rasterio."""
    scale, tie = (np.array(numbers, f"{order}f8").tobytes() for numbers in PLACEHOLDER)
    return {PIXEL_SCALE: Value(DOUBLE, 3, scale), TIE_POINTS: Value(DOUBLE, 6, tie), MATRIX: None}


def bare(data: bytes, directory: Directory) -> bytes:
    """Leave out what GDAL need not see in order to decode: texts, georeferencing, other pages."""
    changes: dict[int, Value | None] = dict.fromkeys(directory.entries.keys() - DECODING)
    return with_changes(data, replace(directory, next_offset=0), changes | placeholder(directory.form.order))


def read_lossy(data: bytes, directory: Directory, layout: Layout) -> npt.NDArray[Any]:
    """Decode the first image with GDAL; (band, y, x). Its shape and type must be those that the tags say."""
    scheme = SCHEMES[layout.scheme]
    with open_tiff(bare(data, directory), f"the {scheme} image") as dataset:
        shape = dataset.count, dataset.height, dataset.width
        dtypes = set(dataset.dtypes)
        if shape != (layout.bands, layout.height, layout.width) or dtypes != {layout.native.name}:
            raise unsupported(f"GDAL reads {shape} of {sorted(dtypes)} where the tags say otherwise ({scheme})")
        pixels: npt.NDArray[Any] = dataset.read()
    return np.require(pixels, layout.native, ["C", "A"])


def encode_with_gdal(raws: Sequence[Bytes], row_bytes: int, scheme: str) -> list[bytes]:
    """Encode opaque segments with GDAL's own libtiff, through a TIFF in memory that has each as one strip."""
    encoded = [b""] * len(raws)
    for members in _groups([raw.size for raw in raws]):
        rows = np.concatenate([raws[i] for i in members]).reshape(1, -1, row_bytes)
        strip_rows = raws[members[0]].size // row_bytes
        for index, segment in zip(members, _encode_strips(rows, strip_rows, scheme), strict=True):
            encoded[index] = segment
    return encoded


def decode_with_gdal(stored: Sequence[Bytes], sizes: Sequence[int], row_bytes: int, scheme: int) -> list[Bytes]:
    """Decode opaque segments of known decoded sizes with GDAL's own libtiff; the inverse of `encode_with_gdal`."""
    decoded: list[Bytes] = [np.empty(0, np.uint8)] * len(stored)
    for members in _groups(sizes):
        counts = np.array([stored[i].size for i in members])
        total = sum(sizes[i] for i in members)
        tags = {
            256: row_bytes, 257: total // row_bytes, 258: 8, 259: scheme, 262: 1, 277: 1,
            273: CLASSIC_HEADER_BYTES + np.cumsum(counts) - counts, 278: sizes[members[0]] // row_bytes, 279: counts,
        }  # fmt: skip
        body = b"".join(stored[i].tobytes() for i in members)
        with open_tiff(new_tiff("<", body, tags | placeholder("<")), f"a {SCHEMES[scheme]} segment") as dataset:
            raw = dataset.read(1).reshape(-1)
        ends = np.cumsum([sizes[i] for i in members]).tolist()
        for index, end in zip(members, ends, strict=True):
            decoded[index] = raw[end - sizes[index] : end]
    return decoded


def _groups(sizes: Sequence[int]) -> list[list[int]]:
    """Group segments into as few images of equal strips as possible; an image's last strip may be shorter.

    Examples
    --------
    >>> _groups([8, 8, 5])
    [[0, 1, 2]]
    >>> _groups([8, 5, 8, 5, 8, 5])
    [[0, 2, 4, 1], [3, 5]]
    """
    equal: dict[int, list[int]] = defaultdict(list)
    for index, size in enumerate(sizes):
        equal[size].append(index)
    groups = [equal[size] for size in sorted(equal, reverse=True)]
    for longer, shorter in pairwise(groups):
        longer.append(shorter.pop(0))
    return [group for group in groups if group]


def _encode_strips(rows: Bytes, strip_rows: int, scheme: str) -> list[bytes]:
    import rasterio
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": 1, "height": rows.shape[1], "width": rows.shape[2],
        "blockysize": strip_rows, "compress": scheme, "transform": rasterio.Affine(2, 0, 0, 0, -2, 0),
    }  # fmt: skip
    try:
        with rasterio.MemoryFile() as memory:
            with memory.open(**profile) as dataset:
                dataset.write(rows)
            data = memory.read()
    except (RasterioError, CPLE_BaseError, OSError, ValueError) as error:
        raise ImageError(f"GDAL could not encode {scheme} segments ({error})") from None
    directory = read_first_directory(data)
    segments = parse_segments(directory, parse_layout(directory, TRUSTED), TRUSTED)
    strips = np.frombuffer(data, np.uint8)
    return [gather(strips, segments, i).tobytes() for i in range(segments.stored.size)]
