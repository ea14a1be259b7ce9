"""Boxes and masks: what GDAL draws of the release's own polygons, and what their bounds are."""

import json
import pickle
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import features
from rasterio.io import MemoryFile

import vedastore as vs
from tests.builders import ATLANTA, TASKS, make_release, needs_real_data, plain_tiff
from vedastore.io.raster import burn
from vedastore.views.objects import plan_drawing

HEIGHT, WIDTH = 32, 40


def source_pairs(archive):
    """The (TIFF bytes, Feature) of every sample of an archive by id."""
    images, labels = {}, {}
    with tarfile.open(archive) as members:
        for member in members.getmembers():
            folder, _, name = member.name.rpartition("/")
            stem = name.rpartition(".")[0]
            if folder.endswith("images"):
                images[stem] = members.extractfile(member).read()
            elif folder.endswith("labels"):
                labels[stem] = json.loads(members.extractfile(member).read())
    return {name: (images[name], labels[name]) for name in images}


def drawn_by_rasterio(tiff, feature, classes, coords):
    """The mask of a sample as rasterio draws the label file's polygons in the TIFF's own CRS."""
    with MemoryFile(tiff) as memory, memory.open() as file:
        transform, crs, size = file.transform, file.crs, file.shape
    shapes = []
    for code, name in enumerate(classes, 1):
        for polygon in feature["properties"]["label"].get(name, []):
            shape = shapely.geometry.shape(polygon)
            if coords == "geographic":
                project = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform
                shape = shapely.transform(shape, lambda p: np.stack(project(*p.T), axis=1))  # noqa: B023
            else:
                transform = Affine.identity()
            shapes.append((shape, code))
    if not shapes:
        return np.zeros(size, "u1")
    return features.rasterize(shapes, out_shape=size, transform=transform, fill=0, dtype="uint8")


def pixel_collection(tmp_path, labels, task="segmentation", shape=(1, HEIGHT, WIDTH)):
    """A collection of black chips without georeferencing, with labels of pixel coordinates."""
    release = make_release(0, task=task, meta=False)
    for number, label in enumerate(labels):
        pixels = np.full(shape, number, "u1")
        release.members[f"{release.top}/images/{number}.tif"] = plain_tiff(pixels)
        feature = {"type": "Feature", "geometry": {}, "properties": {"label": label}}
        release.members[f"{release.top}/labels/{number}.json"] = json.dumps(feature).encode()
    return vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr", task=task)


def polygon(*rings):
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]}


def square(x, y, side):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


# --------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("coords", ["pixel", "geographic"])
@pytest.mark.parametrize("task", ["object_detection", "segmentation"])
def test_masks_are_what_rasterio_draws_in_the_crs_of_the_image(tmp_path, task, coords):
    archive = make_release(20, task=task, coords=coords).tar_gz(tmp_path / "r.tar.gz")
    collection = vs.convert(archive, tmp_path / "r.zarr")
    masks = collection.masks()
    assert isinstance(masks.data, dask.array.Array)
    assert (masks.dims, masks.dtype, masks.shape) == (("sample", "y", "x"), "uint8", (20, HEIGHT, WIDTH))
    found = masks.compute()
    assert found.any()
    for mask, (name, (tiff, feature)) in zip(found, source_pairs(archive).items(), strict=True):
        assert mask.id == name
        np.testing.assert_array_equal(mask, drawn_by_rasterio(tiff, feature, collection.classes, coords))
        np.testing.assert_array_equal(mask, collection[name].mask)


@needs_real_data
def test_masks_of_real_footprints(tmp_path):
    collection = vs.convert(ATLANTA, tmp_path / "r.zarr")
    pairs = source_pairs(ATLANTA)
    assert len(collection.features) == sum(len(f["properties"]["label"]["building"]) for _, f in pairs.values())
    for mask in collection.masks().compute():
        tiff, feature = pairs[str(mask.id.item())]
        np.testing.assert_array_equal(mask, drawn_by_rasterio(tiff, feature, collection.classes, "geographic"))
    for sample in collection:
        assert sample.mask.rio.crs == sample.image.rio.crs
        assert sample.mask.rio.transform() == sample.image.rio.transform()


