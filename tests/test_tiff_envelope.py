"""Envelopes that somebody made up: refused, before memory is taken for what they say."""

from __future__ import annotations

import json
import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from tests.tiff_bytes import Page, image
from tests.tiff_bytes import tiff as tiff_bytes
from tests.zoo import by_gdal, some_pixels
from vedastore.errors import ImageError
from vedastore.io import tiff
from vedastore.io.tiff.directories import Value, with_changes
from vedastore.io.tiff.structure import read_first_directory
from vedastore.model import Limits

PADDED = {"tiled": True, "blockxsize": 32, "blockysize": 32}


def take(envelope):
    """Header, frame and residue of an envelope."""
    (length,) = struct.unpack_from("<I", envelope)
    header = json.loads(envelope[4 : 4 + length])
    end = len(envelope) - header["residue"]
    return header, envelope[4 + length : end], envelope[end:]


def make(header, frame, residue=b""):
    text = json.dumps(header | {"residue": len(residue)}).encode()
    return struct.pack("<I", len(text)) + text + frame + residue


def refused_in_little_memory(pixels, envelope, match):
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=match):
            tiff.encode(pixels, envelope)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_an_envelope_is_what_it_was():
    taken = tiff.decode(by_gdal(compress="lzw"))
    assert make(*take(taken.envelope))[4:] != b""
    assert tiff.encode(taken.pixels, make(*take(taken.envelope))) == by_gdal(compress="lzw")


def test_room_for_more_than_the_pixels():
    taken = tiff.decode(by_gdal())
    header, frame, _ = take(taken.envelope)
    (offset, length), more = header["regions"][0], 1 << 40
    grown = header | {"regions": [[offset, length + more]], "size": header["size"] + more}
    refused_in_little_memory(taken.pixels, make(grown, frame), "room for more")
    with pytest.raises(ImageError, match="room for more"):
        tiff.describe(make(grown, frame))


def padded_file():
    """Tiles with padding that is not zero."""
    data = bytearray(by_gdal(some_pixels(bands=1), **PADDED))
    data[-5:] = b"stray"
    return bytes(data)


@pytest.mark.parametrize("size", [0, 1, 100, 1 << 28])
def test_padding_of_another_length(size):
    taken = tiff.decode(padded_file())
    header, frame, residue = take(taken.envelope)
    assert residue
    refused_in_little_memory(taken.pixels, make(header, frame, zlib.compress(bytes(size))), "another length")
    refused_in_little_memory(taken.pixels, make(header, frame, b"no zlib"), "damaged envelope")


def test_padding_where_there_is_room_for_none():
    taken = tiff.decode(by_gdal())
    header, frame, _ = take(taken.envelope)
    refused_in_little_memory(taken.pixels, make(header, frame, zlib.compress(b"more")), "another length")


@pytest.mark.parametrize(
    "change",
    [
        {"size": float("inf")}, {"size": None}, {"size": -1}, {"regions": [[0]]}, {"regions": [["a", 1]]},
        {"regions": 7}, {"regions": [[1 << 70, 1 << 70]]}, {"regions": [[9, 5], [8, 5]]}, {"fidelity": []},
        {"fidelity": "exactly"}, {"encoder": None}, {"encoder": "verbatim"}, {"v": 2}, {"v": "1"},
    ],
)  # fmt: skip
def test_headers_of_nonsense(change):
    taken = tiff.decode(by_gdal(compress="deflate"))
    header, frame, _ = take(taken.envelope)
    with pytest.raises(ImageError):
        tiff.encode(taken.pixels, make(header | change, frame))


@pytest.mark.parametrize("text", [b"", b"7", b"[]", b"null", b'"v"', b"[" * 100_000, b"\xff\xfe"])
def test_headers_that_are_none(text):
    with pytest.raises(ImageError, match="damaged envelope"):
        tiff.describe(struct.pack("<I", len(text)) + text)


