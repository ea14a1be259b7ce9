"""Reading pixels: which bytes are read and how often, batches, and readers in other threads and processes."""

import gc
import multiprocessing
import pickle
import threading
import tracemalloc
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

import vedastore as vs
from tests.builders import TASKS, UTM, geotiff, make_release
from tests.test_arrays import HUGE, SPECS, chip_of, write_bucket
from tests.test_hostile_store import column
from vedastore.io.local import LocalObjects
from vedastore.spec.arrays import DIMENSIONS, ChipSpec
from vedastore.store.chips import ShardReader, plan_runs
from vedastore.store.snapshot import Snapshot
from vedastore.views.collection import Collection
from vedastore.views.sample import _build_image, _pattern
from vedastore.views.targets import Labels

LARGE = ChipSpec("uint8", 3, 1024, 1024)  # 21 a shard
SMALL = ChipSpec("uint8", 3, 128, 128)  # 21 a run
LARGES = 24


class CountingObjects(LocalObjects):
    """Local objects that tell what was read of them."""

    def __init__(self, path):
        super().__init__(path)
        self.reads = []

    def read(self, key, start=0, length=None):
        data = super().read(key, start, length)
        self.reads.append((key, "read", start, len(data)))
        return data

    def read_parts(self, key, start, lengths):
        parts = super().read_parts(key, start, lengths)
        self.reads.append((key, "parts", start, sum(map(len, parts))))
        return parts

    def of_shards(self, how):
        """The reads of shards in one way: their index by ``read``, chips by ``parts``."""
        return [read for read in self.reads if read[0].startswith("chips/") and read[1] == how]


def counting(store):
    """Open a store; give its collection, and its objects, which count."""
    objects, opened = CountingObjects(store), vs.open(store)._snapshot
    return Collection(Snapshot(objects, opened.root, opened.version)), objects