@settings(max_examples=25)
@given(st.data())
def test_masks_of_any_polygons(tmp_path_factory, data):
    number = st.integers(-80, 320).map(lambda n: n / 8)
    rings = st.lists(st.tuples(number, number).map(list), min_size=3, max_size=8, unique_by=tuple)
    objects = st.lists(rings.map(polygon), max_size=4)
    labels = data.draw(st.lists(st.fixed_dictionaries({"a": objects, "b": objects}), min_size=1, max_size=3))
    labels.append({"a": [polygon(square(1, 1, 4))], "b": [polygon(square(3, 3, 4))]})
    collection = pixel_collection(tmp_path_factory.mktemp("r"), labels)
    scale = data.draw(st.sampled_from([0.5, 1, 2, 4]))
    masks = collection.masks(scale=scale).compute()
    transform = Affine.scale(1 / scale)
    for mask, label in zip(masks.to_numpy(), labels, strict=True):
        shapes = [(shape, code) for code, name in enumerate("ab", 1) for shape in label[name]]
        size = int(HEIGHT * scale), int(WIDTH * scale)
        wanted = features.rasterize(shapes, size, transform=transform, dtype="uint8") if shapes else np.zeros(size)
        np.testing.assert_array_equal(mask, wanted)


def test_holes_parts_edges_and_nothing(tmp_path):
    outside = polygon(square(100, 100, 5))
    ring = polygon(square(2, 2, 10), square(4, 4, 4)[::-1])
    parts = {"type": "MultiPolygon", "coordinates": [polygon(square(x, 20, 3))["coordinates"] for x in (1, 10)]}
    across = polygon(square(-5, -5, 8))
    huge = polygon([[-1e300, 10], [1e300, 10], [1e300, 12], [-1e300, 12]])
    collection = pixel_collection(
        tmp_path, [{"a": [outside]}, {"a": [ring]}, {"a": [parts]}, {"a": [across]}, {"a": []}, {"a": [huge]}]
    )
    masks = collection.masks().to_numpy()
    sums = [0, 100 - 16, 18, 9, 0, 2 * WIDTH]
    assert masks.sum(axis=(1, 2)).tolist() == sums
    assert masks[3, :3, :3].all()
    assert masks[5, 10:12].all()
    assert not masks[1, 4:8, 4:8].any()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_shape_that_cannot_be_cut_stops_nothing(tmp_path):
    touching = polygon([[5, 5], [1e9, 6], [5, 7], [1e9, 6]])
    masks = pixel_collection(tmp_path, [{"a": [touching]}, {"a": [polygon(square(1, 1, 3))]}]).masks().to_numpy()
    assert masks.sum(axis=(1, 2)).tolist() == [0, 9]  # it goes there and back, and covers nothing


def test_a_collection_without_a_class(tmp_path):
    collection = pixel_collection(tmp_path, [{}] * 3, "object_detection")
    assert collection.classes == ()
    assert list(collection.boxes()) == [[], [], []] == collection.boxes()[:]
    assert collection[0].boxes == []
    assert collection.to_xarray().boxes.shape == (3, 0, 4)


def test_a_pixel_is_covered_where_its_centre_is(tmp_path):
    label = {"a": [polygon([[0.4, 0.6], [2.6, 0.6], [2.6, 2.4], [0.4, 2.4]])]}
    mask = pixel_collection(tmp_path, [label]).masks().to_numpy()[0]
    assert np.argwhere(mask).tolist() == [[1, 0], [1, 1], [1, 2]]


def test_the_later_class_lies_on_top_unless_told(tmp_path):
    labels = [{"car": [polygon(square(0, 0, 4))], "boat": [polygon(square(2, 2, 4))]}]
    collection = pixel_collection(tmp_path, labels)
    assert collection.classes == ("boat", "car")
    masks = collection.masks()
    assert masks.attrs["flag_meanings"] == "background boat car"
    assert masks.attrs["flag_values"].tolist() == [0, 1, 2]
    assert masks.to_numpy()[0, 3, 3] == 2
    assert collection.masks(order=["car", "boat"]).to_numpy()[0, 3, 3] == 1
    for order in (3, [1, "car"], [["car"], "boat"], ["car"], ["car", "boat", "tree"], ["car", "car"]):
        with pytest.raises(vs.errors.UsageError, match="order="):
            collection.masks(order=order)


