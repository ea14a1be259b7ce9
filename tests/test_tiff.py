"""TIFF bytes <-> pixels and envelope. Referees: rasterio and tifffile, as writers and as readers."""

from __future__ import annotations

import contextlib
import io
import itertools
import lzma
import os
import pathlib
import struct
import tarfile
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import read_tiff
from tests.tiff_bytes import Page, image
from tests.tiff_bytes import tiff as tiff_bytes
from vedastore.errors import ImageError
from vedastore.io import tiff
from vedastore.io.tiff.codecs import DEFLATERS, ENCODERS
from vedastore.io.tiff.directories import Value, with_changes
from vedastore.io.tiff.image import parse_image
from vedastore.io.tiff.layout import DEFLATE
from vedastore.io.tiff.structure import read_first_directory
from vedastore.model import Limits

DATA = pathlib.Path(os.environ.get("VEDASTORE_DATA", pathlib.Path(__file__).resolve().parents[2] / "shared/data"))
DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8", "c16"]
SCHEMES = ["none", "lzw", "deflate", "packbits", "zstd", "lzma"]
AFFINE = rasterio.Affine(0.5, 0, 100, 0, -0.5, 200)
PLACES = {273, 279, 324, 325}


def some_pixels(dtype="u1", bands=3, height=37, width=23, seed=0):
    """Smooth in part and noisy in part, so that every scheme has something to do."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 100, (bands, height, width)) + np.arange(width) // 5 * 7
    pixels[:, : height // 3] = 7
    return pixels.astype(dtype)


def parse(data):
    return parse_image(read_first_directory(data))


def write_rasterio(pixels, *, tags=None, nodata=None, crs="EPSG:32616", **options):
    profile = {"count": pixels.shape[0], "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    profile |= {"transform": AFFINE, "crs": crs, "nodata": nodata, **options}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **profile) as dataset:
            dataset.write(pixels)
            dataset.update_tags(**(tags or {}))
        return memory.read()


def read_rasterio(data):
    with rasterio.MemoryFile(data) as memory, memory.open(driver="GTiff") as dataset:
        return dataset.read()


def write_tifffile(pixels, *, planar=False, **options):
    """Bands are samples, never pages."""
    out = io.BytesIO()
    bands = pixels.shape[0]
    if bands == 1:
        array, how = pixels[0], {"photometric": "minisblack"}
    elif planar:
        array, how = pixels, {"photometric": "minisblack", "planarconfig": "separate"}
    else:
        array = np.ascontiguousarray(np.moveaxis(pixels, 0, -1))
        how = {"photometric": "minisblack", "planarconfig": "contig"}
    if pixels.dtype.kind == "c":
        how["photometric"] = "minisblack"
    tifffile.imwrite(out, array, metadata=None, software=False, **(how | options))
    return out.getvalue()


def read_tifffile(data):
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        array = page.asarray()
        if page.samplesperpixel > 1 and page.planarconfig == 1:
            array = np.moveaxis(array, -1, 0)
        return array.reshape(page.samplesperpixel, page.imagelength, page.imagewidth)


def tags_of(data):
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return {t.code: (t.dtype, t.count, str(t.value)) for t in file.pages[0].tags.values() if t.code not in PLACES}


def assert_equal_pixels(one, other):
    assert one.shape == other.shape
    assert one.dtype.newbyteorder("=") == other.dtype.newbyteorder("=")
    assert one.tobytes() == np.ascontiguousarray(other, one.dtype).tobytes()


def assert_comes_back(data, pixels=None):
    """Take apart, put together; whatever the fidelity, the second generation is exact."""
    taken = tiff.decode(data)
    assert taken.pixels.flags.aligned
    assert taken.pixels.dtype.byteorder in "=|<"
    if pixels is not None:
        assert_equal_pixels(taken.pixels, pixels)
    again = tiff.encode(taken.pixels, taken.envelope)
    if taken.fidelity == "exact":
        assert again == data
    elif taken.fidelity == "equivalent":
        assert tiff.differences(data, again) == []
        assert tags_of(again) == tags_of(data)
    if again != data:
        second = tiff.decode(again)
        assert second.fidelity == "exact"
        assert_equal_pixels(second.pixels, taken.pixels)
        assert tiff.encode(second.pixels, second.envelope) == again
        assert (second.crs, second.transform, second.nodata) == (taken.crs, taken.transform, taken.nodata)
    info = tiff.describe(taken.envelope)
    assert info.fidelity == taken.fidelity
    if info.compression == "uncompressed":
        assert taken.fidelity == "exact"
    return taken, again


# ------------------------------------------------------------------------------ what is written


@pytest.mark.parametrize("dtype", DTYPES)
def test_tifffile_uncompressed(dtype):
    forms = itertools.product("<>", [False, True], [None, (16, 32)], [False, True], [1, 2, 5])
    for order, big, tile, planar, bands in forms:
        pixels = some_pixels(dtype, bands)
        how = {"tile": tile} if tile else {"rowsperstrip": 10}
        data = write_tifffile(pixels, byteorder=order, bigtiff=big, planar=planar, **how)
        taken, _ = assert_comes_back(data, pixels)
        assert taken.crs is None
        assert taken.transform is None
        assert_equal_pixels(taken.pixels, read_tifffile(data))


@pytest.mark.parametrize("scheme", SCHEMES[1:])
def test_tifffile_compressed(scheme):
    forms = itertools.product("<>", [None, (16, 32)], [False, True], [1, 3], ["u1", "u2", "i4", "f4", "f2", "u8"])
    for order, tile, planar, bands, dtype in forms:
        predictors = [1, 3] if dtype.startswith("f") else [1, 2]
        for predictor in predictors if scheme != "packbits" else [1]:
            pixels = some_pixels(dtype, bands)
            how = {"tile": tile} if tile else {"rowsperstrip": 10}
            how |= {"compression": scheme, "byteorder": order, "planar": planar}
            data = write_tifffile(pixels, predictor=predictor if predictor > 1 else None, **how)
            assert_comes_back(data, pixels)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rasterio(scheme):
    forms = itertools.product(["pixel", "band"], [{}, {"tiled": True, "blockxsize": 16, "blockysize": 32}], [1, 3, 4])
    for interleave, blocks, bands in forms:
        for dtype, predictor in [("u1", 1), ("u1", 2), ("i2", 2), ("f4", 3), ("f8", 1), ("i1", 1)]:
            pixels = some_pixels(dtype, bands)
            how = {"interleave": interleave, **blocks}
            if scheme != "none":
                how |= {"compress": scheme}
            if scheme not in ("none", "packbits"):
                how |= {"predictor": predictor}
            data = write_rasterio(pixels, **how)
            taken, again = assert_comes_back(data, pixels)
            assert_equal_pixels(read_rasterio(again), pixels)
            assert taken.fidelity == "exact"
            assert taken.crs == "EPSG:32616"
            assert taken.transform == tuple(AFFINE)[:6]


@pytest.mark.parametrize("options", [{"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"}, {"PROFILE": "BASELINE"}, {"NBITS": 8}])
@pytest.mark.parametrize("scheme", ["none", "deflate"])
def test_rasterio_forms(options, scheme):
    pixels = some_pixels()
    assert_comes_back(write_rasterio(pixels, compress=scheme, tags={"A": "b", "C": "ü"}, **options), pixels)


@settings(max_examples=60)
@given(
    dtype=st.sampled_from(DTYPES), bands=st.integers(1, 5), height=st.integers(1, 70), width=st.integers(1, 70),
    order=st.sampled_from("<>"), big=st.booleans(), planar=st.booleans(), scheme=st.sampled_from(SCHEMES),
    tile=st.sampled_from([None, (16, 16), (32, 16), (64, 64)]), rows=st.integers(1, 80), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_layout(*, dtype, bands, height, width, order, big, planar, scheme, tile, rows, seed):
    pixels = some_pixels(dtype, bands, height, width, seed)
    if dtype in ("f4", "f8", "c8", "c16", "f2"):  # any bits at all, signalling NaN included
        pixels = np.frombuffer(np.random.default_rng(seed).bytes(pixels.nbytes), pixels.dtype).reshape(pixels.shape)
    how = {"tile": tile} if tile else {"rowsperstrip": rows}
    how |= {"compression": None if scheme == "none" else scheme, "byteorder": order, "bigtiff": big, "planar": planar}
    assert_comes_back(write_tifffile(pixels, **how), pixels)


def test_everything_else_in_a_file_comes_back():
    pixels = some_pixels("u1", 1)
    colours = {i: (i, 255 - i, 7, 255) for i in range(256)}
    for scheme in ("none", "lzw", "deflate"):
        with rasterio.MemoryFile() as memory:
            profile = {"count": 1, "height": 37, "width": 23, "dtype": "u1", "compress": scheme, "transform": AFFINE}
            with (
                rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
                memory.open(driver="GTiff", nodata=7, crs="EPSG:3857", **profile) as dataset,
            ):
                dataset.write(pixels)
                dataset.write_colormap(1, colours)
                dataset.write_mask(pixels[0] > 50)
                dataset.update_tags(1, NAME="första")
                dataset.build_overviews([2, 4])
            data = memory.read()
        taken, _ = assert_comes_back(data, pixels)
        assert (taken.nodata, taken.crs, taken.fidelity) == ("7", "EPSG:3857", "exact")


def test_first_of_many_pages():
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        for seed, scheme in enumerate([None, "zlib", "lzw"]):
            writer.write(some_pixels(bands=1, seed=seed)[0], compression=scheme, subifds=1 if seed == 0 else None)
            if seed == 0:
                writer.write(some_pixels(bands=1, seed=9)[0, ::2, ::2], subfiletype=1)
    assert_comes_back(out.getvalue(), some_pixels(bands=1))


def test_cloud_optimised():
    pixels = some_pixels("u2", 3, 150, 140)
    with rasterio.MemoryFile() as memory:
        profile = {"count": 3, "height": 150, "width": 140, "dtype": "u2", "crs": "EPSG:4326", "transform": AFFINE}
        with memory.open(driver="COG", blocksize=128, compress="deflate", level=9, **profile) as dataset:
            dataset.write(pixels)
        data = memory.read()
    taken, again = assert_comes_back(data, pixels)
    assert_equal_pixels(read_rasterio(again), pixels)
    assert len(taken.envelope) < len(data)


def test_cloud_optimised_and_compressed_anew(monkeypatch):
    """GDAL's note on the layout is taken back as GDAL itself does it, so that nobody trusts it any more."""
    pixels = some_pixels("u2", 3, 300, 140)
    with rasterio.MemoryFile() as memory:
        profile = {"count": 3, "height": 300, "width": 140, "dtype": "u2", "crs": "EPSG:4326", "transform": AFFINE}
        with memory.open(driver="COG", blocksize=128, compress="lzw", **profile) as dataset:
            dataset.write(pixels)
        data = memory.read()
    monkeypatch.setattr("vedastore.io.isolation._inside", True)  # or else the child would not know of the next line
    monkeypatch.setattr("vedastore.io.tiff.file.find_encoder", lambda *_: None)
    taken = tiff.decode(data)
    again = tiff.encode(taken.pixels, taken.envelope)
    monkeypatch.undo()
    assert taken.fidelity == "equivalent"
    assert tiff.differences(data, again) == []
    assert tiff.decode(again).fidelity == "exact"
    assert b"KNOWN_INCOMPATIBLE_EDITION=NO" in data
    assert b"KNOWN_INCOMPATIBLE_EDITION=NO" not in again
    with rasterio.MemoryFile(again) as memory, memory.open(driver="GTiff") as dataset:
        assert_equal_pixels(dataset.read(), pixels)
        assert dataset.overviews(1)
        assert dataset.read(out_shape=(3, 150, 70)).any()


