"""Statistics: NumPy on the pixels of the TIFF files is the referee."""

import threading

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import vedastore as vs
from tests.builders import AUSTIN, TASKS, geotiff, make_release, needs_real_data, plain_tiff, read_tiff
from vedastore.io import geometry
from vedastore.ops import moments, passes

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")
PERCENTS = (0, 1, 25, 50, 99.5, 100)


def collection_of(tmp_path, chips, nodata=None, **release):
    made = make_release(len(chips), **release)
    for number, pixels in enumerate(chips):
        transform = (0.5, 0, 733_600 + 100 * number, 0, -0.5, 3_725_150)
        half = pixels.dtype == "float16"  # which not every GDAL writes
        image = plain_tiff(pixels) if half else geotiff(pixels, transform, nodata=nodata)
        made.members[f"{made.top}/images/{number}.tif"] = image
    return vs.convert(made.tar(tmp_path / "r.tar"), tmp_path / "r.zarr", mode="overwrite")


def assert_bands(found, chips, nodata=None):
    """Compare with NumPy's numbers."""
    assert len(found.bands) == max(len(c) for c in chips)
    for number, band in enumerate(found.bands):
        values = np.concatenate([c[number].ravel() for c in chips if number < len(c)])
        values = values if nodata is None else values[values != nodata]
        invalid = 0
        if values.dtype.kind == "f":
            invalid = int((~np.isfinite(values)).sum())
            values = values[np.isfinite(values)]
        assert (band.count, band.invalid) == (len(values), invalid)
        if not len(values):
            assert (band.min, band.mean, band.percentiles, band.histogram) == (None, None, {}, ())
            continue
        assert (band.min, band.max) == (values.min(), values.max())
        wide = values.astype(np.longdouble)
        np.testing.assert_allclose(band.mean, float(wide.mean()), rtol=1e-10, atol=1e-300)
        np.testing.assert_allclose(band.std, float(wide.std()), rtol=1e-10, atol=1e-12 * float(np.abs(wide).max()))
        exact = np.percentile(wide, [np.longdouble(p) for p in PERCENTS])
        got = [band.percentiles[str(p)] for p in PERCENTS]
        np.testing.assert_allclose(got, exact.astype("f8"), rtol=1e-10, atol=1e-300)
        assert sum(band.histogram) == band.count
        if values.dtype.itemsize > 1:
            np.testing.assert_array_equal(band.histogram, np.histogram(values, band.edges)[0])
        else:
            info = np.iinfo(values.dtype)
            np.testing.assert_array_equal(band.histogram, np.bincount(values.astype(int) - info.min, minlength=256))


def random_chips(dtype, count=5, shape=(2, 24, 31)):
    rng = np.random.default_rng(7)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        chips = [(rng.normal(50, 20, shape) * 10.0 ** rng.integers(-2, 3)).astype(kind) for _ in range(count)]
        chips[0][0, 0, :3] = np.nan, np.inf, -np.inf
        chips[1][0, 0, :3] = 0.0, -0.0, np.finfo(kind).tiny
        return chips
    info = np.iinfo(kind)
    return [rng.integers(info.min, info.max, shape, kind, endpoint=True) for _ in range(count)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(tmp_path, dtype):
    chips = random_chips(dtype, shape=(1 if dtype == "float16" else 2, 24, 31))
    assert_bands(collection_of(tmp_path, chips).stats(percentiles=PERCENTS), chips)


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 7), ("uint16", 0), ("int32", -9999), ("float32", -9999.0)])
def test_nodata_is_left_out(tmp_path, dtype, nodata):
    chips = random_chips(dtype)
    for chip in chips:
        chip[:, 3:6] = nodata
    chips[2][1] = nodata
    found = collection_of(tmp_path, chips, nodata=nodata).stats(percentiles=PERCENTS)
    assert_bands(found, chips, nodata)


def test_nothing_but_nodata(tmp_path):
    for dtype in ("uint8", "float32"):
        chips = [np.full((1, 8, 8), 3, dtype)] * 2
        assert_bands(collection_of(tmp_path, chips, nodata=3).stats(percentiles=PERCENTS), chips, 3)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_chunks_and_workers_change_nothing(tmp_path, dtype, monkeypatch):
    chips = random_chips(dtype, 9)
    collection = collection_of(tmp_path, chips)
    whole = collection.stats(percentiles=PERCENTS)
    for block_bytes, workers in ((1, 1), (1, 3), (5000, 2)):
        monkeypatch.setattr(passes, "_BLOCK_BYTES", block_bytes)
        found = collection.stats(percentiles=PERCENTS, workers=workers)
        assert_bands(found, chips)
        assert found.bands[0].percentiles == whole.bands[0].percentiles
    assert_bands(collection[2:7:2].stats(percentiles=PERCENTS), chips[2:7:2])


