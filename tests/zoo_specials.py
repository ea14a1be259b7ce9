"""The special layouts of the catalogue, one by one: what only some writers write, and what only some readers read."""

from __future__ import annotations

import io
import itertools
import zlib
from functools import partial

import imagecodecs
import numpy as np
import rasterio
import tifffile
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from tests.tiff_bytes import Page, float24, image, pack_bits, reverse_bits, tiff
from tests.zoo import (
    DECODED,
    EQUIVALENT,
    EXACT,
    HEIGHT,
    REFUSED,
    WIDTH,
    Entry,
    by_gdal,
    by_tifffile,
    some_pixels,
)

BLOCKS = {"tiled": True, "blockxsize": 16, "blockysize": 16}


def numbers(bits, bands=1, seed=0):
    """Any numbers of so many bits (band, y, x), in the type that GDAL reads them as."""
    dtype = "uint8" if bits <= 8 else "uint16" if bits <= 16 else "uint32"
    return np.random.default_rng(seed).integers(0, 1 << bits, (bands, HEIGHT, WIDTH)).astype(dtype)


def noise(number, seed=0):
    return np.random.default_rng(seed).bytes(number)


def pattern(bands=1, top=1):
    """A black and white pattern."""
    return np.tile((np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) // 7 % 2 * top).astype("uint8"), (bands, 1, 1))


def one(segments, *, order="<", big=False, width=WIDTH, height=HEIGHT, **tags):
    """A file of one page by hand."""
    parts = segments if isinstance(segments, list) else [segments]
    return tiff(Page(image(width, height, **tags), parts), order=order, big=big)


def specials():
    """All of them."""
    return itertools.chain.from_iterable(section() for section in SECTIONS.values())


# ------------------------------------------------------------------------------ sample types


def sample_types():
    for bits in (*range(1, 8), *range(9, 16), 17, 20, 24, 31):
        group = f"{'1 to 7' if bits < 8 else '9 to 15' if bits < 16 else '17 to 31'} bits, unsigned"
        pixels, packed = numbers(bits), pack_bits(numbers(bits)[0], bits)
        for order, big in (("<", False), (">", True)):
            right = None if bits == 24 and order == ">" else pixels  # libtiff turns the three bytes round
            yield Entry(
                group, f"{bits} bits {order}", partial(one, packed, bits=bits, order=order, big=big), whole=True,
                tags={"bits": bits, "order": order, "big": big}, pixels=right,
            )  # fmt: skip
        options = (
            [{"compress": s} for s in ("lzw", "deflate", "packbits", "zstd", "lzma")] if bits in (1, 4, 12, 24) else []
        )
        options += (
            [{**BLOCKS, "interleave": "band", "compress": "deflate"}, BLOCKS] if bits in (1, 2, 4, 10, 12) else []
        )
        for option in options:
            pixels = numbers(bits, 3)
            yield Entry(
                group, f"{bits} bits {option}", partial(by_gdal, pixels, NBITS=bits, **option), whole=True,
                tags={"bits": (bits,) * 3}, pixels=pixels,
            )  # fmt: skip
    yield Entry("undefined sample format (4)", "8 bits", partial(one, noise(1920), form=4), tags={"form": 4})
    yield from odd_floats()
    for bits, form in ((1, 2), (4, 2), (12, 2), (24, 2)):
        yield Entry("odd bit depths, signed", f"{bits} bits", partial(one, noise(9000), bits=bits, form=form), REFUSED,
                    tags={"bits": bits, "form": form})  # fmt: skip
    for bits, form in ((12, 4), (40, 1), (128, 1), (128, 3), (16, 5), (32, 6), (48, 6), (8, 7)):
        yield Entry("samples of other sizes and formats", f"{bits} bits, format {form}",
                    partial(one, noise(1920 * 16), bits=bits, form=form), REFUSED,
                    tags={"bits": bits, "form": form})  # fmt: skip
    yield Entry("bands of different types", "bits", partial(one, noise(7680), bands=3, t258=("H", [8, 8, 16])), REFUSED,
                tags={"bits": (8, 8, 16)})  # fmt: skip
    yield Entry("bands of different types", "formats", partial(one, noise(3840), bands=2, t339=("H", [1, 2])), REFUSED,
                tags={"form": (1, 2)})  # fmt: skip


def odd_floats():
    values = np.random.default_rng(3).integers(-999, 999, (1, HEIGHT, WIDTH)).astype("float32") / 8
    for option in ({}, {"compress": "deflate"}, {"compress": "lzw", "predictor": 3}, BLOCKS):
        yield Entry("float16", f"NBITS=16 {option}", partial(by_gdal, values, NBITS=16, **option), pixels=values,
                    tags={"bits": 16, "form": 3})  # fmt: skip
    for order in "<>":
        make = partial(one, float24(values, order), bits=24, form=3, order=order)
        yield Entry("float24", f"uncompressed {order}", make, whole=True, pixels=values, tags={"bits": 24, "form": 3})
        packed = zlib.compress(float24(values, order))
        make = partial(one, packed, bits=24, form=3, order=order, scheme=8)
        yield Entry("float24", f"Deflate {order}", make, whole=True, pixels=values, tags={"bits": 24, "scheme": 8})
    pairs = np.random.default_rng(4).integers(-(2**15), 2**15, (HEIGHT, WIDTH, 2))
    for order, scheme in itertools.product("<>", (1, 8)):
        for bits, kind in ((32, "i2"), (64, "i4")):
            wide = pairs * (1 if bits == 32 else 65_537)
            raw = wide.astype(order + kind).tobytes()
            make = partial(
                one, zlib.compress(raw) if scheme == 8 else raw, bits=bits, form=5, order=order, scheme=scheme
            )
            right = (wide[..., 0] + 1j * wide[..., 1])[None].astype("complex64" if bits == 32 else "complex128")
            yield Entry(f"complex int{bits // 2}", f"scheme {scheme} {order}", make, whole=True, pixels=right,
                        tags={"bits": bits, "form": 5, "scheme": scheme})  # fmt: skip
    make = partial(by_gdal, some_pixels("complex64"), dtype="complex_int16")
    yield Entry("complex int16", "by GDAL", make, whole=True,
                pixels=some_pixels("complex64"), tags={"bits": (32,) * 3, "form": (5,) * 3})  # fmt: skip


# ------------------------------------------------------------------------------ colours


def colours():
    palette = ("H", list(range(0, 65536, 256)) * 3)
    yield Entry("palette", "8 bits", partial(one, noise(1920), colours=3, t320=palette),
                tags={"colours": 3, "palette": True})  # fmt: skip
    make = partial(by_gdal, some_pixels(bands=1), edit=_colour, photometric="PALETTE")
    yield Entry("palette", "8 bits by GDAL", make, tags={"colours": 3, "palette": True})
    for bits in (1, 2, 4):
        pixels = numbers(bits)
        make = partial(one, pack_bits(pixels[0], bits), bits=bits, colours=3, t320=("H", list(range(3 << bits))))
        yield Entry("palette of 1, 2 or 4 bits", f"{bits} bits", make, whole=True, pixels=pixels,
                    tags={"colours": 3, "bits": bits})  # fmt: skip
    yield Entry("MINISWHITE", "8 bits", partial(by_gdal, some_pixels(bands=1), photometric="MINISWHITE"),
                tags={"colours": 0}, pixels=some_pixels(bands=1))  # fmt: skip
    yield Entry("MINISWHITE", "1 bit", partial(by_gdal, pattern(), photometric="MINISWHITE", NBITS=1), whole=True,
                tags={"colours": 0, "bits": 1}, pixels=pattern())  # fmt: skip
    yield Entry("transparency mask as first page", "1 bit", partial(one, noise(240), bits=1, colours=4), whole=True,
                tags={"colours": 4})  # fmt: skip
    for compress in ("none", "deflate", "lzw", "jpeg"):
        make = partial(by_gdal, some_pixels(bands=4), photometric="CMYK", compress=compress)
        yield Entry("CMYK of 8 bits", compress, make, whole=True, tags={"colours": 5})
        make = partial(by_gdal, some_pixels("uint16", 4), photometric="CMYK", compress=compress)
        if compress != "jpeg":
            yield Entry("CMYK of 16 bits", compress, make, tags={"colours": 5}, pixels=some_pixels("uint16", 4))
    for scheme, size in itertools.product((1, 8), ((1, 1), (2, 1), (2, 2))):
        raw = noise(1920 + 2 * 1920 // (size[0] * size[1]))
        make = partial(
            one, zlib.compress(raw) if scheme == 8 else raw, scheme=scheme, colours=6, bands=3, t530=("H", size)
        )
        yield Entry("YCbCr without JPEG", f"{size} scheme {scheme}", make, whole=True,
                    tags={"colours": 6, "scheme": scheme, "subsampling": size})  # fmt: skip
    make = partial(one, [noise(1920, seed) for seed in range(3)], colours=6, bands=3, t530=("H", (1, 1)), t284=("H", 2))
    yield Entry("YCbCr without JPEG", "planar", make, whole=True, tags={"colours": 6, "planar": 2})
    for scheme in (1, 8):
        raw = noise(5760)
        make = partial(one, zlib.compress(raw) if scheme == 8 else raw, scheme=scheme, colours=8, bands=3)
        yield Entry("CIELAB", f"scheme {scheme}", make, whole=True, tags={"colours": 8, "scheme": scheme})
    make = partial(one, noise(11520), bits=16, colours=8, bands=3)
    yield Entry("CIELAB", "16 bits", make, whole=True, tags={"colours": 8, "bits": (16,) * 3})
    make = partial(one, [noise(1920, seed) for seed in range(3)], colours=8, bands=3, t284=("H", 2))
    yield Entry("CIELAB, planar", "8 bits", make, REFUSED, tags={"colours": 8, "planar": 2})
    yield Entry("ICCLAB, ITULAB, CFA", "ICCLAB", partial(one, noise(5760), colours=9, bands=3), tags={"colours": 9})
    yield Entry("ICCLAB, ITULAB, CFA", "ITULAB", partial(one, noise(5760), colours=10, bands=3), tags={"colours": 10})
    yield Entry(
        "ICCLAB, ITULAB, CFA", "CFA", partial(one, noise(3840), colours=32803, bits=16), tags={"colours": 32803}
    )
    for alpha in ("YES", "PREMULTIPLIED", "UNSPECIFIED"):
        make = partial(by_gdal, some_pixels(bands=4), photometric="RGB", ALPHA=alpha, compress="deflate")
        yield Entry(
            "alpha, extra samples", alpha, make, tags={"extra": True, "colours": 2}, pixels=some_pixels(bands=4)
        )
    yield Entry("alpha, extra samples", "4 of 5 bands", partial(by_gdal, some_pixels(bands=5), interleave="band"),
                tags={"extra": (0,) * 4, "bands": 5}, pixels=some_pixels(bands=5))  # fmt: skip


def _colour(dataset):
    dataset.write_colormap(1, {i: (i, 255 - i, 7, 255) for i in range(256)})


# ------------------------------------------------------------------------------ compression


def fax():
    for scheme, code in (("CCITTRLE", 2), ("CCITTFAX3", 3), ("CCITTFAX4", 4)):
        for colour, option in itertools.product(("MINISBLACK", "MINISWHITE"), ({}, {"blockysize": 7}, BLOCKS)):
            make = partial(by_gdal, pattern(), NBITS=1, compress=scheme, photometric=colour, **option)
            yield Entry(f"CCITT ({scheme})", f"{colour} {option}", make, whole=True, pixels=pattern(),
                        tags={"scheme": code, "bits": 1})  # fmt: skip
    for scheme, code in (("CCITTRLE", 2), ("CCITTFAX4", 4)):
        yield Entry(f"CCITT ({scheme})", "FillOrder 2", partial(_turned_fax, scheme), whole=True, pixels=pattern(),
                    tags={"scheme": code, "fill_order": 2})  # fmt: skip
    white = b"\x0b\0" * HEIGHT  # the code of 48 white pixels, to the next word
    yield Entry("CCITT (RLE, words)", "white", partial(one, white, bits=1, colours=0, scheme=32771), whole=True,
                tags={"scheme": 32771}, pixels=np.zeros((1, HEIGHT, WIDTH), "uint8"))  # fmt: skip


def _turned_fax(scheme):
    data = by_gdal(pattern(), NBITS=1, compress=scheme, photometric="MINISWHITE", blockysize=HEIGHT)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        begin, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
        segment, code = data[begin : begin + count], int(file.pages[0].compression)
    return one(reverse_bits(segment), bits=1, colours=0, scheme=code, t266=("H", 2))


def other_schemes():
    raw = some_pixels(bands=1).tobytes()
    yield Entry(
        "Deflate with the old tag", "32946", partial(by_tifffile, compression="deflate"), tags={"scheme": 32946}
    )
    packer = zlib.compressobj(3, zlib.DEFLATED, 9, 1, zlib.Z_FIXED)
    packed = packer.compress(raw) + packer.flush()
    yield Entry("lossless, by an encoder that is not known", "Deflate", partial(one, packed, scheme=8), EQUIVALENT,
                tags={"scheme": 8}, pixels=some_pixels(bands=1))  # fmt: skip
    for name, level in (("zstd", 17), ("lzma", 0)):
        make = partial(by_tifffile, compression=name, compressionargs={"level": level})
        yield Entry(
            "lossless, by an encoder that is not known", f"{name} {level}", make, EQUIVALENT, pixels=some_pixels()
        )
    thunder = bytes(0xC0 | int(value) for value in np.random.default_rng(0).integers(0, 16, HEIGHT * WIDTH))
    yield Entry(
        "ThunderScan", "4 bits", partial(one, thunder, bits=4, scheme=32809), whole=True, tags={"scheme": 32809}
    )
    rows = b"".join(b"\0" + noise(WIDTH // 4, row) for row in range(HEIGHT))
    right = np.frombuffer(rows, "u1").reshape(HEIGHT, -1)[:, 1:, None] >> np.array([6, 4, 2, 0], "u1") & 3
    yield Entry("NeXT", "2 bits", partial(one, rows, bits=2, scheme=32766), whole=True, tags={"scheme": 32766},
                pixels=right.reshape(1, HEIGHT, WIDTH))  # fmt: skip
    logs = zlib.compress(np.random.default_rng(0).integers(0, 200, (HEIGHT, WIDTH)).astype("<u2").tobytes())
    for bits, form in ((8, 1), (16, 1), (32, 3)):
        yield Entry("PixarLog", f"{bits} bits", partial(one, logs, bits=bits, form=form, scheme=32909), whole=True,
                    tags={"scheme": 32909, "bits": bits})  # fmt: skip
    yield Entry("PixarLog of 12 bits", "12 bits", partial(one, logs, bits=12, scheme=32909), REFUSED, tags={"bits": 12})
    run = b"".join(b"\x30" + bytes([60 + i % 9 for i in range(48)]) for _ in range(HEIGHT))
    for name, bands, planes, options in (
        ("LogL, 16 bits", 1, 2, {"bits": 16, "form": 2, "colours": 32844}), ("LogL, 8 bits", 1, 2, {"colours": 32844}),
        ("LogLuv, 16 bits", 3, 4, {"bits": 16, "form": 2, "colours": 32845}),
        ("LogLuv, 8 bits", 3, 4, {"colours": 32845}),
        ("LogLuv, floats", 3, 4, {"bits": 32, "form": 3, "colours": 32845}),
    ):  # fmt: skip
        make = partial(one, run * planes, bands=bands, scheme=34676, **options)
        yield Entry("SGI LogL and LogLuv", name, make, whole=True, tags={"scheme": 34676, "bands": bands})
    make = partial(one, bytes(60 + i % 9 for i in range(5760)), bands=3, scheme=34677, colours=32845, bits=16, form=2)
    yield Entry("SGI LogL and LogLuv", "24 bits", make, whole=True, tags={"scheme": 34677})
    refused = {
        "JPEG 2000": "jpeg2000", "JPEG XL": "jpegxl", "JPEG XL (DNG)": "jpegxl_dng", "PNG": "png", "JPEG XR": "jpegxr",
        "lossy DNG JPEG": "jpeg_lossy", "Aperio JPEG 2000": "aperio_jp2000_rgb", "Pixtiff": "pixtiff",
    }  # fmt: skip
    for name, compression in refused.items():
        make = partial(by_tifffile, some_pixels(), photometric="rgb", compression=compression)
        yield Entry("compressions that GDAL lacks here", name, make, REFUSED, tags={"scheme": True})
    for name, code in (("PixarFilm", 32908), ("JBIG", 34661), ("unknown", 999)):
        yield Entry("compressions that GDAL lacks here", name, partial(one, noise(900), scheme=code), REFUSED,
                    tags={"scheme": code})  # fmt: skip


def lossy():
    rgb = some_pixels()
    for option in (
        {}, {"photometric": "YCBCR"}, {"photometric": "YCBCR", **BLOCKS}, {"interleave": "band"}, {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"}, {"JPEG_QUALITY": 30, "JPEGTABLESMODE": 3},
    ):  # fmt: skip
        yield Entry("JPEG", f"3 bands {option}", partial(by_gdal, rgb, compress="jpeg", **option), DECODED,
                    tags={"scheme": 7})  # fmt: skip
    for bands, option in ((1, {}), (2, {}), (4, {"photometric": "RGB"})):
        make = partial(by_gdal, some_pixels(bands=bands), compress="jpeg", **option)
        yield Entry("JPEG", f"{bands} bands {option}", make, DECODED, tags={"scheme": 7, "bands": bands})
    for form in ({}, BLOCKS, {"interleave": "band"}):
        make = partial(by_gdal, numbers(12, 3), NBITS=12, compress="jpeg", **form)
        yield Entry("JPEG of 12 bits", f"by GDAL {form}", make, whole=True, tags={"scheme": 7, "bits": (12,) * 3})
    for dtype in ("uint8", "uint16"):
        make = partial(by_tifffile, some_pixels(dtype, 1), compression="jpeg", compressionargs={"lossless": True})
        yield Entry("lossless JPEG", dtype, make, REFUSED, tags={"scheme": 7})
    for subsampling in ((1, 1), (2, 2)):
        yield Entry("old-style JPEG", f"{subsampling}", partial(_old_jpeg, subsampling), whole=True,
                    tags={"scheme": 6, "colours": 6})  # fmt: skip
    for option in ({}, {"WEBP_LOSSLESS": "YES"}, BLOCKS):
        yield Entry(
            "WebP", f"{option}", partial(by_gdal, rgb, compress="webp", **option), DECODED, tags={"scheme": 50001}
        )
    yield Entry(
        "WebP", "4 bands", partial(by_gdal, some_pixels(bands=4), compress="webp"), DECODED, tags={"scheme": 50001}
    )
    for dtype in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"):
        for compress in ("lerc", "lerc_deflate", "lerc_zstd"):
            make = partial(by_gdal, some_pixels(dtype), compress=compress, MAX_Z_ERROR=2)
            yield Entry("LERC", f"{dtype} {compress}", make, DECODED, tags={"scheme": 34887})
    make = partial(by_gdal, some_pixels(bands=1), edit=_colour, compress="lerc", photometric="PALETTE")
    yield Entry("LERC", "palette", make, DECODED, tags={"scheme": 34887, "colours": 3})


def _old_jpeg(subsampling):
    chunky = np.ascontiguousarray(np.moveaxis(some_pixels(), 0, -1))
    jpeg = bytes(imagecodecs.jpeg8_encode(chunky, subsampling="444" if subsampling == (1, 1) else "420"))
    return one(
        jpeg, scheme=6, colours=6, bands=3, t512=("H", 1), t513=("I", 8), t514=("I", len(jpeg)), t530=("H", subsampling)
    )


# ------------------------------------------------------------------------------ arrangement


def arrangements():
    pixels = some_pixels(bands=1)
    rows = [row.tobytes() for row in pixels[0].reshape(4, 10, WIDTH)]
    yield Entry("strips", "one row each", partial(by_gdal, blockysize=1, compress="deflate"), pixels=some_pixels())
    yield Entry("strips", "turned round", partial(_strips, rows[::-1], [3, 2, 1, 0]), pixels=pixels)
    yield Entry(
        "strips", "gaps between", partial(_strips, [row + b"more" for row in rows], [0, 1, 2, 3]), pixels=pixels
    )
    yield Entry("strips", "without StripByteCounts", partial(_without_counts, pixels), pixels=pixels)
    make = partial(_strips, rows[:1], [0, 0, 0, 0])
    yield Entry("strips and tiles that share their bytes", "strips", make, whole=True,
                pixels=np.tile(pixels[:, :10], (1, 4, 1)))  # fmt: skip
    tiles = [tile.tobytes() for tile in pixels[0].reshape(2, 20, 2, 24).transpose(0, 2, 1, 3).reshape(4, 20, 24)]
    make = partial(one, tiles, tile=(24, 20))
    yield Entry("tiles of other sizes than multiples of 16", "24 x 20", make, pixels=pixels, tags={"tile_width": 24})
    make = partial(by_gdal, tiled=True, blockxsize=128, blockysize=128, compress="lzw")
    yield Entry("tiles larger than the image", "128 x 128", make, pixels=some_pixels(), tags={"tile_width": 128})
    for option in ({}, {"compress": "deflate"}, {"nodata": 9}):
        make = partial(
            by_gdal, np.pad(some_pixels(bands=2, height=16, width=16), 16), SPARSE_OK=True, **BLOCKS, **option
        )
        yield Entry("sparse strips and tiles", f"{option}", make, tags={"tile_width": 16})
    yield Entry(
        "sparse strips and tiles", "none there", partial(by_gdal, pixels * 0, SPARSE_OK=True), pixels=pixels * 0
    )
    make = partial(by_gdal, pixels * 0, SPARSE_OK=True, edit=lambda file: file.update_tags(A="b"), nodata=3)
    yield Entry("sparse strips and tiles", "none there, nodata", make, tags={"nodata": "3"})
    for bits, raw in ((8, pixels.tobytes()), (16, pixels.astype("<u2").tobytes()), (1, pack_bits(pattern()[0], 1))):
        right = pattern() if bits == 1 else pixels.astype(f"u{bits // 8}")
        make = partial(one, reverse_bits(raw), bits=bits, t266=("H", 2))
        yield Entry("FillOrder 2", f"{bits} bits", make, whole=True, pixels=right, tags={"fill_order": 2, "bits": bits})
    make = partial(one, reverse_bits(zlib.compress(pixels.tobytes())), scheme=8, t266=("H", 2))
    yield Entry("FillOrder 2", "Deflate", make, whole=True, tags={"fill_order": 2, "scheme": 8})
    yield Entry("predictor on uncompressed samples", "2", partial(one, pixels.tobytes(), t317=("H", 2)), whole=True,
                tags={"predictor": 2}, pixels=pixels)  # fmt: skip
    for name, options in {
        "predictor 2 on complex numbers": {"bits": 128, "form": 6, "t317": ("H", 2)},
        "predictor 2 on 12 bits": {"bits": 12, "t317": ("H", 2)}, "predictor 9": {"t317": ("H", 9)},
    }.items():  # fmt: skip
        make = partial(one, zlib.compress(noise(1920 * 16)), scheme=8, **options)
        yield Entry("predictors that GDAL lacks", name, make, REFUSED, tags={"predictor": True})
    yield Entry("volumes (ImageDepth)", "2 slices", partial(one, noise(3840), t32997=("H", 2)), REFUSED)
    big = some_pixels("uint16", 3, 150, 140)
    for compress in ("none", "deflate", "lzw"):
        make = partial(by_gdal, big, driver="COG", blocksize=128, compress=compress)
        yield Entry("cloud-optimised", compress, make, tags={"tile_width": 128, "pages": 2}, pixels=big)
    make = partial(by_gdal, big, driver="COG", blocksize=128, compress="zstd", level=17)
    yield Entry("cloud-optimised", "Zstandard 17", make, EQUIVALENT, tags={"tile_width": 128, "pages": 2}, pixels=big)


def _strips(parts, turns):
    """Strips of ten rows, the n-th where the n-th turn says."""
    places = np.cumsum([8, *map(len, parts)])
    tags = image(WIDTH, HEIGHT, t278=("H", 10)) | {
        273: ("I", [int(places[i]) for i in turns]), 279: ("I", [len(parts[i]) for i in turns]),
    }  # fmt: skip
    return tiff(Page(tags, [b"".join(parts)]))


def _without_counts(pixels):
    data = tiff(Page(image(WIDTH, HEIGHT) | {279: ("I", [0])}, [pixels.tobytes()]))
    entry = b"\x17\x01\x04\0"  # tag 279; 65279 is a private one, but tags must ascend: it is the last
    assert data.count(entry) == 1
    place = data.index(entry)
    last = data.index(b"\x53\x01\x03\0")
    moved = data[place + 12 : last + 12] + b"\xff\xfe" + data[place + 2 : place + 12]
    return data[:place] + moved + data[last + 12 :]


# ------------------------------------------------------------------------------ all else in a file


#: Ways in which a file comes back: outcome, compression, and how GDAL is told.
WAYS = {
    "uncompressed": (EXACT, 1, {}), "Deflate": (EXACT, 8, {"compress": "deflate"}),
    "LZW": (EXACT, 5, {"compress": "lzw"}), "Zstandard 17": (EQUIVALENT, 50000, {"compress": "zstd", "ZSTD_LEVEL": 17}),
    "JPEG": (DECODED, 7, {"compress": "jpeg"}), "LERC": (DECODED, 34887, {"compress": "lerc"}),
}  # fmt: skip


def surroundings():
    for name, (outcome, scheme, how) in WAYS.items():
        for place, (options, edit, tags) in _whereabouts().items():
            make = partial(by_gdal, edit=edit, **how, **options)
            yield Entry("georeferencing", f"{place}, {name}", make, outcome, tags=tags | {"scheme": scheme})
        for belonging, (pixels, options, edit, tags) in _belongings().items():
            if name != "JPEG" or (pixels.dtype == "uint8" and len(pixels) == 3):
                make = partial(by_gdal, pixels, edit=edit, **how, **options)
                yield Entry(belonging, name, make, outcome, tags=tags | {"scheme": scheme})
    for order, big in itertools.product("<>", (False, True)):
        make = partial(_pages, order, big)
        yield Entry("several pages, SubIFDs, EXIF", f"{order} {big}", make, pixels=some_pixels(bands=1),
                    tags={"pages": 3, "subifds": True, "exif": True, "order": order, "big": big})  # fmt: skip
    for turn in range(2, 9):
        make = partial(by_tifffile, extratags=[(274, 3, 1, turn, True)])
        yield Entry("orientation 2 to 8", f"{turn}", make, tags={"orientation": turn}, pixels=some_pixels())
    make = partial(one, some_pixels(bands=1).tobytes(), t65000=(99, b"ab"), t65001=("d", [1.5, -2]))
    yield Entry("private tags, unknown types", "65000", make, pixels=some_pixels(bands=1))


def _whereabouts():
    points = [GroundControlPoint(row, col, 10 + col, 20 - row) for row, col in [(0, 0), (0, 4), (3, 0), (3, 4)]]
    rpc = RPC(
        height_off=1, height_scale=2, lat_off=3, lat_scale=4, line_den_coeff=[1.0] * 20, line_num_coeff=[2.0] * 20,
        line_off=5, line_scale=6, long_off=7, long_scale=8, samp_den_coeff=[3.0] * 20, samp_num_coeff=[4.0] * 20,
        samp_off=9, samp_scale=10, err_bias=None, err_rand=None,
    )  # fmt: skip
    turned = rasterio.Affine(0.5, 0.2, 7, 0.1, -0.5, 8)

    def point(file):
        file.update_tags(AREA_OR_POINT="Point")

    def give_rpc(file):
        file.rpcs = rpc

    return {
        "control points": (
            {"gcps": points, "crs": "EPSG:4326", "transform": None},
            None,
            {"ties": True, "matrix": None},
        ),
        "RPCs": ({}, give_rpc, {"rpc": True}),
        "rotated": ({"transform": turned}, None, {"matrix": True}),
        "PixelIsPoint": ({}, point, {"keys": True}),
        "local CRS": ({"crs": 'LOCAL_CS["arbitrary",UNIT["metre",1]]'}, None, {"keys": True}),
        "custom CRS": ({"crs": "+proj=laea +lat_0=10 +lon_0=-81 +ellps=WGS84 +units=m"}, None, {"keys": True}),
        "compound CRS": ({"crs": "EPSG:32616+5773", "GEOTIFF_VERSION": "1.1"}, None, {"keys": True}),
        "ESRI's flavour": ({"crs": "EPSG:32616", "GEOTIFF_KEYS_FLAVOR": "ESRI_PE"}, None, {"keys": True}),
        "no CRS": ({"crs": None}, None, {"keys": None}),
    }


def _belongings():
    one_band, big = some_pixels(bands=1), some_pixels(bands=3, height=150, width=140)

    def describe(file):
        file.update_tags(KEY="välue", TIFFTAG_DATETIME="2019:06:01 00:00:00")
        file.update_tags(1, BAND="one")
        file.scales, file.offsets, file.units = (2.0,) * 3, (1.0,) * 3, ("m",) * 3
        file.set_band_description(1, "red")

    floats = some_pixels("float32")
    return {
        "colour map": (one_band, {"photometric": "PALETTE"}, _colour, {"palette": True, "colours": 3}),
        "internal mask": (big, {}, lambda file: file.write_mask(big[0] > 50), {"pages": 2}),
        "overviews": (big, BLOCKS, lambda file: file.build_overviews([2, 4]), {"pages": 3}),
        "GDAL metadata": (some_pixels(), {}, describe, {"gdal": True}),
        "nodata": (some_pixels(), {"nodata": 7}, None, {"nodata": "7"}),
        "nodata NaN": (floats, {"nodata": float("nan")}, None, {"nodata": "nan"}),
        "nodata -Inf": (floats, {"nodata": float("-inf")}, None, {"nodata": "-inf"}),
    }


def _pages(order, big):
    exif = Page({36867: ("text", "2019:06:01 00:00:00")}, [])
    half = Page(image(24, 20, t254=("I", 1)), [some_pixels(bands=1, height=20, width=24).tobytes()])
    below = {330: [half, half], 34665: [exif]}
    first = Page(image(WIDTH, HEIGHT), [some_pixels(bands=1).tobytes()], below)
    other = Page(image(30, 5, bits=16, scheme=8), [zlib.compress(noise(300))])
    fax_page = Page(image(WIDTH, HEIGHT, bits=1), [pack_bits(pattern()[0], 1)])
    return tiff(first, other, fax_page, order=order, big=big)


SECTIONS = {
    "Samples": sample_types, "Colours": colours, "Fax": fax, "Other lossless compression": other_schemes,
    "Lossy compression": lossy, "Arrangement": arrangements, "All else in a file": surroundings,
}  # fmt: skip