def test_limits():
    data = write_rasterio(some_pixels(), compress="deflate")
    with pytest.raises(ImageError, match="over the limit of 1000"):
        tiff.decode(data, Limits(image_bytes=1000))
    with pytest.raises(ImageError, match=r"claim to hold|over the limit"):
        tiff.decode(data, Limits(image_trusted_bytes=1, image_expansion=1))


def test_padding_of_tiles_is_kept():
    data = bytearray(write_tifffile(some_pixels(), tile=(16, 16)))
    image = parse(bytes(data))
    end = int(image.segments.offsets[-1] + image.segments.stored[-1])
    data[end - 5 : end] = b"stray"
    taken, _ = assert_comes_back(bytes(data), some_pixels())
    assert tiff.encode(taken.pixels, taken.envelope) == data
    for scheme in ("zlib", "lzw", "zstd"):
        padded = np.arange(32 * 32, dtype="u1").reshape(32, 32)
        whole = write_tifffile(padded[None], tile=(32, 32), compression=scheme)
        cut = change_tags(whole, {256: Value(4, 1, struct.pack("<I", 20)), 257: Value(4, 1, struct.pack("<I", 30))})
        assert_comes_back(cut, padded[None, :30, :20])


def change_tags(data, changes):
    return with_changes(data, read_first_directory(data), changes)