@pytest.mark.parametrize("measure", ["_measure_run", "_refine_run"])
def test_blocks_are_measured_at_once_however_large(tmp_path, measure, monkeypatch):
    collection = collection_of(tmp_path, random_chips("float32", 4, (13, 8, 8)))  # up to 7 MiB of counts a band
    meet, work = threading.Barrier(2), getattr(passes, measure)

    def wait(*args, **kwargs):
        meet.wait(30)  # the other one has to come before this one ends
        return work(*args, **kwargs)

    monkeypatch.setattr(passes, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(passes, measure, wait)
    assert collection.stats(workers=2).samples == 4


def test_images_of_several_sizes_and_types(tmp_path):
    chips = [np.arange(n * n, dtype="u1").reshape(1, n, n) for n in (5, 8, 5)]
    assert_bands(collection_of(tmp_path, chips).stats(percentiles=PERCENTS), chips)
    mixed = collection_of(tmp_path, [chips[0], chips[1].astype("u2")])
    with pytest.raises(vs.errors.UsageError, match="several types"):
        mixed.stats()
    (bucket,) = {row.bucket for row in mixed.samples.itertuples() if row.bucket.startswith("uint16")}
    of_one = mixed.stats(bucket=bucket, percentiles=PERCENTS)
    assert_bands(of_one, [chips[1].astype("u2")])
    assert (of_one.samples, sum(of_one.objects_per_sample.values())) == (1, 1)


@pytest.mark.parametrize("values", [
    np.full(16, 1e20, "f4"), np.full(16, -3.4028235e38, "f4"), np.array([1.0, np.nextafter(1.0, 2)] * 8),
    np.full(16, 2**60, "u8"), np.array([2**62, 2**62 + 1] * 8, "i8"), np.array([-1.7e308, 1.7e308] * 8),
    np.array([0.0, 5e-324] * 8), np.zeros(16, "f4"), np.full(16, 7, "i2"),
])  # fmt: skip
def test_values_that_hardly_differ(tmp_path, values):
    chips = [values.reshape(1, 4, 4)]
    found = collection_of(tmp_path, chips).stats(percentiles=PERCENTS)
    (band,) = found.bands
    assert (band.min, band.max, sum(band.histogram)) == (values.min(), values.max(), 16)
    assert [band.percentiles[p] for p in ("0", "100")] == [float(values.min()), float(values.max())]


@pytest.mark.parametrize("kind", ["i1", "u1", "i4", "u8", "f4", "f8"])
def test_percentiles_of_any_numbers(tmp_path, kind):
    collection = collection_of(tmp_path, random_chips("uint8"))
    wanted = collection.stats(percentiles=[1, 50, 99]).bands[0].percentiles
    assert collection.stats(percentiles=np.array([99, 50, 1], kind)).bands[0].percentiles == wanted
    assert list(collection.stats(percentiles=[100, 99.99999]).bands[0].percentiles) == ["99.99999", "100"]


def test_nan_as_nodata_is_not_invalid(tmp_path):
    chips = random_chips("float32")
    chips[1][0, 3:6] = np.nan
    found = collection_of(tmp_path, chips, nodata=np.nan).stats()
    assert found.bands[0].invalid == 2  # the infinities
    assert found.bands[0].count == sum(np.isfinite(c[0]).sum() for c in chips)


@needs_real_data
def test_real_chips(tmp_path):
    collection = vs.convert(AUSTIN, tmp_path / "r.zarr")
    pixels = [s.image.to_numpy() for s in collection]
    found = collection.stats(percentiles=PERCENTS)
    assert_bands(found, pixels)
    hot = collection.multi_hot().to_numpy().sum(0)
    assert [entry["samples"] for entry in found.classes.values()] == hot.tolist()
    assert list(found.classes) == list(collection.classes)


@pytest.mark.parametrize("task", TASKS)
def test_classes_objects_and_splits(tmp_path, task):
    release = make_release(20, task=task)
    collection = vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    assert_bands(collection.stats(percentiles=PERCENTS), [read_tiff(d) for d in release.images().values()])
    for part in (collection, collection[3:15]):
        found = part.stats().to_dict()
        rows = part.features
        assert found["samples"] == len(part)
        for name, entry in found["classes"].items():
            own = rows[rows["class"] == name]
            assert entry["objects"] == len(own)
            assert entry["samples"] == sum(name in s.classes for s in part)
            if len(own):
                np.testing.assert_allclose(entry["area_px"]["mean"], own.area_px.mean())
                np.testing.assert_allclose(entry["width_px"]["max"], own.geometry_px.bounds.eval("maxx - minx").max())
        assert sum(found["objects_per_sample"].values()) == len(part)
        assert found["splits"][""]["objects"] == len(rows)


@pytest.mark.parametrize("task", ["object_detection", "segmentation"])
def test_sizes_of_objects(tmp_path, task):
    """pandas and pyproj are the referees."""
    collection = vs.convert(make_release(12, task=task).tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    found, rows = collection.stats(percentiles=PERCENTS), collection.features
    ground = [abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shape)[0]) for shape in rows.geometry]
    boxes = rows.geometry_px.bounds
    sizes = rows.assign(
        area_px=rows.geometry_px.area,
        width_px=boxes.maxx - boxes.minx,
        height_px=boxes.maxy - boxes.miny,
        area_m2=ground,
    )
    for told, own in (
        (found.objects, sizes),
        *((found.classes[n], sizes[sizes["class"] == n]) for n in collection.classes),
    ):
        assert told["objects"] == len(own) > 0
        for name in ("area_px", "width_px", "height_px", "area_m2"):
            values, entry = own[name], told[name]
            assert entry["count"] == len(values)
            figures = [entry[k] for k in ("min", "max", "mean", "median")]
            np.testing.assert_allclose(figures, [values.min(), values.max(), values.mean(), values.median()], rtol=1e-9)
            wanted = values.quantile([p / 100 for p in PERCENTS])
            np.testing.assert_allclose([entry["percentiles"][str(p)] for p in PERCENTS], wanted, rtol=1e-9)
    per_sample = collection.samples.objects
    assert found.objects["per_sample"]["mean"] == per_sample.mean()
    assert found.objects["per_sample"]["max"] == per_sample.max()
    assert found.objects_per_sample == per_sample.value_counts().sort_index().to_dict()