def test_instances_are_the_rows_of_features(tmp_path):
    labels = [
        {"car": [polygon(square(0, 0, 4)), polygon(square(10, 0, 4))], "boat": [polygon(square(2, 2, 4))]},
        {"car": [polygon(square(20, 20, 4))], "boat": []},
    ]
    collection = pixel_collection(tmp_path, labels)
    masks = collection.masks(instances=True)
    assert masks.dtype == "uint16"
    for sample, mask in zip(collection, masks.to_numpy(), strict=True):
        rows = collection.features[collection.features.id == sample.id]
        for number, (_, row) in enumerate(rows.iterrows(), 1):
            x, y = row.geometry_px.representative_point().coords[0]
            shown = mask[int(y), int(x)]
            assert shown == number or rows["class"].iloc[shown - 1] > row["class"]
    assert masks.to_numpy()[0, 3, 3] == 1  # a car on a boat


def test_masks_of_a_selection_in_any_order(tmp_path):
    collection = vs.convert(make_release(12).tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    masks = collection.masks().to_numpy()
    part = collection[9:2:-3]
    np.testing.assert_array_equal(part.masks().to_numpy(), masks[[9, 6, 3]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(part)).to_xarray().mask.to_numpy(), masks[[9, 6, 3]])
    assert part.masks().id.to_numpy().tolist() == [s.id for s in part]


def test_masks_of_versions_are_arrays_of_their_own(tmp_path):
    made = vs.convert(make_release(3).tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    made.split()
    names = {vs.open(made.store, version).masks().data.name for version in vs.open(made.store).versions}
    assert len(names) == 2
    assert vs.open(made.store).masks().data.name in names  # as Dask has it: the same work, the same name


def test_masks_drawn_by_many_threads_warn_of_nothing():
    """The filters of warnings belong to all threads, and rasterio changes them while it draws."""
    shapes = [shapely.box(1, 1, 9, 9)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            drawn = list(pool.map(lambda _: burn(shapes, [1], (HEIGHT, WIDTH), "uint8").sum(), range(4000)))
    finally:
        sys.setswitchinterval(interval)
    assert drawn == [64] * 4000


@pytest.mark.parametrize("scale", [0, -1, 0.3, float("nan"), float("inf"), 1e-9, 1e300, "2", None])
def test_scales_that_give_no_whole_mask(scale):
    with pytest.raises(vs.errors.UsageError, match="scale"):
        plan_drawing(["a"], (HEIGHT, WIDTH), 0, instances=False, scale=scale, order=None)


@pytest.mark.parametrize("scale", [2, np.int64(2), np.float32(2)])
def test_a_scale_is_any_real_number(scale):
    drawing = plan_drawing(["a"], (HEIGHT, WIDTH), 0, instances=False, scale=scale, order=None)
    assert (drawing.shape, type(drawing.scale)) == ((2 * HEIGHT, 2 * WIDTH), float)


def test_the_type_of_masks_holds_every_class_and_object():
    def dtype(classes, most, *, instances):
        names = [f"{n:06}" for n in range(classes)]
        return plan_drawing(names, (1, 1), most, instances=instances, scale=1, order=None).dtype

    assert [dtype(n, 9, instances=False) for n in (0, 255, 256, 65_535, 65_536)] == [
        *("uint8", "uint8", "uint16", "uint16", "uint32")
    ]
    assert [dtype(1, n, instances=True) for n in (0, 65_535, 65_536)] == ["uint16", "uint16", "uint32"]


# --------------------------------------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize("coords", ["pixel", "geographic"])
@pytest.mark.parametrize("task", ["object_detection", "segmentation"])
def test_boxes_are_the_bounds_of_objects(tmp_path, task, coords):
    collection = vs.convert(make_release(20, task=task, coords=coords).tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    boxes = collection.boxes()
    rows = collection.features
    assert len(boxes) == 20
    for sample, per_class in zip(collection, boxes, strict=True):
        assert len(per_class) == len(collection.classes)
        for name, found in zip(collection.classes, per_class, strict=True):
            wanted = rows[(rows.id == sample.id) & (rows["class"] == name)].geometry_px
            np.testing.assert_array_equal(found, np.array([g.bounds for g in wanted]).reshape(-1, 4))
        for one, other in zip(per_class, sample.boxes, strict=True):
            np.testing.assert_array_equal(one, other)
    assert [len(b) for b in boxes[3:5][1]] == [len(b) for b in boxes[4]]
    assert [len(b) for b in boxes[-1]] == [len(b) for b in boxes[19]]
    with pytest.raises(IndexError):
        boxes[20]


def test_boxes_given_as_numbers_come_back(tmp_path):
    labels = [{"car": [[1, 2, 30, 31], [0, 0, 4, 4]]}, {"car": []}]
    collection = pixel_collection(tmp_path, labels, "object_detection")
    assert [b[0].tolist() for b in collection.boxes()] == [[[1, 2, 30, 31], [0, 0, 4, 4]], []]


def test_clipped_boxes(tmp_path):
    labels = [{"car": [[-5, -5, 4, 4], [100, 100, 120, 120], [30, 20, 90, 25], [1, 2, 3, 4]]}]
    collection = pixel_collection(tmp_path, labels, "object_detection")
    assert len(collection.boxes()[0][0]) == 4
    assert collection.boxes(clip=True)[0][0].tolist() == [[0, 0, 4, 4], [30, 20, WIDTH, 25], [1, 2, 3, 4]]


# -------------------------------------------------------------------------------------------------------- in a Dataset


def test_to_xarray_has_padded_boxes_for_detection(tmp_path):
    collection = vs.convert(make_release(20, task="object_detection").tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    dataset = collection.to_xarray().compute()
    counts = dataset.box_count.to_numpy()
    assert dataset.boxes.dims == ("sample", "box", "edge")
    assert dataset.sizes["box"] == counts.max()
    assert dataset.edge.to_numpy().tolist() == ["minx", "miny", "maxx", "maxy"]
    for sample, boxes, codes, count in zip(
        collection, dataset.boxes.to_numpy(), dataset.box_class.to_numpy(), counts, strict=True
    ):
        for code, wanted in enumerate(sample.boxes, 1):
            np.testing.assert_array_equal(boxes[codes == code], wanted)
        assert np.isnan(boxes[count:]).all()
        assert not codes[count:].any()


def test_to_xarray_has_masks_for_segmentation(tmp_path):
    collection = vs.convert(make_release(7).tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    dataset = collection.to_xarray()
    assert dataset.mask.chunks[0] == dataset.image.chunks[0]
    np.testing.assert_array_equal(dataset.mask, collection.masks())
    assert "mask" not in collection.to_xarray(labels=False)


@pytest.mark.parametrize("task", TASKS)
def test_a_collection_of_nothing_but_background(tmp_path, task):
    labels = [{"car": 0}] if task == "classification" else [{"car": []}]
    collection = pixel_collection(tmp_path, labels * 3, task)
    dataset = collection.to_xarray().compute()
    if task == "object_detection":
        assert dataset.boxes.shape == (3, 0, 4)
    elif task == "segmentation":
        assert not dataset.mask.any()
    assert not collection.multi_hot().any()


# ------------------------------------------------------------------------------------------------------------- refusals


def test_labels_for_classification_have_no_objects(tmp_path):
    collection = vs.convert(make_release(2, task="classification").tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    for ask in (collection.boxes, collection.masks, lambda: collection[0].mask, lambda: collection[0].boxes):
        with pytest.raises(vs.errors.UsageError, match="no objects"):
            ask()


def test_objects_without_a_place_are_not_left_out_in_silence(tmp_path):
    release = make_release(4, georeferenced=False)
    bad = f"{release.top}/labels/2.json"
    feature = json.loads(release.members[bad])
    corners = [[0, 0], [1, 0], [0.9, 2], [0.5, 3], [0, 1], [0, 0]]  # no rectangle, and so no transform
    feature["geometry"] = {"type": "Polygon", "coordinates": [corners]}
    feature["properties"]["label"]["car"] = [polygon(square(0.1, 0.1, 0.2))]
    release.members[bad] = json.dumps(feature).encode()
    collection = vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr", label_coords="geographic")
    for ask in (collection.boxes, collection.masks, collection.to_xarray, lambda: collection["2"].mask):
        with pytest.raises(vs.errors.UsageError, match="without a place in pixels") as refused:
            ask()
    condition = refused.value.hint.partition('where="')[2].partition('")')[0]
    rest = collection.select(where=condition)
    assert [s.id for s in rest] == ["0", "1", "3"]
    assert len(rest.masks()) == len(rest.boxes()) == 3
    assert collection.to_xarray(labels=False).sizes["sample"] == 4
