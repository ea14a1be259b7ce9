"""Transform and CRS without opening the file, float for float and word for word what rasterio reports."""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from vedastore.errors import ImageError
from vedastore.io import tiff
from vedastore.io.tiff.directories import Value, with_changes
from vedastore.io.tiff.georeference import GEO_DOUBLES, GEO_KEYS, GEO_TEXTS, MATRIX, PIXEL_SCALE, TIE_POINTS
from vedastore.io.tiff.structure import read_first_directory

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64)
NUMBERS = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5, 4.5e-6, 1e-300, 1e300]), FLOATS)
IDENTITY = rasterio.Affine.identity()


def write(tags, order="<", **options):
    """A TIFF of one pixel by tifffile, with tags {tag: (kind, values)}."""
    out = io.BytesIO()
    extra = [(tag, kind, len(values), values if len(values) > 1 or kind == 2 else values[0], True)
             for tag, (kind, values) in tags.items()]  # fmt: skip
    tifffile.imwrite(out, np.zeros((1, 1), "u1"), metadata=None, byteorder=order, extratags=extra, **options)
    return out.getvalue()


def referee(data):
    """What rasterio says: CRS as text, transform as six numbers; None where it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.MemoryFile(data) as memory, memory.open(driver="GTiff") as dataset:
            crs, transform = dataset.crs, dataset.transform
    text = None
    if crs:
        code = crs.to_epsg(confidence_threshold=100)
        exact = code is not None and CRS.from_epsg(code) == crs
        text = f"EPSG:{code}" if exact else crs.to_wkt(version="WKT2_2019")
    return text, None if transform == IDENTITY else tuple(transform)[:6]


def keys(raster_type=None, epsg=None):
    entries = [] if raster_type is None else [(1025, 0, 1, raster_type)]
    if epsg is not None:
        entries = [(1024, 0, 1, 2), *entries, (2048, 0, 1, epsg)]
    return 3, [1, 1, 0, len(entries), *(number for entry in entries for number in entry)]


def same(one, other):
    return one == other or (one is not None and other is not None and np.array_equal(one, other, equal_nan=True))


@given(scale=st.tuples(NUMBERS, NUMBERS, NUMBERS), tie=st.tuples(*[NUMBERS] * 6), kind=st.sampled_from([None, 1, 2]),
       order=st.sampled_from("<>"))  # fmt: skip
def test_scale_and_tie_point(scale, tie, kind, order):
    tags = {PIXEL_SCALE: (12, scale), TIE_POINTS: (12, tie)} | ({} if kind is None else {GEO_KEYS: keys(kind)})
    data = write(tags, order)
    assert same(tiff.decode(data).transform, referee(data)[1])


@given(matrix=st.tuples(*[NUMBERS] * 16), kind=st.sampled_from([None, 1, 2]), order=st.sampled_from("<>"))
def test_matrix(matrix, kind, order):
    data = write({MATRIX: (12, matrix)} | ({} if kind is None else {GEO_KEYS: keys(kind)}), order)
    assert same(tiff.decode(data).transform, referee(data)[1])


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {PIXEL_SCALE: (12, (2.0, 2.0, 0.0)), TIE_POINTS: (12, (0.0,) * 12)},
        {PIXEL_SCALE: (12, (2.0, 3.0)), TIE_POINTS: (12, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0))},
        {PIXEL_SCALE: (12, (2.0, 0.0, 0.0)), TIE_POINTS: (12, (0.0,) * 6), MATRIX: (12, tuple(map(float, range(16))))},
        {PIXEL_SCALE: (12, (2.0, 3.0, 0.0)), TIE_POINTS: (12, (1.0,) * 6), MATRIX: (12, tuple(map(float, range(16))))},
        {TIE_POINTS: (12, (0.0,) * 6)},
        {TIE_POINTS: (12, (0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 2.0, 2.0, 0.0))},
        {TIE_POINTS: (12, (0.0,) * 6), GEO_KEYS: keys(1, 4326)},
        {TIE_POINTS: (12, (0.0,) * 6), MATRIX: (12, tuple(map(float, range(16)))), GEO_KEYS: keys(1, 4326)},
        {MATRIX: (12, (1.0, 2.0, 3.0))},
        {PIXEL_SCALE: (11, (2.0, 2.0, 0.0)), TIE_POINTS: (11, (0.0, 0.0, 0.0, 5.0, 6.0, 0.0))},
        {GEO_KEYS: keys(2, 4326)},
        {GEO_KEYS: keys()},
    ],
)
def test_odd_combinations(tags):
    data = write(tags)
    taken = tiff.decode(data)
    assert (taken.crs, taken.transform) == referee(data)


def test_scale_without_tie_points_is_no_georeferencing():
    """GDAL says so too; rasterio alone shows the bare scale, with a warning that there is no geotransform."""
    scale = {PIXEL_SCALE: (12, (2.0, 3.0, 0.0))}
    for tags in (scale, scale | {MATRIX: (12, tuple(map(float, range(16))))}):
        data = write(tags)
        assert tiff.decode(data).transform is None
        assert referee(data)[1] == (2, 0, 0, 0, -3, 0)


@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    "crs",
    [
        "EPSG:4326", "EPSG:3857", "EPSG:32616", "EPSG:2193", "EPSG:4979", "EPSG:27700", "EPSG:5514", "ESRI:102008",
        "+proj=laea +lat_0=10 +lon_0=-81 +ellps=WGS84 +units=m", "+proj=sinu +R=6371007.181 +units=m",
        'LOCAL_CS["arbitrary",UNIT["metre",1]]', "EPSG:32616+5773", None,
    ],
)  # fmt: skip
def test_crs(crs, version, point, order):
    profile = {"count": 1, "height": 3, "width": 4, "dtype": "u1", "GEOTIFF_VERSION": version, "ENDIANNESS": order}
    with rasterio.MemoryFile() as memory:
        transform = rasterio.Affine(0.1, 0, 7, 0, -0.1, 8)
        with memory.open(driver="GTiff", crs=crs, transform=transform, **profile) as dataset:
            dataset.write(np.ones((1, 3, 4), "u1"))
            if point:
                dataset.update_tags(AREA_OR_POINT="Point")
        data = memory.read()
    taken = tiff.decode(data)
    assert (taken.crs, taken.transform) == referee(data)
    if crs in {"EPSG:4326", "EPSG:32616", "EPSG:27700"}:
        assert taken.crs == crs


def test_control_points():
    points = [GroundControlPoint(row, col, 10 + col, 20 - row) for row, col in [(0, 0), (0, 4), (3, 0), (3, 4)]]
    profile = {"count": 1, "height": 3, "width": 4, "dtype": "u1", "crs": "EPSG:4326"}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", gcps=points, **profile) as dataset:
            dataset.write(np.ones((1, 3, 4), "u1"))
        data = memory.read()
    taken = tiff.decode(data)
    assert (taken.crs, taken.transform) == referee(data) == (None, None)
    assert tiff.encode(taken.pixels, taken.envelope) == data


@given(numbers=st.lists(st.integers(0, 65535), max_size=40), text=st.text("ab|()[]", max_size=20), data=st.data())
def test_any_geo_keys(numbers, text, data):
    """Nonsense is what rasterio makes of it, or refused; never another error."""
    if data.draw(st.booleans()):
        numbers = [1, 1, 0, len(numbers) // 4, *numbers]
    tags = {GEO_KEYS: (3, numbers or [0]), GEO_DOUBLES: (12, [1.0, 2.0]), GEO_TEXTS: (2, text + "|")}
    file = write(tags)
    try:
        found = tiff.decode(file).crs
    except ImageError:
        return
    assert found == referee(file)[0]


def test_many_threads_without_a_warning():
    files = [write({GEO_KEYS: keys(1, epsg)}) for epsg in range(4201, 4260)]
    plain = write({}, compression="jpeg")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(tiff.decode, [*files, plain] * 2))
    assert [str(w.message) for w in caught] == []
    assert [taken.crs for taken in found[:60]] == [taken.crs for taken in found[60:]]


@pytest.mark.parametrize("text", [b"-9999\0", b" 0 \0", b"nan\0", b"1e-3", b"\0", b"5\0junk\0"])
def test_nodata(text):
    data = write({})
    data = with_changes(data, read_first_directory(data), {42113: Value(2, len(text), text)})
    assert tiff.decode(data).nodata == text.split(b"\0")[0].decode().strip()
