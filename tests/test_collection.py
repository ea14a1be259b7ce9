"""The public Python interface: what a user sees of a version."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import geopandas
import numpy as np
import pytest
import rasterio
import rioxarray
import shapely
import xarray as xr

import vedastore as vs
from tests.builders import (
    ATLANTA,
    AUSTIN,
    UTM,
    footprint_of,
    geotiff,
    make_release,
    needs_real_data,
    pixels_of,
    plain_tiff,
    rasterio_georeference,
)


def convert(release, tmp_path, **options):
    return vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr", **options)


def test_public_names():
    assert vs.__all__ == ["Batches", "Collection", "Limits", "Sample", "clean", "convert", "errors", "open", "repair"]
    assert set(vs.__all__) <= set(dir(vs))
    with pytest.raises(AttributeError, match="no attribute 'x'"):
        vs.x  # noqa: B018


def test_import_loads_nothing_heavy():
    heavy = ["numpy", "zarr", "xarray", "dask", "pyarrow", "rasterio", "geopandas", "shapely", "imagecodecs", "isal"]
    code = f"import sys, vedastore; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_info_loads_little(tmp_path):
    convert(make_release(2), tmp_path)
    heavy = ["zarr", "xarray", "dask", "pyarrow", "rasterio", "geopandas", "shapely", "imagecodecs", "pandas"]
    code = "import sys; from vedastore.cli import main; main(['info', sys.argv[1]]);"
    code += f"print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "r.zarr"], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_indexing(tmp_path):
    collection = convert(make_release(5), tmp_path)
    assert len(collection) == 5
    assert [s.id for s in collection] == ["0", "1", "2", "3", "4"]
    assert (collection[0].id, collection[-1].id, collection["3"].id, collection[np.int64(2)].id) == ("0", "4", "3", "2")
    part = collection[1:4]
    assert isinstance(part, vs.Collection)
    assert [s.id for s in part] == ["1", "2", "3"]
    assert part[-1].id == "3"
    assert [s.id for s in part[::-1]] == ["3", "2", "1"]
    assert list(part.samples["id"]) == ["1", "2", "3"]
    assert set(part.features["id"]) <= {"1", "2", "3"}
    for key in (5, -6):
        with pytest.raises(IndexError):
            collection[key]
    for wrong in (collection, part):
        with pytest.raises(vs.errors.SampleNotFoundError, match="no sample 'x'"):
            wrong["x"]
    with pytest.raises(KeyError):
        part["4"]
    assert part.export(tmp_path / "part.tar.gz").samples == 3
    assert len(collection[3:3]) == 0
    assert repr(collection) == "<vedastore.Collection 'Harbours' 1.0.1: 5 samples, segmentation of boat, building, car>"
    assert repr(part[0]).startswith("<vedastore.Sample '1': 3 x 32 x 40 uint8")


def test_frames(tmp_path):
    release = make_release(4)
    collection = convert(release, tmp_path)
    assert collection.samples.crs == collection.features.crs == "EPSG:4326"
    assert collection.bounds == tuple(collection.samples.total_bounds)
    written = [o for s in collection for found in s.label.values() for o in found]
    assert len(collection.features) == len(written)
    for row, geometry in zip(collection.features.itertuples(), written, strict=True):
        assert shapely.equals_exact(row.geometry, shapely.from_geojson(str(geometry).replace("'", '"')))
        pixel = shapely.from_wkb(shapely.to_wkb(row.geometry_px))
        assert tuple(row.box_px) == pixel.bounds
        assert row.area_px == pytest.approx(8 * 6 + 6, abs=1e-3)


@pytest.mark.parametrize("coords", ["pixel", "geographic"])
@pytest.mark.parametrize("georeferenced", [True, False])
def test_pixel_and_ground_coordinates_agree(tmp_path, coords, georeferenced):
    """Whichever the label gives, the other is what pyproj and the TIFF's transform make of it."""
    given = convert(make_release(4, coords="pixel"), tmp_path).features
    (tmp_path / "x").mkdir()
    collection = convert(make_release(4, coords=coords, georeferenced=georeferenced), tmp_path / "x")
    for one, other in zip(given.itertuples(), collection.features.itertuples(), strict=True):
        limit_px = 1e-4 if georeferenced else 0.5
        assert shapely.hausdorff_distance(one.geometry_px, other.geometry_px) < limit_px
        assert shapely.hausdorff_distance(one.geometry, other.geometry) < limit_px * 0.5 / 80_000