# ------------------------------------------------------------------------------ fidelities


def hand_made(segments, *, scheme=8, width=20, rows=10, order="<", gap=0, behind=b"", extra=None, lengths=None):
    """Strips of ``rows`` rows of a one-band byte image, as given, with gaps between them, before their directory."""
    body, offsets = bytearray(8), []
    for segment in segments:
        offsets.append(len(body) if segment else 0)
        body += segment + b"\xaa" * gap
    body += behind
    number = len(segments)
    body += b"\0" * (-len(body) % 2)
    where = len(body)
    arrays = struct.pack(f"{order}{2 * number}I", *offsets, *(lengths or map(len, segments)))
    tags = {
        256: (3, 1, width), 257: (3, 1, rows * number), 258: (3, 1, 8), 259: (3, 1, scheme), 262: (3, 1, 1),
        273: (4, number, where if number > 1 else offsets[0]), 278: (3, 1, rows),
        279: (4, number, where + 4 * number if number > 1 else struct.unpack_from(f"{order}I", arrays, 4)[0]),
        65000: (4, 1, 123456),
    } | (extra or {})  # fmt: skip
    body += arrays
    first = len(body)
    body += struct.pack(f"{order}H", len(tags))
    for tag, (kind, count, value) in sorted(tags.items()):
        slot = struct.pack(f"{order}I", value) if kind == 4 else struct.pack(f"{order}H2x", value)
        body += struct.pack(f"{order}HHI", tag, kind, count) + slot
    body[:8] = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, first)
    return bytes(body + b"\0\0\0\0")