def test_areas_on_the_ground_are_those_of_equal_area_maps():
    """Holes, parts, either direction, the antimeridian; nothing for nothing."""
    ring = [(10, 50), (10.1, 50), (10.1, 50.1), (10, 50.1)]
    hole = [(10.02, 50.02), (10.04, 50.02), (10.04, 50.04), (10.02, 50.04)]
    shapes = np.array([
        shapely.Polygon(ring), shapely.Polygon(ring[::-1], [hole]), shapely.Polygon(ring, [hole]), None,
        shapely.MultiPolygon([shapely.Polygon(ring), shapely.Polygon(hole), shapely.Polygon(hole[::-1])]),
        shapely.box(179.95, 50, 180.05, 50.1), shapely.Polygon(), shapely.Polygon([(0, 0), (0, 95), (1, 95)]),
    ])  # fmt: skip
    to_map = pyproj.Transformer.from_crs("EPSG:4326", "+proj=cea +ellps=WGS84", always_xy=True)
    drawn = shapely.transform(shapes[[0, 1, 2, 4]], lambda xy: np.stack(to_map.transform(*xy.T), 1))
    found = geometry.ground_area(shapes)
    np.testing.assert_allclose(found[[0, 1, 2, 4]], shapely.area(drawn), rtol=1e-5)
    assert found[1] == pytest.approx(found[2])
    assert found[5] == pytest.approx(found[0])
    assert found[6] == 0
    assert np.isnan(found[[3, 7]]).all()
    assert geometry.ground_area(np.empty(0, object)).tolist() == []


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "int64"])
def test_each_split_has_figures_of_its_own(tmp_path, dtype):
    shape = (1 if dtype == "float16" else 2, 24, 31)
    chips = random_chips(dtype, 9, shape)
    collection = collection_of(tmp_path, chips)
    names = ["train", "test", ""]
    parted = collection.split(given={s.id: names[i % 3] for i, s in enumerate(collection) if names[i % 3]})
    found = parted.stats(percentiles=PERCENTS)
    assert_bands(found, chips)
    frame, rows = parted.samples.reset_index(), parted.features
    for number, name in enumerate(names):
        entry, own = found.splits[name], chips[number::3]
        ids = set(frame.id[number::3])
        mine = rows[rows.id.isin(ids)]
        assert (entry["samples"], entry["objects"]) == (3, len(mine))
        assert entry["class_objects"] == mine.groupby("class").size().to_dict()
        wanted = {c: sum(c in s.classes for s in parted if s.id in ids) for c in parted.classes}
        assert entry["classes"] == {c: n for c, n in wanted.items() if n}
        for band, told in enumerate(entry["bands"]):
            values = np.concatenate([chip[band].ravel() for chip in own])
            wide = values[np.isfinite(values)].astype(np.longdouble)
            assert (told["band"], told["count"]) == (band + 1, len(wide))
            assert (told["min"], told["max"]) == (wide.min(), wide.max())
            np.testing.assert_allclose(told["mean"], float(wide.mean()), rtol=1e-10)
            np.testing.assert_allclose(told["std"], float(wide.std()), rtol=1e-10)