LARGE_BUCKET = "uint8-3x1024x1024"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A store of two shards."""
    folder = tmp_path_factory.mktemp("large")
    release = make_release(0, task="classification")
    for number in range(LARGES):
        release.members[f"{release.top}/images/{number}.tif"] = geotiff(chip_of(LARGE, number))
        label = "car" if number % 3 else "boat"
        release.members[f"{release.top}/labels/{number}.json"] = b'{"properties": {"label": "%s"}}' % label.encode()
    vs.convert(release.tar(folder / "r.tar"), folder / "r.zarr")
    return folder / "r.zarr"


@pytest.fixture(scope="module", params=TASKS)
def small(request, tmp_path_factory):
    """A collection of each task, of 50 samples."""
    folder = tmp_path_factory.mktemp("small")
    return vs.convert(make_release(50, task=request.param).tar(folder / "r.tar"), folder / "r.zarr")


def reader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("vedastore-batches")]


# ------------------------------------------------------------------------------------------------ what is read, and how


def test_no_shard_is_read_before_pixels_are_asked_for(large):
    collection, objects = counting(large)
    assert (len(collection), len(list(collection)), collection["3"].id, len(collection.samples)) == (24, 24, "3", 24)
    assert collection.to_xarray().image.sum().dtype == "uint64"
    assert collection.to_xarray().label.sum() == 24
    collection.batches(4)
    assert objects.of_shards("read") == objects.of_shards("parts") == []


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("size", [1, 5, LARGES])
def test_batches_read_each_wanted_byte_once(large, size, shuffle):
    collection, objects = counting(large)
    assert sum(len(images) for images, _ in collection.batches(size, shuffle, workers=1)) == LARGES
    encoded = sum(file.stat().st_size for file in large.glob("chips/*/image/c/*/0/0/0"))
    indexes, chips = objects.of_shards("read"), objects.of_shards("parts")
    assert Counter(key for key, *_ in indexes) == {key: 1 for key, *_ in chips}
    assert len({key for key, *_ in chips}) == 2
    assert sum(length for *_, length in indexes + chips) == encoded
    assert len(chips) == LARGES  # a chip is larger than what is read at once


def test_neighbours_are_read_at_once(tmp_path):
    _, name = write_bucket(tmp_path, SMALL, [chip_of(SMALL, seed) for seed in range(60)])
    objects = CountingObjects(tmp_path)
    reader = ShardReader(objects, name, SMALL)
    reader.read_rows(range(60))
    assert len(objects.of_shards("parts")) == 3
    assert [(a[2] + a[3]) for a in objects.of_shards("parts")][:2] == [a[2] for a in objects.of_shards("parts")][1:]
    objects.reads.clear()
    reader.read_rows([40, 7, 9, 8, 41, 20, 8])
    assert len(objects.of_shards("parts")) == 3
    assert not objects.of_shards("read")
    lengths = {row: reader._entries(0)[row][1] for row in range(60)}
    assert sum(a[3] for a in objects.of_shards("parts")) == sum(lengths[row] for row in (7, 8, 9, 20, 40, 41))


def test_a_dask_task_reads_its_shard_alone(large):
    collection, objects = counting(large)
    images = collection.to_xarray().image
    images[21:].sum().compute(scheduler="synchronous")
    assert {key for key, *_ in objects.reads if key.startswith("chips/")} == {f"chips/{LARGE_BUCKET}/image/c/1/0/0/0"}
    objects.reads.clear()
    images.sum().compute(scheduler="synchronous")
    assert len(objects.of_shards("parts")) == LARGES


@given(st.lists(st.integers(0, 99)), st.sampled_from([SMALL, LARGE, ChipSpec("uint16", 4, 1500, 1500)]))
def test_runs_are_neighbours_in_one_shard(rows, spec):
    runs = plan_runs(np.array(rows, "i8"), spec)
    assert sorted(at for run in runs for at in run.tolist()) == list(range(len(rows)))
    for run in (r.tolist() for r in runs if len(r)):
        found = [rows[at] for at in run]
        assert all(0 <= b - a <= 1 for a, b in pairwise(found))
        assert len({row // spec.samples_per_shard for row in found}) == 1
        assert len(run) == 1 or len(run) * np.prod(spec.shape) * spec.itemsize <= LocalObjects.run_bytes


# ---------------------------------------------------------------------------------------------------- pixels, no copies


@given(st.data(), SPECS)
def test_rows_come_in_the_order_asked_for(tmp_path_factory, data, spec):
    chips = [chip_of(spec, seed) for seed in range(6)]
    objects, name = write_bucket(tmp_path_factory.mktemp("rows"), spec, chips)
    rows = data.draw(st.lists(st.integers(0, 5)))
    found = ShardReader(objects, name, spec).read_rows(rows)
    assert (found.shape, found.dtype, found.flags.writeable) == ((len(rows), *spec.shape), np.dtype(spec.dtype), True)
    assert found.tobytes() == b"".join(chips[row].tobytes() for row in rows)


@pytest.mark.parametrize("spec", HUGE)
def test_rows_of_tiled_chips(tmp_path, spec):
    chips = [chip_of(spec, seed) for seed in range(3)]
    objects, name = write_bucket(tmp_path, spec, chips)
    assert np.array_equal(ShardReader(objects, name, spec).read_rows([2, 0]), [chips[2], chips[0]])


@pytest.mark.parametrize("codec", ["default", "compact"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_chips_are_decompressed_into_their_place(tmp_path, dtype, codec):
    spec = ChipSpec(dtype, 3, 256, 256, codec)
    objects, name = write_bucket(tmp_path, spec, [chip_of(spec, seed) for seed in range(20)])
    reader = ShardReader(objects, name, spec)
    reader.read(0)
    assert (
        traced_peak(lambda: reader.read_rows(range(20)))
        < 20 * np.prod(spec.shape) * spec.itemsize + 2 * LocalObjects.run_bytes
    )


def test_a_sum_on_dask_copies_no_pixels(large):
    images = vs.open(large).to_xarray().image[:21]
    images.sum().compute(scheduler="synchronous")
    raw = 21 * np.prod(LARGE.shape)
    assert traced_peak(lambda: images.sum().compute(scheduler="synchronous")) < 1.2 * raw


def traced_peak(function):
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------------------------------------------- one sample


@pytest.mark.parametrize("nodata", [None, "0", "-9999", "nan"])
@pytest.mark.parametrize("transform", [None, (0.5, 0.0, 7.25, 0.0, -0.5, 9.0), (1.5, 0.2, 1 / 3, 0.1, -1.0, 7.0)])
@pytest.mark.parametrize("crs", [None, UTM, "EPSG:4326"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_an_image_is_what_rioxarray_makes_step_by_step(dtype, crs, transform, nodata):
    pixels = np.arange(24).reshape(2, 3, 4).astype(dtype)
    expected = xr.DataArray(pixels, dims=DIMENSIONS[1:], coords={"band": [1, 2]}, name="image")
    value = None if nodata is None else float(nodata)
    if value is not None and (dtype != "uint8" or value == 0):  # -9999 is no value of bytes
        expected = expected.rio.write_nodata(np.dtype(dtype).type(value))
    if crs is not None:
        expected = expected.rio.write_crs(crs)
    if transform is not None:
        affine = Affine(*transform)
        if affine.b == 0:
            x, y = affine.c + (np.arange(4) + 0.5) * affine.a, affine.f + (np.arange(3) + 0.5) * affine.e
            expected = expected.assign_coords(x=x, y=y)
        expected = expected.rio.write_transform(affine)
    pattern = _pattern(2, dtype, nodata, crs, "store", georeferenced=transform is not None)
    for _ in range(2):
        image = _build_image(pixels, transform, pattern)
        xr.testing.assert_identical(image, expected)
        assert image.encoding == expected.encoding
        assert image.xindexes.keys() == expected.xindexes.keys()
        assert (image.rio.crs, image.rio.transform()) == (expected.rio.crs, expected.rio.transform())
        assert image.values is pixels
        image.attrs["a"] = image.band.attrs["a"] = 1  # of this image alone
        image.encoding.clear()
        if "spatial_ref" in image.coords:
            image.spatial_ref.attrs.clear()


# ------------------------------------------------------------------------------------------------------------- batches


def test_batches_in_the_order_of_the_collection(small):
    batches = list(small.batches(16))
    assert [len(images) for images, _ in batches] == [len(labels) for _, labels in batches] == [16, 16, 16, 2]
    images = np.concatenate([images for images, _ in batches])
    assert images.dtype == "uint8"
    np.testing.assert_array_equal(images, np.stack([s.image for s in small]))
    if small.task == "classification":
        assert all(labels.dtype == "uint8" for _, labels in batches)
        np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), small.multi_hot())
    else:
        assert [label for _, labels in batches for label in labels] == [s.label for s in small]


def test_labels_are_a_sequence(small):
    if small.task == "classification":
        return
    _, labels = next(small.batches(4))
    assert isinstance(labels, Labels)
    assert (labels[-1], labels[1:3]) == (small[3].label, [small[1].label, small[2].label])
    assert repr(labels) == "<vedastore labels of 4 samples>"
    with pytest.raises(IndexError):
        labels[4]


def test_labels_of_a_shuffle_are_read_once_and_pass_to_other_processes(small):
    if small.task == "classification":
        return
    counted, objects = counting(small.store)
    batches = [labels for _, labels in counted.batches(4, shuffle=True)]
    before = len(objects.reads)
    first = list(batches[0])
    read = len(objects.reads) - before
    for labels in batches[1:]:
        again = pickle.loads(pickle.dumps(labels))
        wanted = [small[sample.id].label for sample in labels._samples]
        assert list(labels) == wanted == list(again)
    assert first == [small[sample.id].label for sample in batches[0]._samples]
    assert len(objects.reads) - before == read  # all labels were read for the first one


def order_of(collection, **options):
    """The positions of a collection's samples in the order of its batches."""
    known = {sample.image.values.tobytes(): sample.position for sample in collection}
    return [known[image.tobytes()] for images, _ in collection.batches(8, **options) for image in images]