def strips(number, seed=0):
    return [row.tobytes() for row in some_pixels("u1", 1, 10 * number, 20, seed)[0].reshape(number, 10, 20)]


def deflate_3(raw):
    compressor = zlib.compressobj(3, zlib.DEFLATED, 9, 1, zlib.Z_FIXED)
    return compressor.compress(raw) + compressor.flush()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("gap", [0, 3, 40])
@pytest.mark.parametrize("behind", [b"", b"something else"])
def test_equivalent(order, gap, behind):
    raws = strips(4)
    for size in (1, 4):
        data = hand_made([deflate_3(raw) for raw in raws[:size]], order=order, gap=gap, behind=behind)
        taken, again = assert_comes_back(data)
        assert taken.fidelity == "equivalent"
        assert taken.pixels.tobytes() == b"".join(raws[:size])
        assert_equal_pixels(read_tifffile(again), taken.pixels)
        assert tiff.encode(taken.pixels, taken.envelope) == again


def test_equivalent_where_new_segments_are_longer_or_much_shorter():
    rng = np.random.default_rng(0)
    raw = b"".join(bytes([value]) * 7 for value in rng.integers(0, 255, 1000).tolist())
    xz = lzma_raw(raw)
    stored = zlib.compress(raw, 0)
    tight = bytes(imagecodecs.zopfli_encode(raw)) if imagecodecs.ZOPFLI.available else zlib.compress(raw, 8)
    for scheme, segment in ((34925, xz), (8, stored), (8, tight)):
        assert_comes_back(hand_made([segment, segment], scheme=scheme, width=70, rows=100, behind=b"x" * 9))


def lzma_raw(raw):
    return lzma.compress(raw, lzma.FORMAT_XZ, lzma.CHECK_CRC64, preset=9 | lzma.PRESET_EXTREME)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_equivalent_keeps_pages_and_long_values(big, order):
    out = io.BytesIO()
    with tifffile.TiffWriter(out, bigtiff=big, byteorder=order) as writer:
        for seed in range(2):
            writer.write(
                some_pixels("u2", 1, seed=seed)[0], compression="zstd", compressionargs={"level": 17}, tile=(16, 16),
                predictor=2, metadata=None, description="a description that lies outside its entry",
            )  # fmt: skip
    data = out.getvalue()
    taken, again = assert_comes_back(data, some_pixels("u2", 1))
    assert taken.fidelity == "equivalent"
    with tifffile.TiffFile(io.BytesIO(again)) as file:
        assert len(file.pages) == 2
        assert_equal_pixels(file.pages[1].asarray(), some_pixels("u2", 1, seed=1)[0])


@pytest.mark.parametrize("level", range(1, 13))
def test_every_level_of_gdal_is_known(level):
    """By libdeflate itself, and by what its streams begin with: no other process, no GDAL."""
    taken, _ = assert_comes_back(write_rasterio(some_pixels("u1", 3, 64, 50), compress="deflate", ZLEVEL=level))
    assert taken.fidelity == "exact"
    assert tiff.describe(taken.envelope).encoder.startswith("libdeflate-")


@pytest.mark.parametrize("name", [name for name in ENCODERS[DEFLATE] if name != "gdal"])
def test_a_deflate_encoder_begins_as_it_is_said_to(name):
    layout = parse(write_rasterio(some_pixels())).layout
    (header,) = (header for header, names in DEFLATERS.items() if name in names)
    for size in (1, 1000, 100_000):
        raw = np.random.default_rng(size).integers(0, 9, size).astype("u1")
        (encoded,) = ENCODERS[DEFLATE][name]([raw], layout)
        assert encoded.startswith(header)
        assert zlib.decompress(encoded) == raw.tobytes()


@pytest.mark.parametrize("scheme", ["deflate", "zstd"])
def test_a_segment_that_holds_more_or_less_than_its_pixels(scheme):
    pack = zlib.compress if scheme == "deflate" else imagecodecs.zstd_encode
    for size in (0, 99, 101, 1 << 26):
        data = tiff_bytes(Page(image(10, 10, scheme={"deflate": 8, "zstd": 50000}[scheme]), [pack(bytes(size))]))
        with pytest.raises(ImageError, match=r"more or fewer bytes|does not decode"):
            tiff.decode(data)