def test_an_image_is_what_rioxarray_opens(tmp_path):
    release = make_release(2, nodata=7)
    collection = convert(release, tmp_path)
    for name, data in release.images().items():
        (tmp_path / f"{name}.tif").write_bytes(data)
        with rioxarray.open_rasterio(tmp_path / f"{name}.tif") as expected:
            image = collection[name].image
            xr.testing.assert_equal(image.drop_vars("spatial_ref"), expected.drop_vars("spatial_ref"))
            assert image.rio.crs == expected.rio.crs
            assert image.rio.transform() == image.rio.transform(recalc=True) == expected.rio.transform()
            assert image.rio.nodata == expected.rio.nodata == 7
            assert image.dims == expected.dims
            assert image.dtype == expected.dtype


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint8", 255), ("int16", -9999), ("float32", np.nan), ("float32", -3.4028234663852886e38), ("uint16", 0)],
)
def test_nodata(tmp_path, dtype, nodata):
    release = make_release(1, dtype=dtype, nodata=nodata)
    image = convert(release, tmp_path)[0].image
    (expected,) = [rasterio_georeference(d)[2] for d in release.images().values()]
    assert image.rio.nodata == pytest.approx(expected, rel=0, nan_ok=True)
    assert (image.dtype, image.rio.nodata.dtype) == (dtype, dtype)


def test_odd_transforms_and_crs_are_kept_exactly(tmp_path):
    odd = "+proj=laea +lat_0=12.5 +lon_0=-7.25 +ellps=GRS80 +units=m +no_defs"
    release = make_release(1, task="classification")
    release.members[f"{release.top}/images/0.tif"] = geotiff(pixels_of(), (0.3, 0.1, 1 / 3, 0.1, -0.3, 2 / 3), odd)
    sample = convert(release, tmp_path)[0]
    crs, transform, _ = rasterio_georeference(release.images()["0"])
    assert sample.image.rio.crs == crs
    assert sample.image.rio.transform() == transform


def test_without_georeferencing(tmp_path):
    release = make_release(2, georeferenced=False, footprints=False, task="object_detection")
    collection = convert(release, tmp_path)
    image = collection[0].image
    assert image.rio.crs is None
    assert collection.bounds is None
    assert collection.samples.geometry.isna().all()
    assert collection.features.geometry.isna().all()
    assert (collection.features["area_px"] > 0).all()
    assert collection[0].geometry is None


def test_georeferencing_from_the_footprint(tmp_path):
    """An upright footprint gives a transform whose corners are the footprint's, exactly."""
    release = make_release(1, georeferenced=False, task="classification")
    name = f"{release.top}/labels/0.json"
    release.members[
        name
    ] = b"""{"geometry": {"type": "MultiPolygon", "coordinates": [[[[-97.75, 30.26], [-97.75, 30.27],
        [-97.74, 30.27], [-97.74, 30.26], [-97.75, 30.26]]]]}, "properties": {"label": {"car": 1}}}"""
    image = convert(release, tmp_path)[0].image
    assert image.rio.crs == "EPSG:4326"
    assert image.rio.bounds() == (-97.75, 30.26, -97.74, 30.27)
    assert image.rio.transform() == rasterio.transform.from_bounds(-97.75, 30.26, -97.74, 30.27, 40, 32)


def test_to_xarray(tmp_path):
    release = make_release(5, task="classification")
    collection = convert(release, tmp_path)
    dataset = collection.to_xarray()
    assert dataset.image.dims == ("sample", "band", "y", "x")
    assert dataset.image.chunks == ((5,), (3,), (32,), (40,))
    assert dataset.label.dims == ("sample", "class")
    assert list(dataset["class"].values) == list(collection.classes)
    hot = [[int(s.label[c]) for c in collection.classes] for s in collection]
    assert dataset.label.values.tolist() == hot == collection.multi_hot().values.tolist()
    assert list(dataset.id.values) == ["0", "1", "2", "3", "4"]
    assert dataset.rio.crs == UTM
    np.testing.assert_array_equal(dataset.transform[2], [0.5, 0, 733_800, 0, -0.5, 3_725_150])
    np.testing.assert_array_equal(dataset.image, np.stack([s.image for s in collection]))
    part = collection[::-2].to_xarray()
    assert list(part.id.values) == ["4", "2", "0"]
    np.testing.assert_array_equal(part.image, dataset.image[::-2])
    assert "label" not in collection.to_xarray(labels=False)
    with pytest.raises(vs.errors.UsageError, match="no bucket 'x'"):
        collection.to_xarray(bucket="x")
    with pytest.raises(vs.errors.UsageError):
        collection[3:3].to_xarray()