def test_a_shuffle_is_a_permutation_that_the_seed_alone_decides(small):
    order = order_of(small, shuffle=True)
    assert sorted(order) == list(range(50)) != order
    for workers in (1, 2, 7):
        assert order_of(small, shuffle=True, seed=0, workers=workers) == order
    assert order_of(small, shuffle=True, seed=1) != order
    part = small[10:30]
    assert sorted(order_of(part, shuffle=True)) == list(range(10, 30))


def test_skipped_batches_are_those_that_were_done(small):
    for options in ({}, {"shuffle": True, "seed": 4}):
        whole = [images.tobytes() for images, _ in small.batches(8, **options)]
        for done in (0, 1, 6, 7, 100):
            assert [images.tobytes() for images, _ in small.batches(8, skip=done, **options)] == whole[done:]


def test_labels_of_batches_as_arrays(small):
    hot = np.concatenate([labels for _, labels in small.batches(8, labels="classes")])
    np.testing.assert_array_equal(hot, small.multi_hot())
    if small.task == "classification":
        for form in ("masks", "boxes"):
            with pytest.raises(vs.errors.UsageError, match="no objects"):
                small.batches(8, labels=form)
        return
    options = {"shuffle": True, "seed": 2}
    order = order_of(small, **options)
    masks = np.concatenate([labels for _, labels in small.batches(8, labels="masks", **options)])
    np.testing.assert_array_equal(masks, small.masks().to_numpy()[order])
    boxes = [boxes for _, labels in small.batches(8, labels="boxes", **options) for boxes in labels]
    for found, wanted in zip(boxes, [small.boxes()[position] for position in order], strict=True):
        assert [b.tolist() for b in found] == [b.tolist() for b in wanted]