def test_another_library_version_falls_back_to_equivalent(monkeypatch):
    data = write_rasterio(some_pixels(), compress="zstd")
    taken = tiff.decode(data)
    assert taken.fidelity == "exact"
    from vedastore.io.tiff import codecs

    name = tiff.describe(taken.envelope).encoder
    monkeypatch.setitem(codecs.ENCODERS[codecs.ZSTD], name, codecs.ENCODERS[codecs.ZSTD]["zstd-1-sized"])
    again = tiff.encode(taken.pixels, taken.envelope)
    assert again != data
    assert tiff.differences(data, again) == []
    assert_equal_pixels(read_rasterio(again), taken.pixels)


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "jpeg"}, {"compress": "jpeg", "photometric": "ycbcr"}, {"compress": "webp"}, {"compress": "lerc"},
        {"compress": "jpeg", "photometric": "ycbcr", "tiled": True, "blockxsize": 16, "blockysize": 16},
        {"compress": "lerc_zstd", "max_z_error": 2}, {"compress": "jpeg", "interleave": "band"},
        {"compress": "jpeg", "BIGTIFF": "YES"}, {"compress": "lerc", "ENDIANNESS": "BIG", "nodata": 3},
    ],
)  # fmt: skip
def test_decoded(options):
    data = write_rasterio(some_pixels(), tags={"KEPT": "yes"}, **options)
    taken, again = assert_comes_back(data, read_rasterio(data))
    assert taken.fidelity == "decoded"
    assert_equal_pixels(read_rasterio(again), taken.pixels)
    assert_equal_pixels(read_tifffile(again), taken.pixels)
    with rasterio.MemoryFile(again) as memory, memory.open(driver="GTiff") as dataset:
        assert dataset.tags()["KEPT"] == "yes"
        assert dataset.profile["compress"] == "deflate"
        assert dataset.transform == AFFINE
    assert "tag 259" in " ".join(tiff.differences(data, again))


def test_lossy_without_georeferencing_warns_of_nothing():
    out = io.BytesIO()
    tifffile.imwrite(out, some_pixels(bands=1)[0], compression="jpeg", metadata=None)
    taken, _ = assert_comes_back(out.getvalue())
    assert (taken.fidelity, taken.crs, taken.transform) == ("decoded", None, None)


# ------------------------------------------------------------------------------ sparse


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "f4", "f8"])
@pytest.mark.parametrize("scheme", ["none", "deflate", "lzw"])
@pytest.mark.parametrize("nodata", [None, 7, 3])
def test_sparse(dtype, scheme, nodata):
    pixels = np.full((2, 40, 40), nodata or 0, dtype)
    pixels[:, 20:25, 2:9] = 5
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16, "SPARSE_OK": True}
    data = write_rasterio(pixels, compress=scheme, nodata=nodata, **blocks)
    assert parse(data).segments.sparse
    taken, _ = assert_comes_back(data, read_rasterio(data))
    changed = taken.pixels.copy()
    changed[0, 0, 0] = 1
    with pytest.raises(ImageError, match="does not have"):
        tiff.encode(changed, taken.envelope)


@pytest.mark.parametrize("nodata", ["-9999", "300", "2.5", "-2.5", "1e30", "nan", "-inf", " 7 "])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u4", "f4"])
def test_sparse_nodata_reads_as_gdal_reads_it(nodata, dtype):
    pixels = np.zeros((1, 40, 40), dtype)
    pixels[0, 0, 0] = 5
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16, "SPARSE_OK": True}
    text = nodata.encode() + b"\0"
    data = change_tags(write_rasterio(pixels, **blocks), {42113: Value(2, len(text), text)})
    assert_comes_back(data, read_rasterio(data))


def test_wholly_sparse():
    data = write_rasterio(np.zeros((1, 8, 8), "u1"), SPARSE_OK=True, compress="deflate")
    assert_comes_back(data, np.zeros((1, 8, 8), "u1"))


# ------------------------------------------------------------------------------ odd but sound


def test_strip_lengths():
    raws = strips(3)
    longer = [raw + b"more" for raw in raws]
    assert_comes_back(hand_made(longer, scheme=1), np.frombuffer(b"".join(raws), "u1").reshape(1, 30, 20))
    with pytest.raises(ImageError, match="truncated: strip 0"):
        tiff.decode(hand_made([raw[:-1] for raw in raws], scheme=1))
    assert_comes_back(change_tags(hand_made(raws, scheme=1), {279: None}))
    with pytest.raises(ImageError, match="strips without lengths"):
        tiff.decode(change_tags(hand_made(list(map(deflate_3, raws))), {279: None}))


@pytest.mark.parametrize("length", [0, 7, 10**6])
def test_a_strip_alone_is_as_long_as_its_pixels(length):
    """Whatever the tag says: libtiff has it so, for the sake of writers that put 0 or nonsense there."""
    pixels = some_pixels(bands=1, height=10, width=20)
    data = hand_made([pixels.tobytes()], scheme=1, lengths=[length], behind=b"x" * 9)
    assert_comes_back(data, read_tiff(data))
    assert_comes_back(data, pixels)
    with pytest.raises(ImageError, match=r"a place and no length|truncated"):
        tiff.decode(hand_made([zlib.compress(pixels.tobytes())], lengths=[length if length != 7 else 0]))


