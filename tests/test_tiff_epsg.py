"""Geo keys that are told without GDAL. Referee: rasterio, for every plain CRS, and for keys that nearly are."""

from __future__ import annotations

import subprocess
import sys

import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import ATLANTA, AUSTIN, make_release
from tests.test_tiff_georeference import referee, write
from vedastore.io.tiff.epsg import GEO_DOUBLES, GEO_TEXTS, HEADERS, MODEL, PLAIN, PROJECTED, name_plain_crs
from vedastore.io.tiff.georeference import GEO_KEYS
from vedastore.io.tiff.structure import read_first_directory

OTHERS = [4322, 2154, 27700, 32600, 32661, 26924, 3395, 32767, 0]
EVERY_CODE = [*PLAIN, 4322, 2193, 4979, 27700, 3785, 25838, 32661, 4266, 3995, 6933, 7035]


def keys_of(data):
    """What `name_plain_crs` is asked about a file."""
    directory = read_first_directory(data)
    return directory.values(GEO_KEYS), directory.values(GEO_DOUBLES), directory.raw(GEO_TEXTS) or b""


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_what_gdal_writes_is_told_as_rasterio_tells_it(version):
    for code in EVERY_CODE[:: 1 if version == "1.0" else 5]:
        profile = {"width": 1, "height": 1, "count": 1, "dtype": "u1", "GEOTIFF_VERSION": version}
        with rasterio.MemoryFile() as memory:
            where = {"crs": f"EPSG:{code}", "transform": rasterio.Affine(2, 0, 1, 0, -2, 1)}
            memory.open(driver="GTiff", **where, **profile).close()
            data = memory.read()
        plain = name_plain_crs(*keys_of(data))
        assert plain in (None, referee(data)[0])
        assert plain == f"EPSG:{code}" or code not in PLAIN


@st.composite
def nearly_plain(draw):
    """Tags of geo keys: those of a plain CRS, some left out, now and then with something that is not plain."""
    code = draw(st.sampled_from(sorted(PLAIN)))
    allowed = PLAIN[code]
    kept = draw(st.sets(st.sampled_from(sorted(allowed)))) | {MODEL, PROJECTED if PROJECTED in allowed else 2048}
    said = {key: draw(st.sampled_from(allowed[key])) for key in sorted(kept)}
    odd = st.tuples(st.sampled_from([*sorted(allowed), 2048, 2050, 2060, 3074, 3078, 3080, 4096, 5120]), VALUES)
    said |= dict(draw(st.lists(odd, max_size=2)))
    numbers, doubles, texts = [], [], b""
    for key, (tag, value) in sorted(said.items()):
        if tag == GEO_TEXTS:
            numbers += [key, tag, len(value), len(texts)]
            texts += value
        elif tag == GEO_DOUBLES:
            numbers += [key, tag, 1, len(doubles)]
            doubles.append(value)
        else:
            numbers += [key, 0, 1, value]
    header = draw(st.sampled_from(HEADERS))
    tags = {GEO_KEYS: (3, [*header, len(said), *numbers])}
    tags |= {GEO_DOUBLES: (12, doubles)} if doubles else {}
    return tags | ({GEO_TEXTS: (2, texts.decode())} if texts else {})


VALUES = st.one_of(
    st.tuples(st.just(0), st.sampled_from([1, 2, 3, 4326, 4269, 9001, 9002, 9003, 9102, 9105, 32616, 32767, 5703])),
    st.tuples(st.just(GEO_DOUBLES), st.sampled_from([6378137.0, 6378206.4, 298.257223563, 0.0])),
    st.tuples(
        st.just(GEO_TEXTS), st.sampled_from([b"WGS 84|", b"WGS 84 / UTM zone 16N|", b"LUnits = feet|", b"|", b"x"])
    ),
)


@given(tags=nearly_plain(), order=st.sampled_from("<>"))
def test_keys_that_count_as_plain_are_what_rasterio_says(tags, order):
    data = write(tags, order)
    plain = name_plain_crs(*keys_of(data))
    if plain is not None:
        assert plain == referee(data)[0]


@pytest.mark.parametrize(
    ("keys", "doubles", "texts"),
    [
        ((), (), b""),
        ((1, 1, 0), (), b""),
        ((1, 1, 0, 0), (), b""),
        ((1, 1, 0, 1, 1024, 0, 1, 2), (), b""),
        ((1, 1, 0, 1, 2048, 0, 1, 4326), (), b""),
        ((1, 1, 0, 3, 1024, 0, 1, 2, 2048, 0, 1, 4326), (), b""),  # a key is missing
        ((1, 2, 0, 2, 1024, 0, 1, 2, 2048, 0, 1, 4326), (), b""),  # another version
        ((1, 1, 0, 2, 2048, 0, 1, 4326, 1024, 0, 1, 2), (), b""),  # out of order
        ((1, 1, 0, 3, 1024, 0, 1, 2, 2048, 0, 1, 4326, 2048, 0, 1, 4326), (), b""),
        ((1, 1, 0, 2, 1024, 0, 1, 2, 2048, GEO_DOUBLES, 1, 0), (4326.0,), b""),
        ((1, 1, 0, 2, 1024, 0, 1, 2, 2048, GEO_DOUBLES, 1, 5), (4326.0,), b""),
        ((1, 1, 0, 2, 1024, 0, 1, 2, 2048, GEO_TEXTS, 4, 0), (), b"4326\0"),
        ((1, 1, 0, 3, 1024, 0, 1, 2, 2048, 0, 1, 4326, 2049, GEO_TEXTS, 7, 0), (), b"WGS 84|"),  # no end
        ((1, 1, 0, 3, 1024, 0, 1, 2, 2048, 0, 1, 4326, 2049, GEO_TEXTS, 7, 0), (), b"WGS 84|\0x\0"),
        *(((1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, code), (), b"") for code in OTHERS),
    ],
)
def test_what_is_not_plain_is_left_to_gdal(keys, doubles, texts):
    assert name_plain_crs(keys, doubles, texts) is None
    whole = ((1, 1, 0, 2, 1024, 0, 1, 2, 2048, 0, 1, 4326), (), b"")
    assert name_plain_crs(*whole) == "EPSG:4326"


@pytest.mark.parametrize("source", [None, *(path for path in (AUSTIN, ATLANTA) if path.exists())])
def test_no_process_is_started_for_a_plain_release(tmp_path, source):
    """Images that are not compressed, or with Deflate, and a plain CRS: no interpreter, no GDAL."""
    if source is None:
        source = make_release(3, task="segmentation").tar_gz(tmp_path / "r.tar.gz")
    code = """if True:
        import sys
        from vedastore.io import isolation
        import vedastore
        print(len(vedastore.convert(sys.argv[1], sys.argv[2])), len(isolation._all), "rasterio" in sys.modules)
    """
    command = [sys.executable, "-c", code, source, tmp_path / "r.zarr"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    samples, *rest = done.stdout.split()
    assert int(samples) > 2
    assert rest == ["0", "False"], done.stderr