def test_a_batch_is_yours_to_change(large):
    (images, labels), *_ = vs.open(large).batches(3)
    images *= 2
    labels[:] = 7
    (again, hot), *_ = vs.open(large).batches(3)
    np.testing.assert_array_equal(images, again * 2)
    assert hot.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 2.5}, "size is 2.5"),
        ({"size": 1, "seed": -1, "shuffle": True}, "seed is -1"),
        ({"size": 1, "labels": "x"}, "labels is 'x'"),
        ({"size": 1, "skip": -1}, "skip is -1"),
        ({"size": 1, "split": 1}, "split is 1, which is no text"),
        ({"size": 1, "workers": 0}, "workers must be at least 1, not 0"),
        ({"size": 1, "workers": 2.5}, "workers must be at least 1, not 2.5"),
        ({"size": 1, "workers": "2"}, "workers must be at least 1, not '2'"),
        ({"size": 1, "split": "train"}, "there is no split 'train' .no sample is of one"),
        ({"size": 1, "bucket": "x"}, "there is no bucket 'x'"),
    ],
)
def test_what_no_batch_is_made_of(large, options, words):
    with pytest.raises(vs.errors.UsageError, match=words):
        vs.open(large).batches(**options)


def test_batches_of_several_shapes(tmp_path):
    release = make_release(4)
    release.members |= {
        name.replace("/0.", "/9."): data if name.endswith("json") else geotiff(chip_of(SMALL))
        for name, data in release.pairs.items()
        if "/0." in name
    }
    collection = vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    with pytest.raises(vs.errors.UsageError, match="of several shapes or types") as caught:
        collection.batches(2)
    assert "uint8-3x128x128, uint8-3x32x40" in caught.value.hint
    assert [len(images) for images, _ in collection.batches(3, bucket="uint8-3x32x40")] == [3, 1]
    assert len(list(collection[4:].batches(3))) == 1