def test_segments_out_of_order():
    raws = strips(3)
    data = hand_made(raws, scheme=1)
    turned = change_tags(data, {273: Value(4, 3, struct.pack("<3I", 408, 208, 8))})
    pixels = np.frombuffer(b"".join(raws[::-1]), "u1").reshape(1, 30, 20)
    assert_comes_back(turned, pixels)


def test_trailing_bytes_and_slack_in_compressed_segments():
    raws = strips(3)
    taken, _ = assert_comes_back(hand_made([zlib.compress(raw) + b"xx" for raw in raws]))
    assert taken.fidelity == "equivalent"
    assert taken.pixels.tobytes() == b"".join(raws)


def test_unknown_tag_types_are_kept():
    data = change_tags(hand_made(strips(2), scheme=1), {65001: Value(99, 1 << 30, b"abcd")})
    assert_comes_back(data)
    compressed = change_tags(hand_made(list(map(deflate_3, strips(2)))), {65001: Value(99, 1 << 30, b"abcd")})
    taken, again = assert_comes_back(compressed)
    assert taken.fidelity == "equivalent"
    assert read_first_directory(again).entries[65001].number == 1 << 30


def test_differences():
    a, b = write_rasterio(some_pixels(), nodata=1), write_rasterio(some_pixels(seed=1), nodata=2, tags={"A": "b"})
    assert tiff.differences(a, a) == []
    text = "\n".join(tiff.differences(a, b))
    for part in ("pixel values", "tag 42113: '1' against '2'", "tag 42112 only in the second file"):
        assert part in text
    assert tiff.differences(a, write_rasterio(some_pixels("u2"))) != []
    two = io.BytesIO()
    tifffile.imwrite(two, np.zeros((2, 8, 8), "u1"), photometric="minisblack", metadata=None)
    one = bytearray(two.getvalue())
    struct.pack_into("<I", one, read_first_directory(bytes(one)).end - 4, 0)
    assert tiff.differences(two.getvalue(), bytes(one)) == ["2 pages against 1"]


def test_pixels_must_fit_their_envelope():
    taken = tiff.decode(write_rasterio(some_pixels()))
    for wrong in (taken.pixels[:2], taken.pixels.astype("u2"), taken.pixels[:, :5]):
        with pytest.raises(ImageError, match="envelope"):
            tiff.encode(wrong, taken.envelope)


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_envelopes_are_refused_or_harmless(data):
    taken = tiff.decode(write_rasterio(some_pixels(bands=1, height=9, width=9), compress="deflate"))
    envelope = bytearray(taken.envelope)
    if data.draw(st.booleans()):
        envelope[data.draw(st.integers(0, len(envelope) - 1))] = data.draw(st.integers(0, 255))
    else:
        envelope = envelope[: data.draw(st.integers(0, len(envelope) - 1))]
    with contextlib.suppress(ImageError):
        assert isinstance(tiff.encode(taken.pixels, bytes(envelope)), bytes)


# ------------------------------------------------------------------------------ refused


def refused(data, match="."):
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=match) as caught:
            tiff.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.hint
    assert "--on-error=skip" in caught.value.hint


@pytest.mark.parametrize(
    ("tags", "match"),
    [
        ({258: (3, 1, 4), 339: (3, 1, 2)}, "4-bit signed samples"), ({258: (3, 1, 40)}, "40-bit unsigned samples"),
        ({258: (3, 1, 12), 259: (3, 1, 7)}, "12-bit unsigned samples, JPEG"), ({258: (3, 1, 24)}, "truncated"),
        ({259: (3, 1, 6)}, "old-style JPEG"), ({259: (3, 1, 34712)}, "JPEG 2000"),
        ({259: (3, 1, 999)}, "compression 999"), ({339: (3, 1, 9)}, "format-9"),
        ({258: (3, 1, 12), 317: (3, 1, 2), 259: (3, 1, 8)}, "predictor 2 on 12-bit"), ({339: (3, 1, 5)}, "8-bit comp"),
        ({317: (3, 1, 9), 259: (3, 1, 8)}, "predictor 9"), ({284: (3, 1, 3)}, "planar configuration 3"),
        ({256: (3, 1, 0)}, "0 columns"), ({278: (3, 1, 0)}, "strips or tiles of 0"), ({277: (3, 1, 0)}, "0 bands"),
        ({273: (4, 3, 8)}, "lists 3 strips"), ({273: (4, 1 << 32 - 1, 8)}, "outside the file"),
        ({256: (4, 1, 1 << 31), 257: (4, 1, 1 << 31)}, "over the limit"), ({32997: (3, 1, 4)}, "volumes"),
        ({259: (3, 1, 7), 277: (3, 1, 9999)}, "9999 bands, .*JPEG"),
        ({259: (3, 1, 8), 256: (4, 1, 1 << 28), 278: (3, 1, 10)}, "claim to hold|over the limit"),
    ],
)  # fmt: skip
def test_refused_layouts(tags, match):
    refused(hand_made(strips(1), scheme=1, extra=tags), match)


