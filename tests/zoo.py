"""Every TIFF layout at hand: how it is written, what its tags must then say, and what is to become of it.

The sweep runs through sample types, schemes, predictors, interleaving, tiling, byte orders and BigTIFF with two
writers; the specials are written one by one, in `tests/zoo_specials.py`.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import rasterio
import tifffile

from tests.tiff_bytes import read_tags

EXACT, EQUIVALENT, DECODED, REFUSED = "exact", "equivalent", "decoded", "refused"
HEIGHT, WIDTH = 40, 48
SHOWN = 9  # more numbers than that are only told to be there
AFFINE = rasterio.Affine(0.5, 0, 100, 0, -0.5, 200)

#: Tags by the names that the catalogue uses.
TAGS = {
    "bits": 258, "scheme": 259, "colours": 262, "fill_order": 266, "orientation": 274, "bands": 277, "planar": 284,
    "t4": 292, "predictor": 317, "palette": 320, "tile_width": 322, "subifds": 330, "extra": 338, "form": 339,
    "subsampling": 530, "exif": 34665, "ties": 33922, "matrix": 34264, "keys": 34735, "gdal": 42112, "nodata": 42113,
    "rpc": 50844,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A layout: its row in docs/tiff.md, its variant, how to make it, what its tags say, what becomes of it.

    ``whole`` tells that the file is kept whole beside its pixels; ``pixels`` are what must be read where they are known
    from elsewhere than GDAL.
    """

    group: str
    name: str
    make: object = field(repr=False)
    outcome: str = EXACT
    tags: dict = field(default_factory=dict)
    whole: bool = False
    pixels: object = field(default=None, repr=False)

    def build(self):
        """The file, once its tags are seen to say what the entry's name says."""
        data = self.make()
        found = tags_of(data)
        for name, value in self.tags.items():
            told = found.get(name)
            right = told is not None if value is True else told is None if value is None else told == value
            assert right, f"{self.group}, {self.name}: {name} is {told}, not {value}"
        return data


def tags_of(data):
    """The first page's tags by name: a number, a tuple, a text, or True where there is more."""
    order, big, pages, tags = read_tags(data)
    found = {"order": order, "big": big, "pages": pages}
    for name, code in TAGS.items():
        if code in tags:
            value = tags[code] if tags[code] and len(tags[code]) < SHOWN else True
            value = value[0] if value is not True and len(value) == 1 else value
            found[name] = value.rstrip(b"\0 ").decode("latin-1") if isinstance(value, bytes) else value
    return found


def some_pixels(dtype="uint8", bands=3, height=HEIGHT, width=WIDTH, seed=0):
    """Smooth in part and noisy in part (band, y, x)."""
    rng = np.random.default_rng(seed)
    pixels = (
        rng.integers(0, 100, (bands, height, width)) + np.arange(width) // 5 * 7 - 3 * (np.dtype(dtype).kind != "u")
    )
    pixels[:, : height // 3] = 7
    return pixels.astype(dtype) * (1 + 2j if np.dtype(dtype).kind == "c" else 1)


def by_gdal(pixels=None, *, edit=None, driver="GTiff", **options):
    """A file that GDAL writes; ``edit`` does more to the open dataset."""
    pixels = some_pixels() if pixels is None else pixels
    profile = {
        "count": pixels.shape[0],
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype.name,
    }
    profile |= {"transform": AFFINE, "crs": "EPSG:32616"} | options
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as memory:
        with memory.open(driver=driver, **profile) as dataset:
            dataset.write(pixels)
            if edit:
                edit(dataset)
        return memory.read()


def by_tifffile(pixels=None, *, planar=False, **options):
    """A file that tifffile writes; bands are samples, never pages."""
    out, pixels = io.BytesIO(), some_pixels() if pixels is None else pixels
    array = pixels if planar else np.ascontiguousarray(np.moveaxis(pixels, 0, -1))
    how = {"photometric": "minisblack", "planarconfig": "separate" if planar else "contig"}
    if len(pixels) == 1:
        array, how = pixels[0], {"photometric": "minisblack"}
    tifffile.imwrite(out, array, metadata=None, software=False, **(how | options))
    return out.getvalue()


# ------------------------------------------------------------------------------ the sweep

TYPES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
SCHEMES = {"none": 1, "lzw": 5, "deflate": 8, "packbits": 32773, "zstd": 50000, "lzma": 34925}
FORMS = list(itertools.product([False, True], [False, True], "<>", [False, True]))  # planar, tiled, order, BigTIFF
FORMS_EACH = 5  # no divisor of 16: types, schemes and writers meet all of them in turn


def predictors_of(dtype, scheme):
    """The predictors that libtiff knows for a sample type."""
    kind, size = np.dtype(dtype).kind, np.dtype(dtype).itemsize
    if scheme in ("none", "packbits") or kind == "c":
        return [1]
    return [1, 3] if kind == "f" else [1, 2] if size <= 8 else [1]


def sweep():
    """Types x schemes x predictors x writers; the forms take turns, so that each scheme meets every form."""
    turns = itertools.cycle(FORMS)
    for scheme, dtype in itertools.product(SCHEMES, TYPES):
        for predictor, writer in itertools.product(predictors_of(dtype, scheme), (_swept_gdal, _swept_tifffile)):
            if writer is _swept_gdal and (dtype == "float16" or (scheme == "lzma" and predictor > 1)):
                continue  # GDAL 3.10 has no such type (NBITS=16 is among the specials), and leaves the predictor out
            for planar, tiled, order, big in itertools.islice(turns, FORMS_EACH):
                form = f"{'planar' if planar else 'chunky'} {'tiles' if tiled else 'strips'} {order} {'big' * big}"
                tags = {
                    "scheme": SCHEMES[scheme], "order": order, "big": big, "planar": 2 if planar else 1,
                    "tile_width": 16 if tiled else None, "bits": (np.dtype(dtype).itemsize * 8,) * 3,
                } | ({"predictor": predictor} if predictor > 1 else {})  # fmt: skip
                yield Entry(
                    group=scheme, name=f"{dtype} predictor {predictor} {form} by {writer.__name__[7:]}",
                    make=partial(writer, dtype, scheme, predictor, planar=planar, tiled=tiled, order=order, big=big),
                    tags=tags,
                )  # fmt: skip


def _swept_gdal(dtype, scheme, predictor, *, planar, tiled, order, big):
    options = {"tiled": True, "blockxsize": 16, "blockysize": 32} if tiled else {"blockysize": 12}
    options |= {"compress": scheme} if scheme != "none" else {}
    options |= {"predictor": predictor} if predictor > 1 else {}
    return by_gdal(
        some_pixels(dtype), interleave="band" if planar else "pixel", BIGTIFF="YES" if big else "NO",
        ENDIANNESS="LITTLE" if order == "<" else "BIG", **options,
    )  # fmt: skip


def _swept_tifffile(dtype, scheme, predictor, *, planar, tiled, order, big):
    options = {"tile": (32, 16)} if tiled else {"rowsperstrip": 12}
    options |= {"compression": "adobe_deflate" if scheme == "deflate" else scheme} if scheme != "none" else {}
    options |= {"predictor": predictor} if predictor > 1 else {}
    return by_tifffile(some_pixels(dtype), planar=planar, byteorder=order, bigtiff=big, **options)
