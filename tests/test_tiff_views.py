"""Uncompressed files are read without a copy and written with one; what is parsed once is right for every file."""

from __future__ import annotations

import itertools
import struct
import tracemalloc

import numpy as np
import pytest

from tests.builders import read_tiff
from tests.zoo import by_gdal, by_tifffile, some_pixels, sweep
from vedastore.errors import ImageError
from vedastore.io import tiff
from vedastore.io.tiff.image import parse_image
from vedastore.io.tiff.layout import LAYOUT_TAGS, STRIP_OFFSETS
from vedastore.io.tiff.structure import SUB_DIRECTORIES, Directory, read_first_directory
from vedastore.model import DEFAULT_LIMITS, Limits

SIDE = 512
STRIPS = list(itertools.product(["uint8", "uint16", "float32"], [1, 3, 4], ["pixel", "band"]))


def tiff_image(data, limits=DEFAULT_LIMITS):
    return parse_image(read_first_directory(data), limits)


def peak_of(function, *args):
    """What a call returns, and the most memory that it took."""
    tracemalloc.start()
    try:
        return function(*args), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("dtype", "bands", "interleave"), STRIPS)
def test_pixels_are_a_view_and_the_file_is_one_copy(dtype, bands, interleave):
    pixels = some_pixels(dtype, bands, SIDE, SIDE)
    data = by_gdal(pixels, interleave=interleave)
    tiff.decode(data)  # what is kept for other files counts once
    taken, read_bytes = peak_of(tiff.decode, data)
    assert np.array_equal(taken.pixels, pixels)
    aligned = tiff_image(data).regions[0][0] % pixels.itemsize == 0  # samples that are not are copied
    assert np.shares_memory(taken.pixels, np.frombuffer(data, np.uint8)) == aligned
    assert read_bytes < (0.2 if aligned else 1.2) * pixels.nbytes
    again, written_bytes = peak_of(tiff.encode, taken.pixels, taken.envelope)
    assert again == data
    in_order = aligned or bands == 1 or interleave == "band"
    assert written_bytes < (1.2 if in_order else 3.2) * pixels.nbytes
    for order in "CF":
        assert tiff.encode(np.array(pixels, order=order), taken.envelope) == data


def test_files_that_differ_outside_the_directory_only():
    """Their directories are equal byte for byte; the places of the strips stand elsewhere."""
    data = by_tifffile(rowsperstrip=12)
    entry = read_first_directory(data).entries[STRIP_OFFSETS]
    assert entry.number == 4
    places = struct.unpack_from("<4I", data, entry.offset)
    for order in itertools.permutations(range(3)):
        swapped = bytearray(data)
        struct.pack_into("<4I", swapped, entry.offset, *[places[i] for i in order], places[3])
        taken = tiff.decode(bytes(swapped))
        assert np.array_equal(taken.pixels, read_tiff(bytes(swapped)))
        assert tiff.encode(taken.pixels, taken.envelope) == swapped


def test_a_file_that_is_cut_behind_an_equal_directory():
    data = by_tifffile()
    tiff.decode(data)
    for length in range(len(data) - 1, 8, -97):
        with pytest.raises(ImageError):
            tiff.decode(data[:length])


def spied(method, read):
    """The method, which notes the tags that it is asked for."""

    def spy(self, tag):
        read.add(tag)
        return method(self, tag)

    return spy


def test_nothing_is_read_to_take_a_file_apart_but_what_files_are_told_apart_by(monkeypatch):
    """Files with the same directory, length and values of `LAYOUT_TAGS` are taken apart alike: no other tag counts."""
    read, never_used = set(), Limits(image_seconds=77)  # so that nothing was parsed before
    for name in ("raw", "values", "integers"):
        monkeypatch.setattr(Directory, name, spied(getattr(Directory, name), read))
    for entry in itertools.islice(sweep(), 0, None, 7):
        tiff_image(entry.build(), never_used)
    sparse = by_gdal(np.full((1, 64, 64), 7, "u1"), nodata=7, sparse_ok=True, blockysize=16)
    assert tiff_image(sparse, never_used).segments.sparse
    assert read - set(SUB_DIRECTORIES) <= LAYOUT_TAGS
    assert len(read) > 10