def test_segments_that_decode_to_another_length():
    for change in (lambda raw: raw[:-1], lambda raw: raw + b"x"):
        for scheme, encode in [
            (8, zlib.compress), (5, imagecodecs.lzw_encode), (32773, imagecodecs.packbits_encode),
            (50000, imagecodecs.zstd_encode), (34925, lzma_raw),
        ]:  # fmt: skip
            data = hand_made([bytes(encode(change(raw))) for raw in strips(3)], scheme=scheme)
            if scheme == 5 and len(change(b"xy")) > 2:  # libtiff stops at the length that it needs
                assert assert_comes_back(data)[0].fidelity == "equivalent"
            else:
                refused(data, "decode|cannot be read")


def test_lzw_codes_before_their_time():
    """A first code above 255 has no table entry: decoders without a check read wild memory."""
    for code in (258, 300, 383, 503, 511):
        bits = "".join(f"{number:09b}" for number in [256, code, *range(258, 458), 257])
        segment = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
        refused(hand_made([segment], scheme=5, width=400, rows=100))


@pytest.mark.parametrize("scheme", [5, 7, 8, 32773, 34887, 34925, 50000, 50001])
def test_segments_of_noise(scheme):
    refused(hand_made([np.random.default_rng(0).bytes(150)] * 1, scheme=scheme))


def test_strips_that_share_their_bytes():
    data = change_tags(hand_made(strips(3), scheme=1), {273: Value(4, 3, struct.pack("<3I", 8, 8, 208))})
    taken, _ = assert_comes_back(data, read_tifffile(data))
    assert tiff.describe(taken.envelope).encoder == "verbatim"


def test_overlaps():
    data = hand_made(strips(3), scheme=1)
    refused(change_tags(data, {273: Value(4, 3, struct.pack("<3I", 8, 207, 408))}), "overlap")
    refused(change_tags(data, {273: Value(4, 3, struct.pack("<3I", 4, 208, 408))}), "upon the tags")


def test_pixels_upon_their_own_directory():
    data = bytearray(hand_made(strips(1), scheme=1))
    directory = read_first_directory(bytes(data))
    struct.pack_into("<I", data, directory.entries[273].offset, directory.offset - 100)
    refused(bytes(data), "upon the tags")


def test_compressed_pixels_that_two_pages_share():
    data = bytearray(hand_made([zlib.compress(raw) for raw in strips(2)]))
    first = read_first_directory(bytes(data))
    copy = bytes(data[first.offset : first.end])
    struct.pack_into("<I", data, first.end - 4, len(data))
    taken, _ = assert_comes_back(bytes(data) + copy, np.frombuffer(b"".join(strips(2)), "u1").reshape(1, 20, 20))
    assert tiff.describe(taken.envelope).encoder == "verbatim"
    plain = bytearray(hand_made(strips(2), scheme=1))
    first = read_first_directory(bytes(plain))
    struct.pack_into("<I", plain, first.end - 4, len(plain))
    assert_comes_back(bytes(plain + plain[first.offset : first.end - 4] + b"\0\0\0\0"))


def test_loops_of_directories():
    data = bytearray(hand_made(strips(1), scheme=1))
    first = read_first_directory(bytes(data))
    struct.pack_into("<I", data, first.end - 4, first.offset)
    refused(bytes(data), "loop")
    struct.pack_into("<I", data, first.end - 4, len(data) + 5)
    refused(bytes(data), "outside the file")


def test_many_overlapping_directories():
    """A small file whose pages lie upon each other, each with many entries, must not take long."""
    head = bytearray(hand_made(strips(1), scheme=1))
    first = read_first_directory(bytes(head))
    start = len(head)
    struct.pack_into("<I", head, first.end - 4, start)
    tail = b"".join(struct.pack("<HHII", 5000, 99, i, 0) for i in range(5000))
    body = bytearray(head + tail * 2)
    for page in range(200):
        at = start + page * 12
        body[at : at + 2] = struct.pack("<H", 1)
        struct.pack_into("<I", body, at + 14, at + 12)
    refused(bytes(body))