def test_batches_of_a_split(tmp_path):
    store = tmp_path / "r.zarr"
    vs.convert(make_release(9).tar(tmp_path / "r.tar"), store)
    column("split", ["train", "test", None] * 3)(store)
    assert order_of(vs.open(store), split="test") == [1, 4, 7]
    assert sorted(order_of(vs.open(store)[2:], split="train", shuffle=True)) == [3, 6]


def test_batches_that_are_given_up_leave_no_thread(large):
    collection, objects = counting(large)
    batches = collection.batches(1, workers=2)
    assert reader_threads() == []
    next(batches)
    assert 1 <= len(reader_threads()) <= 2
    batches.close()
    assert reader_threads() == []
    assert 1 <= len(objects.of_shards("parts")) <= 4  # workers + 2
    next(batches := collection.batches(1, workers=2))
    del batches
    assert reader_threads() == []
    for _ in collection.batches(5):
        pass
    assert reader_threads() == []


def test_a_damaged_chip_ends_the_batches(tmp_path):
    collection = vs.convert(make_release(9).tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    (shard,) = (tmp_path / "r.zarr").glob("chips/*/image/c/0/0/0/0")
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    batches = collection.batches(1, workers=1)
    with pytest.raises(vs.errors.StoreError, match="pixels are damaged") as caught:
        list(batches)
    assert caught.value.where.endswith(": row 1")
    assert reader_threads() == []


def test_a_batch_that_memory_does_not_hold(tmp_path):
    collection = vs.convert(make_release(1).tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    reader = collection._snapshot.chips("uint8-3x32x40")
    with pytest.raises(
        vs.errors.StoreError, match="there is no memory for chips: 1000000000000000 of 3 x 32 x 40 uint8"
    ):
        reader.read_rows(np.broadcast_to(0, 10**15))


# ------------------------------------------------------------------------------------------------ processes and pickles


def sums(collection):
    """Pixels read in all ways, as numbers."""
    lazy = collection.to_xarray().image.sum(("band", "y", "x"))
    with_dask = lazy.compute(scheduler="synchronous").values  # a fork leaves the threads of Dask behind
    by_batch = [image.sum() for images, _ in collection.batches(4, workers=2) for image in images]
    one_by_one = [sample.image.values.sum() for sample in collection]
    return [with_dask.tolist(), np.array(by_batch).tolist(), np.array(one_by_one).tolist()]


def send_sums(pipe, collection, begun):
    """Answer from another process."""
    told = None
    if begun is not None:
        try:
            next(begun)
        except vs.errors.UsageError as error:
            told = error.message
        begun.close()
    pipe.send((sums(collection), told))
    pipe.close()


def answer_of(method, collection, begun=None):
    context = multiprocessing.get_context(method)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=send_sums, args=(there, collection, begun))
    process.start()
    there.close()
    answer = here.recv() if here.poll(60) else None
    process.join(10)
    process.kill()
    return answer


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_reads_while_threads_read_here(large):
    collection = vs.open(large)
    expected = sums(collection)
    stop = threading.Event()

    def read():
        reader = collection._snapshot.chips(LARGE_BUCKET)
        while not stop.is_set():
            reader.read_rows([5, 22, 3])

    threads = [threading.Thread(target=read) for _ in range(2)]
    batches = collection.batches(2, workers=2)
    next(batches)
    try:
        for thread in threads:
            thread.start()
        answers = [answer_of("fork", collection, batches) for _ in range(3)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    told = "batches that were begun before a fork do not go on behind it"
    assert answers == [(expected, told)] * 3
    assert len(list(batches)) == LARGES // 2 - 1  # they do go on here


def test_a_spawned_process_reads(large):
    collection = vs.open(large)[3:9]
    assert answer_of("spawn", collection) == (sums(collection), None)


def test_a_pickled_collection_reads(large):
    collection = vs.open(large)
    expected = sums(collection)
    copied = pickle.dumps(collection)
    assert len(copied) < 20_000  # nothing that was read
    assert sums(pickle.loads(copied)) == expected