def test_one_chunk_a_shard(tmp_path):
    shape = (3, 1024, 1024)
    release = make_release(0, task="classification")
    for number in range(24):
        release.members[f"{release.top}/images/{number}.tif"] = geotiff(np.full(shape, number, "u1"))
        release.members[f"{release.top}/labels/{number}.json"] = b'{"properties": {"label": "car"}}'
    collection = convert(release, tmp_path)
    images = collection.to_xarray().image
    assert images.chunks[0] == (21, 3)
    assert len(list((tmp_path / "r.zarr").glob("chips/*/image/c/*/0/0/0"))) == 2
    np.testing.assert_array_equal(images.mean(("band", "y", "x")), np.arange(24))


def test_the_object_of_a_georeferenced_image_without_a_footprint(tmp_path):
    """No geometry in the label file: a pixel-based sample, even where the TIFF has a CRS, which the image keeps."""
    release = make_release(2, footprints=False)
    collection = convert(release, tmp_path)
    assert collection.samples.geometry.isna().all()
    assert collection[0].image.rio.crs == UTM
    assert collection.features.geometry.isna().all()


def test_geo_interface(tmp_path):
    collection = convert(make_release(2), tmp_path)
    sample = collection[1]
    assert sample.__geo_interface__["geometry"] == footprint_of((0.5, 0, 733_700, 0, -0.5, 3_725_150), 32, 40)
    assert shapely.equals(sample.geometry, shapely.geometry.shape(sample))
    assert geopandas.GeoDataFrame.from_features([sample]).geometry[0].equals(sample.geometry)


def test_many_threads_read_one_collection(tmp_path):
    collection = convert(make_release(40), tmp_path)
    expected = {s.id: s.image.values for s in collection}
    assert all(np.array_equal(s.pixels, expected[s.id]) for s in collection)
    collection = vs.open(tmp_path / "r.zarr")
    with ThreadPoolExecutor(8) as threads:
        for index, image in enumerate(threads.map(lambda i: collection[i % 40].image.values, range(400))):
            np.testing.assert_array_equal(image, expected[str(index % 40)])


def test_a_footprint_over_the_antimeridian(tmp_path):
    """Its longitudes go on past 180, and a finding tells."""
    release = make_release(1, georeferenced=False, task="classification")
    release.members[
        f"{release.top}/labels/0.json"
    ] = b"""{"geometry": {"type": "Polygon", "coordinates": [[[179.999, 10],
        [-179.999, 10], [-179.999, 10.002], [179.999, 10.002], [179.999, 10]]]}, "properties": {"label": {"car": 1}}}"""
    collection = convert(release, tmp_path)
    assert collection.samples["flags"][0].tolist() == [
        "footprint-antimeridian",
        "footprint-georeferenced",
    ]
    assert collection[0].image.rio.crs == "EPSG:4326"
    west, south, east, north = collection[0].image.rio.bounds()
    assert (west, south, east, north) == pytest.approx((179.999, 10, 180.001, 10.002))


