"""A release becomes a store and comes back: every dialect, every packing, every task."""

import json
import tarfile

import numpy as np
import pytest

import vedastore as vs
from tests.builders import (
    ATLANTA,
    AUSTIN,
    TASKS,
    Release,
    assert_store_ok,
    geotiff,
    make_release,
    needs_real_data,
    pixels_of,
    plain_tiff,
)
from tests.figures import count

PACKINGS = ("tar_gz", "tgz", "tar", "multi_member", "directory")


def content(store):
    return json.loads((store / "zarr.json").read_bytes())["attributes"]["vedastore"]["versions"][-1]["content"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("coords", ["geographic", "pixel"])
@pytest.mark.parametrize("georeferenced", [True, False])
def test_tasks_and_coordinates(tmp_path, task, coords, georeferenced):
    release = make_release(task=task, coords=coords, georeferenced=georeferenced)
    vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    collection = assert_store_ok(tmp_path / "r.zarr", release)
    assert (collection.task, collection.name, collection.version) == (task, "Harbours", "1.0.1")
    assert collection.classes == ("boat", "building", "car")
    assert collection.meta["extra"] == [1, {"a": None}]
    count("P6", releases=1, members=len(release.members), altered=0)


@pytest.mark.parametrize("order", ["paired", "images_first", "labels_first", "labels_reversed"])
@pytest.mark.parametrize("meta", [True, False])
def test_any_order_of_members(tmp_path, order, meta):
    release = make_release(5, order=order, meta=meta)
    vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    assert_store_ok(tmp_path / "r.zarr", release)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("top", ["ts_104-1.0.1", ""])
def test_packings_have_the_same_content(tmp_path, packing, top):
    release = make_release(12, top=top)
    expected = make_release(12)
    vs.convert(expected.tar_gz(tmp_path / "expected.tar.gz"), tmp_path / "expected.zarr")
    vs.convert(release.pack(packing, tmp_path), tmp_path / "r.zarr")
    assert content(tmp_path / "r.zarr") == content(tmp_path / "expected.zarr")
    assert_store_ok(tmp_path / "r.zarr")
    assert vs.open(tmp_path / "r.zarr").verify(against=tmp_path / "expected.tar.gz").ok


def test_without_meta_and_bounds_the_samples_are_the_same(tmp_path):
    for name, meta in (("with", True), ("without", False)):
        release = make_release(4, meta=meta)
        vs.convert(release.tar_gz(tmp_path / f"{name}.tar.gz"), tmp_path / f"{name}.zarr")
    assert content(tmp_path / "with.zarr")["samples"] == content(tmp_path / "without.zarr")["samples"]
    assert content(tmp_path / "with.zarr")["members"] != content(tmp_path / "without.zarr")["members"]
    one, other = vs.open(tmp_path / "with.zarr"), vs.open(tmp_path / "without.zarr")
    assert (one.task, one.classes) == (other.task, other.classes)
    assert other.meta is None


@pytest.mark.parametrize("task", TASKS)
def test_the_task_is_told_from_the_labels(tmp_path, task):
    vs.convert(
        make_release(4, task=task, meta=False, coords="pixel").tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr"
    )
    assert vs.open(tmp_path / "r.zarr").task == task


@pytest.mark.parametrize(
    "profile",
    [
        {"compress": "deflate"},
        {"compress": "lzw", "predictor": 2},
        {"compress": "zstd"},
        {"compress": "packbits"},
        {"interleave": "band"},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"},
        {"nodata": 0},
    ],
    ids=str,
)
def test_layouts(tmp_path, profile):
    release = make_release(3, **profile)
    vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    assert_store_ok(tmp_path / "r.zarr", release)
    count("P6", releases=1, members=len(release.members), altered=0)


def test_ragged(tmp_path):
    release = make_release(0)
    shapes = [
        ((3, 32, 40), "uint8"),
        ((1, 20, 20), "uint16"),
        ((8, 64, 16), "float32"),
        ((3, 32, 40), "uint8"),
        ((2, 9, 7), "int16"),
    ]
    for number, (shape, dtype) in enumerate(shapes):
        release.members[f"ts_104-1.0.1/images/{number}.tif"] = geotiff(pixels_of(shape, dtype, number))
        feature = {"type": "Feature", "geometry": None, "properties": {"label": {"car": []}}}
        release.members[f"ts_104-1.0.1/labels/{number}.json"] = json.dumps(feature).encode()
    del release.members["ts_104-1.0.1/bounds.geojson"]
    vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    collection = assert_store_ok(tmp_path / "r.zarr", release)
    buckets = set(collection.samples["bucket"])
    assert buckets == {"uint8-3x32x40", "uint16-1x20x20", "float32-8x64x16", "int16-2x9x7"}
    with pytest.raises(vs.errors.UsageError, match="bucket="):
        collection.to_xarray()
    images = collection.to_xarray(bucket="uint8-3x32x40").image
    assert images.shape == (2, 3, 32, 40)
    np.testing.assert_array_equal(images[1], pixels_of(seed=3))


def test_larger_chips_are_tiled(tmp_path):
    pixels = pixels_of((5, 1500, 1600), "uint16")
    release = make_release(0, task="classification")
    release.members["ts_104-1.0.1/images/a.tif"] = geotiff(pixels)
    release.members["ts_104-1.0.1/labels/a.json"] = b'{"geometry": {}, "properties": {"label": "car"}}'
    vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    collection = assert_store_ok(tmp_path / "r.zarr", release)
    assert collection[0].classes == ("car",)


def test_dialects(tmp_path):
    image, label = (
        plain_tiff(pixels_of()),
        b'{"type": "Feature", "geometry": {}, "Properties": {"label": {"car": true}}}',
    )
    release = Release({
        "./ts/README.txt": b"hello",
        "./ts/images/._1.tif": b"a resource fork",
        "./ts/.DS_Store": b"\x00\x01",
        "./ts/images/nested/9.tif": b"not an image of the release",
        "./ts/images/a.b.TIFF": image,
        "./ts/labels/a.b.geojson": b"\xef\xbb\xbf" + label,
        "./ts/labels/\u00fc.json": label,
        "./ts/images/\u00fc.tif": image,
    })  # fmt: skip
    collection = vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    assert_store_ok(tmp_path / "r.zarr", release)
    assert list(collection.samples["id"]) == ["a.b", "\u00fc"]
    assert collection["\u00fc"].label == {"car": True}
    document = json.loads((tmp_path / "r.zarr" / "zarr.json").read_bytes())["attributes"]["vedastore"]["versions"][0]
    (kept,) = [f["message"] for f in document["findings"] if f["rule"] == "kept-member"]
    assert kept.startswith("4 members: ./ts/README.txt, ./ts/images/._1.tif, ./ts/.DS_Store, ./ts/images/nested/9.tif")


def test_directory_members_come_back(tmp_path):
    folder = make_release(2).directory(tmp_path / "x")
    archive = tmp_path / "r.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(folder, arcname="ts_104-1.0.1")
    vs.convert(archive, tmp_path / "r.zarr")
    vs.open(tmp_path / "r.zarr").export(tmp_path / "back.tar")
    with tarfile.open(archive) as one, tarfile.open(tmp_path / "back.tar") as other:
        assert [(m.name, m.type) for m in one] == [(m.name, m.type) for m in other]


@pytest.mark.parametrize("spelling", [{"label_field": "kind"}, {"default_label": "car"}])
def test_labels_elsewhere(tmp_path, spelling):
    release = make_release(2, task="classification")
    for name in [n for n in release.members if "/labels/" in n]:
        release.members[name] = b'{"type": "Feature", "geometry": {}, "properties": {"kind": "car"}}'
    source = release.tar_gz(tmp_path / "r.tar.gz")
    with pytest.raises(vs.errors.LabelError, match="there is no label"):
        vs.convert(source, tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()
    collection = vs.convert(source, tmp_path / "r.zarr", **spelling)
    assert_store_ok(tmp_path / "r.zarr", release)
    assert collection[1].classes == ("car",)
    assert collection[1].label == "car"


@pytest.mark.parametrize("workers", [1, 5])
def test_workers_do_not_matter(tmp_path, workers):
    source = make_release(30).tar_gz(tmp_path / "r.tar.gz")
    for n in (2, workers):
        vs.convert(source, tmp_path / f"{n}.zarr", workers=n).export(tmp_path / f"{n}.tar.gz", workers=n)
    assert (tmp_path / "2.tar.gz").read_bytes() == (tmp_path / f"{workers}.tar.gz").read_bytes()
    shard = "chips/uint8-3x32x40/image/c/0/0/0/0"
    assert (tmp_path / "2.zarr" / shard).read_bytes() == (tmp_path / f"{workers}.zarr" / shard).read_bytes()


@needs_real_data
@pytest.mark.parametrize("source", [AUSTIN, ATLANTA], ids=lambda p: p.name)
def test_real_releases(tmp_path, source):
    vs.convert(source, tmp_path / "r.zarr")
    with tarfile.open(source) as archive:
        release = Release({m.name: archive.extractfile(m).read() for m in archive})
    collection = assert_store_ok(tmp_path / "r.zarr", release)
    against = collection.verify(against=source)
    assert against.ok
    assert (against.byte_identical, against.equivalent) == (len(release.members), 0)


def test_large_members_that_are_no_part_of_a_release(tmp_path):
    release = make_release(2)
    rng = np.random.default_rng(5)
    for number in range(3):
        release.members[f"ts_104-1.0.1/notes/{number}.bin"] = rng.bytes(3 * 2**20 + number)
    vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    assert_store_ok(tmp_path / "r.zarr", release)