def test_very_many_splits_have_no_figures_of_bands(tmp_path):
    collection = collection_of(tmp_path, random_chips("uint8", 20))
    parted = collection.split(given={s.id: f"fold {i}" for i, s in enumerate(collection)})
    found = parted.stats(percentiles=PERCENTS)
    assert_bands(found, random_chips("uint8", 20))
    assert [s["bands"] for s in found.splits.values()] == [[]] * 20
    assert parted[:16].stats().splits["fold 3"]["bands"][0]["count"] == 24 * 31


def test_shapes_of_chips_are_told(tmp_path):
    found = collection_of(tmp_path, [np.zeros((1, n, 2 * n), "u1") for n in (5, 8, 5)]).stats()
    assert [(c["dtype"], c["bands"], c["height"], c["width"], c["samples"]) for c in found.to_dict()["chips"]] == [
        ("uint8", 1, 5, 10, 2), ("uint8", 1, 8, 16, 1),
    ]  # fmt: skip


@given(
    hnp.arrays(st.sampled_from(DTYPES), st.integers(1, 60), elements=None),
    st.lists(st.floats(0, 100), min_size=1, max_size=4),
)
def test_order_by_digits_is_that_of_numpy(values, percents):
    finite = np.sort(values[np.isfinite(values)])
    keys = moments.order_keys(values)
    assert len(keys) == len(finite)
    assert moments.key_values(np.sort(keys), values.dtype).tolist() == finite.tolist()
    for rank in moments.ranks_of(percents, len(finite)):
        search = moments.Search(rank)
        for known in range(0, max(16, values.dtype.itemsize * 8), 16):
            if values.dtype.itemsize > 1:
                search = search.narrow(moments.count_digits(keys, [search.prefix], known)[search.prefix])
        if values.dtype.itemsize > 1:
            assert moments.key_values([search.prefix], values.dtype)[0] == finite[rank]


@given(hnp.arrays(st.sampled_from(["float32", "float64", "int32"]), st.integers(0, 50)), st.integers(0, 50))
def test_moments_merge(values, cut):
    with np.errstate(all="ignore"):
        whole = moments.Moments.of(values)
        merged = moments.Moments.of(values[:cut]).merge(moments.Moments.of(values[cut:]))
    assert (merged.count, merged.invalid, merged.least, merged.most) == (
        whole.count, whole.invalid, whole.least, whole.most,
    )  # fmt: skip


@pytest.mark.parametrize(("options", "words"), [
    ({"percentiles": [101]}, "percentiles"),
    ({"percentiles": ["x"]}, "percentiles"),
    ({"percentiles": 50}, "percentiles"),
    ({"percentiles": range(50)}, "up to 32"),
    ({"percentiles": [float("nan")]}, "percentiles"),
    ({"bucket": "x"}, "there is no bucket 'x'"),
])  # fmt: skip
def test_what_has_no_statistics(tmp_path, options, words):
    collection = collection_of(tmp_path, random_chips("uint8", 1))
    with pytest.raises(vs.errors.UsageError, match=words):
        collection.stats(**options)