@pytest.mark.parametrize("own_crs", [False, True])
@pytest.mark.parametrize("spelling", ["jumps", "goes on", "west of"])
def test_objects_over_the_antimeridian(tmp_path, spelling, own_crs):
    """They are told from pixels, and have their place in the chip, however longitudes are written."""
    transform = (0.001 / 40, 0, 179.9995, 0, -0.001 / 32, 10.0)

    def longitude(x_px):
        lon = 179.9995 + 0.001 * x_px / 40
        return lon - 360 if spelling == "west of" or (spelling == "jumps" and lon > 180) else lon

    def ring(west, north, east, south):
        corners = (west, north), ((west + east) / 2, north - 1), (east, north), (east, south), (west, south)
        return [[longitude(x), 10 - 0.001 * y / 32] for x, y in (*corners, corners[0])]

    boxes = [(4, 16, 12, 22), (16, 16, 28, 22), (32, 16, 36, 22)]
    objects = [{"type": "Polygon", "coordinates": [ring(*box)]} for box in boxes]
    footprint = [[longitude(x), y] for x, y in ((0, 10.0), (40, 10.0), (40, 9.999), (0, 9.999), (0, 10.0))]
    feature = {"geometry": {"type": "Polygon", "coordinates": [footprint]}, "properties": {"label": {"car": objects}}}
    release = make_release(1, georeferenced=False)
    pixels = pixels_of()
    release.members |= {
        f"{release.top}/labels/0.json": json.dumps(feature).encode(),
        f"{release.top}/images/0.tif": geotiff(pixels, transform, "EPSG:4326") if own_crs else plain_tiff(pixels),
    }
    collection = convert(release, tmp_path)
    found = collection.features.box_px.tolist()
    assert np.array(found) == pytest.approx(np.array([(w, n - 1, e, s) for w, n, e, s in boxes]), abs=1e-6)
    assert "footprint-disagrees" not in collection.samples["flags"][0].tolist()


def test_open_says_what_is_wrong(tmp_path):
    with pytest.raises(vs.errors.StoreError, match="there is no store"):
        vs.open(tmp_path / "none.zarr")
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(vs.errors.StoreError, match="not a vedastore store"):
        vs.open(tmp_path)
    with pytest.raises(vs.errors.UsageError, match="local paths"):
        vs.open("gs://bucket/x.zarr")
    with pytest.raises(vs.errors.UsageError, match="storage_options"):
        vs.open(tmp_path, storage_options={"anon": True})
    convert(make_release(1), tmp_path)
    with pytest.raises(vs.errors.UsageError, match="no version '2'"):
        vs.open(tmp_path / "r.zarr", version="2")


def test_on_a_cluster(tmp_path):
    """The same bytes on the workers of a Dask cluster, named or active."""
    distributed = pytest.importorskip("distributed")
    release = make_release(12)
    local = convert(release, tmp_path)
    local.export(tmp_path / "local.tar.gz")
    with distributed.Client(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as client:
        collection = vs.convert(tmp_path / "r.tar.gz", tmp_path / "c.zarr", client=client)
        collection.export(tmp_path / "cluster.tar.gz")
        assert collection.verify(against=tmp_path / "r.tar.gz").ok
    assert (tmp_path / "cluster.tar.gz").read_bytes() == (tmp_path / "local.tar.gz").read_bytes()
    shard = "chips/uint8-3x32x40/image/c/0/0/0/0"
    assert (tmp_path / "c.zarr" / shard).read_bytes() == (tmp_path / "r.zarr" / shard).read_bytes()


@needs_real_data
def test_real_footprints(tmp_path):
    """SpaceNet: labels in degrees, images in UTM; rasterio's own transform puts the objects at the same pixels."""
    collection = vs.convert(ATLANTA, tmp_path / "r.zarr")
    assert collection.features["geometry"].is_valid.all()
    for sample in collection:
        rows = collection.features[collection.features["id"] == sample.id]
        given = [o for found in sample.label.values() for o in found]
        assert len(rows) == len(given)
        to_pixel = ~sample.image.rio.transform()
        for row, geometry in zip(rows.itertuples(), given, strict=True):
            projected = rasterio.warp.transform_geom("EPSG:4326", "EPSG:32616", geometry)
            expected = [to_pixel * tuple(p[:2]) for p in projected["coordinates"][0]]
            np.testing.assert_allclose(shapely.get_coordinates(row.geometry_px.exterior), expected, atol=1e-4)


@needs_real_data
def test_real_veda_chips(tmp_path):
    collection = vs.convert(AUSTIN, tmp_path / "r.zarr")
    assert collection.classes == ("building",)
    for sample in collection:
        assert sample.label == {"building": int("building" in sample.classes)}
        np.testing.assert_allclose(sample.image.rio.bounds(), sample.geometry.bounds, atol=1e-12, rtol=0)