# ------------------------------------------------------------------------------ directories that somebody made up


def with_directories(**below):
    """A compressed image, with directories below it at places that are made up."""
    tags = image(48, 40, scheme=8) | {int(tag[1:]): ("I", places) for tag, places in below.items()}
    return tiff_bytes(Page(tags, [zlib.compress(some_pixels(bands=1).tobytes())]))


@pytest.mark.parametrize("tag", ["t330", "t34665", "t34853"])
def test_directories_below_that_form_a_loop(tag):
    data = with_directories(**{tag: [8]})
    (first,) = struct.unpack_from("<I", data, 4)
    looped = with_directories(**{tag: [first]})
    assert tiff.encode(tiff.decode(looped).pixels, tiff.decode(looped).envelope) == looped


@pytest.mark.parametrize("places", [[0], [3], [9], [1 << 31], [8] * 40_000, list(range(8, 40_000, 2))])
def test_directories_below_that_are_none(places):
    with pytest.raises(ImageError) as caught:
        tiff.decode(with_directories(t330=places))
    assert caught.value.rule == "image-damaged"


@pytest.mark.parametrize(
    "tags",
    [
        {258: ("d", [8.0])}, {259: ("d", [1.0])}, {277: ("text", "1")}, {339: ("d", [float("nan")])},
        {284: ("d", [1.0])}, {273: ("d", [8.0])}, {279: ("Q", [1 << 63]), 259: ("H", [8])}, {273: ("Q", [1 << 63])},
        {317: ("d", [2.0]), 259: ("H", [8])}, {257: ("I", [0])}, {278: ("I", [0])}, {256: ("I", [(1 << 32) - 1])},
    ],
)  # fmt: skip
@pytest.mark.parametrize("bits", [8, 12])
def test_numbers_of_the_wrong_kind(tags, bits):
    data = tiff_bytes(Page(image(48, 40, bits=bits) | tags, [bytes(2880)]))
    with pytest.raises(ImageError) as caught:
        tiff.decode(data)
    assert caught.value.rule in {"image-damaged", "image-limit"}


@pytest.mark.parametrize("nodata", ["0" * 5000, "1_0", "abc", "0x10", "1e999999", "9" * 5000])
def test_nodata_that_is_no_plain_number_fills_sparse_tiles_as_gdal_fills_them(nodata):
    data = by_gdal(np.zeros((1, 40, 48), "uint8"), SPARSE_OK=True, edit=lambda file: file.update_tags(A="b"))
    text = nodata.encode() + b"\0"
    sparse = with_changes(data, read_first_directory(data), {42113: Value(2, len(text), text)})
    taken = tiff.decode(sparse)
    assert tiff.encode(taken.pixels, taken.envelope) == sparse


# ------------------------------------------------------------------------------ work in another process


def test_what_was_decoded_travels():
    taken = pickle.loads(pickle.dumps(tiff.decode(by_gdal(), Limits(image_bytes=10**6))))
    assert tiff.encode(taken.pixels, taken.envelope) == by_gdal()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (by_gdal(), False), (by_gdal(SPARSE_OK=True, **PADDED), False), (by_gdal(ENDIANNESS="BIG"), False),
        (by_gdal(compress="deflate"), False), (by_gdal(compress="zstd"), False), (by_gdal(compress="lzw"), True),
        (by_gdal(np.zeros((3, 1200, 1200), "u1"), compress="deflate"), True), (by_gdal(compress="packbits"), True),
        (by_gdal(compress="jpeg"), True), (by_gdal(NBITS=4), True),
    ],
)  # fmt: skip
def test_codecs_that_are_not_trusted_run_in_another_process(data, expected, monkeypatch):
    calls = []
    monkeypatch.setattr("vedastore.io.tiff.file.with_codecs", lambda _, function, *a: calls.append(a) or function(*a))
    tiff.decode(data)
    assert bool(calls) is expected