@pytest.mark.parametrize("scheme", [1, 8, 5, 7, 50000])
@pytest.mark.parametrize("big", [False, True])
def test_terabytes_in_a_tiny_file(scheme, big):
    tags = {256: 1_400_000, 257: 1_400_000, 258: 8, 259: scheme, 273: 8, 278: 1_400_000, 279: 4}
    if big:
        entries = b"".join(struct.pack("<HHQQ", tag, 4, 1, value) for tag, value in tags.items())
        data = b"II" + struct.pack("<HHHQQ", 43, 8, 0, 16, len(tags)) + entries + bytes(8)
    else:
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        data = b"II" + struct.pack("<HIH", 42, 8, len(tags)) + entries + bytes(4)
    refused(data, "over the limit")
    tags |= {256: 60_000, 257: 60_000, 278: 60_000}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    refused(b"II" + struct.pack("<HIH", 42, 8, len(tags)) + entries + bytes(4), "claim to hold|truncated|over the l")
    sparse = tags | {279: 0}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sparse.items())
    refused(b"II" + struct.pack("<HIH", 42, 8, len(tags)) + entries + bytes(4), "claim to hold|over the limit")


@pytest.mark.parametrize("name", ["none", "deflate", "lzw", "zstd"])
def test_truncated_anywhere(name):
    """GDAL writes the directory first and the pixels last: no prefix of the file is a whole file."""
    data = write_rasterio(some_pixels(), compress=name)
    step = 64 if name == "none" else 7
    for length in range(0, len(data), step):
        refused(data[:length])


@settings(max_examples=300)
@given(data=st.data())
def test_flipped_bytes_never_leak_foreign_errors(data):
    scheme = data.draw(st.sampled_from(["none", "deflate", "lzw", "zstd"]))
    good = bytearray(write_rasterio(some_pixels(bands=1, height=9, width=9), compress=scheme))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        taken = tiff.decode(bytes(good))
    except ImageError:
        return
    again = tiff.encode(taken.pixels, taken.envelope)
    assert taken.fidelity != "exact" or again == good


@pytest.mark.parametrize(
    "data",
    [
        b"", b"II", b"II*\0", b"II*\0\0\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0", b"II+\0\x08\0\0\0" + b"~" * 8,
        b'<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand><SourceFilename>/etc/passwd</SourceFilename>',
        b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000), b"II*\0" + b"\xff" * 300,
    ],
)  # fmt: skip
def test_what_is_no_tiff(data):
    refused(data)


# ------------------------------------------------------------------------------ real files


@pytest.mark.parametrize("name", ["veda-austin-classification", "spacenet-atlanta-segmentation"])
def test_real_releases_come_back_byte_for_byte(name):
    source = DATA / f"{name}-1.0.0.tar.gz"
    if not source.exists():
        pytest.skip(f"no real data at {DATA} (set VEDASTORE_DATA)")
    with tarfile.open(source) as archive:
        files = [archive.extractfile(m).read() for m in archive if m.name.endswith(".tif")]
    assert files
    for data in files:
        taken, again = assert_comes_back(data)
        assert taken.fidelity == "exact"
        assert again == data
        assert_equal_pixels(taken.pixels, read_tifffile(data))


# -------------------------------------------------------------------------------------- layouts that GDAL makes itself


@pytest.mark.parametrize("compress", ["deflate", "zstd", "lzma", "packbits", "lzw"])
@pytest.mark.parametrize("filled", [0, 100])
def test_strips_that_nobody_filled(compress, filled):
    """GDAL gives them all rows of a strip, also where the image ends before."""
    with rasterio.MemoryFile() as memory:
        profile = {"count": 3, "height": 250, "width": 256, "dtype": "u1", "transform": AFFINE}
        with memory.open(driver="GTiff", compress=compress, **profile) as dataset:
            if filled:
                window = rasterio.windows.Window(0, 0, 256, filled)
                dataset.write(some_pixels(bands=3, height=filled, width=256), window=window)
        data = memory.read()
    taken = tiff.decode(data)
    assert_equal_pixels(taken.pixels, read_rasterio(data))
    again = tiff.encode(taken.pixels, taken.envelope)
    assert again == data or (taken.fidelity, tiff.differences(data, again)) == ("equivalent", [])
    assert compress == "lzw" or again == data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", ["deflate", "lzw", "zstd"])
def test_differences_of_complex_numbers(order, compression):
    pixels = (np.arange(20 * 30).reshape(20, 30) * (1 + 100j)).astype(f"{order}c8")
    with rasterio.MemoryFile() as memory:
        profile = {"count": 1, "height": 20, "width": 30, "dtype": "complex64", "transform": AFFINE}
        endian = "BIG" if order == ">" else "LITTLE"
        with memory.open(driver="GTiff", compress=compression, predictor=2, endianness=endian, **profile) as dataset:
            dataset.write(pixels.astype("c8")[None])
        data = memory.read()
    assert_comes_back(data, pixels.astype("<c8")[None])


def test_more_bands_than_a_bucket_has():
    numbers = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 200, 277: 70_000, 278: 1, 279: 70_000}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in numbers.items())
    head = b"II" + struct.pack("<HIH", 42, 8, len(numbers)) + entries + bytes(4)
    refused(head.ljust(200, b"\0") + bytes(70_000), "70000 bands")
