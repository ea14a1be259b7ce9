"""What notebooks show: well-formed, without anything of a release that is not escaped."""

import base64
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from rasterio.io import MemoryFile

import vedastore as vs
from tests.builders import geotiff, make_release, pixels_of
from vedastore.views.html import SIDE_PX, thumbnail


def pictures(page):
    found = [base64.b64decode(code) for code in re.findall(r'base64,([^"]*)"', page)]
    return [read_png(data) for data in found]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def read_png(data):
    with MemoryFile(data) as memory, memory.open() as file:
        assert file.driver == "PNG"
        return file.read()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pages_show_what_there_is(tmp_path):
    release = make_release(12)
    name = "<script>alert('x')</script> & \"co\""
    release.members[f"{release.top}/meta.json"] = json.dumps({"name": name, "mlType": "segmentation"}).encode()
    collection = vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    for shown, count in ((collection, 8), (collection[:3], 3), (collection[0], 1)):
        page = shown._repr_html_()
        assert "<script" not in page
        ET.fromstring(re.sub(r"(<img [^>]*[^/])>", r"\1/>", page))
        assert [p.shape for p in pictures(page)] == [(3, 32, 40)] * count
    assert collection[:0]._repr_html_().count("<img") == 0


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_damaged_chip_is_told(tmp_path):
    collection = vs.convert(make_release(3).tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    (shard,) = Path(collection.store).glob("chips/*/image/c/0/0/0/0")
    data = bytearray(shard.read_bytes())
    data[50] ^= 1
    shard.write_bytes(data)
    page = vs.open(collection.store)._repr_html_()
    assert page.count("<img") == 2
    assert "damaged" in page


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64", "float32", "float64", "complex64"])
@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_thumbnails(dtype, bands):
    rng = np.random.default_rng(0)
    pixels = (rng.random((bands, 300, 129)) * 100).astype(dtype)
    if pixels.dtype.kind == "f":
        pixels[0, 0], pixels[0, 3], pixels[0, 6] = np.nan, np.inf, -np.inf
    found = read_png(thumbnail(pixels))
    assert found.shape == (3 if bands >= 3 else 1, 100, 43)
    assert max(found.shape) <= SIDE_PX
    assert (found.min(), found.max()) == (0, 255)
    for value in (0, 7):
        assert len(np.unique(read_png(thumbnail(np.full_like(pixels, value))))) == 1


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(("missing", "nodata"), [(np.nan, None), (np.nan, np.nan), (-9999, -9999), (9999, 9999)])
def test_what_is_missing_is_black_and_leaves_the_rest_as_it_is(missing, nodata):
    pixels = np.linspace(-20, -5, 64 * 64, dtype="float32").reshape(1, 64, 64)  # as decibels are
    whole = read_png(thumbnail(pixels[:, :, :32]))
    pixels[:, :, 32:] = missing
    shown = read_png(thumbnail(pixels, nodata))
    np.testing.assert_array_equal(shown[:, :, :32], whole)
    assert not shown[:, :, 32:].any()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_page_knows_the_nodata_of_an_image(tmp_path):
    release = make_release(1)
    pixels = pixels_of((1, 32, 40), "int16")
    pixels[:, :16] = -9999
    release.members[f"{release.top}/images/0.tif"] = geotiff(pixels, nodata=-9999)
    collection = vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    (shown,) = pictures(collection[0]._repr_html_())
    np.testing.assert_array_equal(shown, read_png(thumbnail(pixels, -9999)))
