"""Batches for training: their order, going on in the middle, and images and labels in the form that was asked for."""

import importlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vedastore as vs
from tests.builders import TASKS, make_release
from tests.test_hostile_store import table
from tests.test_reading import counting
from vedastore.errors import MissingExtraError, UsageError
from vedastore.spec.tables import NULLABLE
from vedastore.store.spilled import SpilledObjects
from vedastore.views.order import WINDOW_SHARDS, Order

SHAPES = {"uint8-3x32x40": (32, 40), "uint8-3x48x36": (48, 36)}


def ragged(folder, task="segmentation", **other):
    """A collection of two shapes by turns; chips of the first say that 7 is no data."""
    first, second = make_release(5, task=task, nodata=7), make_release(4, task=task, **{"shape": (3, 48, 36)} | other)
    first.members |= {name.replace("s/", "s/9"): data for name, data in second.pairs.items()}
    return vs.convert(first.directory(folder / "release"), folder / f"{task}.zarr")


@pytest.fixture(scope="module", params=TASKS)
def chips(request, tmp_path_factory):
    return ragged(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return ragged(tmp_path_factory.mktemp("ragged"))


def content(batches):
    """All that batches hold, as something to compare."""
    return [(images.tobytes(), [plain(label) for label in labels]) for images, labels in batches]


def plain(label):
    return [part.tolist() for part in label] if isinstance(label, list) else np.asarray(label).tolist()


# --------------------------------------------------------------------------------------------------------------- order


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(0, 3), st.integers(0, 3))
def test_an_order_is_a_permutation_and_shards_stay_together(shards, seed, epoch):
    for shuffle in (False, True, "shards"):
        order = Order(1, shuffle, seed, epoch).arrange(shards).tolist()
        assert sorted(order) == list(range(len(shards)))
    left = [shards[at] for at in order]
    begun = set()
    for at, shard in enumerate(left):
        begun.add(shard)
        assert len(begun & set(left[at:])) <= WINDOW_SHARDS
    assert Order(1, False, seed, epoch).arrange(shards).tolist() == list(range(len(shards)))


def test_seed_and_epoch_decide_an_order():
    shards = np.arange(400) // 20
    orders = {
        (shuffle, seed, epoch): tuple(Order(8, shuffle, seed, epoch).arrange(shards).tolist())
        for shuffle in (True, "shards")
        for seed in (0, 1, 2**70)
        for epoch in (0, 1, 2)
    }
    assert len(set(orders.values())) == len(orders)
    assert orders[True, 1, 0] == tuple(np.random.default_rng(1).permutation(400).tolist())  # that of all versions


@pytest.mark.parametrize("shuffle", [False, True, "shards"])
def test_the_number_of_workers_changes_nothing(shapes, shuffle):
    options = {"shuffle": shuffle, "epoch": 1, "labels": "masks", "fit": "pad", "size_px": (48, 40)}
    one, *others = (content(shapes.batches(2, workers=workers, **options)) for workers in (1, 2, 5))
    assert others == [one, one]


def test_shards_are_told_apart_in_several_buckets(shapes):
    found = shapes.batches(2, fit="pad", size_px=(48, 40)).reader.shards
    assert len(set(found.tolist())) == 2
    assert (np.diff(found) != 0).tolist() == (np.diff([s.shape[1] for s in shapes]) != 0).tolist()


# --------------------------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": True, "seed": 2**80, "epoch": 3, "labels": "classes"},
        {"shuffle": "shards", "labels": "boxes", "fit": "crop", "size_px": (20, 30), "channels": "last"},
        {"shuffle": np.True_, "scale": (np.ones(3), 2), "dtype": np.float64, "bucket": "uint8-3x32x40"},
    ],
)
def test_batches_go_on_in_the_middle(shapes, tmp_path, options):
    shutil.copytree(shapes.store, tmp_path / "moved.zarr")
    options = {"bucket": "uint8-3x32x40"} | options if "fit" not in options else options
    whole = content(shapes.batches(2, **options))
    moved = vs.open(tmp_path / "moved.zarr")
    for done in range(len(whole) + 1):
        batches = shapes.batches(2, **options)
        assert len(batches) == len(whole)
        for _ in range(done):
            next(batches)
        state = json.loads(json.dumps(batches.state()))
        batches.close()
        left = vs.Batches.from_state(moved, state, workers=1)
        assert (len(left), left.state()) == (len(whole) - done, state)
        assert content(left) == whole[done:]
        assert len(left) == 0


def test_a_state_does_not_fit_other_samples(shapes, tmp_path):
    state = shapes.batches(2, bucket="uint8-3x32x40", skip=1).state()
    assert repr(vs.Batches.from_state(shapes, state)) == "<vedastore.Batches of 2: 2 of 3 left>"
    for other in (shapes[2:], shapes[::-1], shapes.select(where="height = 32 AND id > '1'")):
        with pytest.raises(UsageError, match=r"the state is of another (samples|selection)"):
            vs.Batches.from_state(other, state)
    shutil.copytree(shapes.store, tmp_path / "split.zarr")
    split = vs.open(tmp_path / "split.zarr").split()
    with pytest.raises(UsageError, match=r"the state is of another version: '1.0.1' instead of '1.0.1\+1'"):
        vs.Batches.from_state(split, state)


def wrong_states(state):
    yield from (None, [], "x", {}, {1: 2}, state | {"more": 1}, {k: v for k, v in state.items() if k != "done"})
    deep = []
    for _ in range(10_000):
        deep = [deep]
    yield from (state | {"seed": deep}, state | {"seed": b"x"}, {**state, "scale": object()})
    values = (None, -1, 10**400, 0.5, "x", [], {}, [[1]], [1, "x"], float("nan"), True)
    for name in state:
        yield from (state | {name: value} for value in values if value != state[name])


def test_wrong_states_are_refused(shapes):
    state = shapes.batches(2, bucket="uint8-3x32x40", skip=1).state()
    taken = []
    for wrong in wrong_states(state):
        try:
            found = vs.Batches.from_state(shapes, wrong)
        except UsageError:
            continue
        taken.append([name for name in state if wrong[name] != state[name]])
        assert found.state() == wrong
    # Numbers that make sense, a split or a bucket that is not named, and what is false or true anyhow.
    assert {name for names in taken for name in names} <= {"size", "seed", "epoch", "shuffle", "clip", "done"}


# ------------------------------------------------------------------------------------------------------------- images


def test_types_scales_and_channels(shapes):
    chips = shapes.select(where="width = 40")
    pixels = np.stack([sample.pixels for sample in chips])
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))

    def images(**options):
        (found, _), *_ = chips.batches(9, labels="classes", **options)
        return found

    for dtype in ("uint16", "int16", np.float32, np.dtype("f8")):
        found = images(dtype=dtype)
        assert (found.dtype, found.tolist()) == (np.dtype(dtype), pixels.tolist())
    assert np.array_equal(images(channels="last"), np.moveaxis(pixels, 1, -1))
    found = images(scale="max")
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found, pixels.astype("f4") / np.float32(255))
    found = images(scale=(mean, std), dtype="float64", channels="last")
    np.testing.assert_allclose(found, (np.moveaxis(pixels, 1, -1) - mean) / std, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(images(scale=(3, 2)), (pixels - 3.0) / 2)
    found += 1  # yours to change


@pytest.mark.parametrize(
    ("dtype", "options", "words"),
    [
        ("uint16", {"dtype": "uint8"}, "uint8 does not hold every value of uint16"),
        ("uint32", {"dtype": "float32"}, "float32 does not hold every value of uint32"),
        ("uint16", {"dtype": "O"}, "dtype is 'O'"),
        ("uint16", {"dtype": "(("}, "dtype is"),
        ("uint16", {"scale": "max", "dtype": "uint16"}, "scaled uint16 is no uint16"),
        ("float32", {"scale": "max"}, "float32 has no greatest value"),
        ("float32", {"scale": (0, 0)}, "scale is"),
        ("float32", {"scale": (0, 1e-200)}, "scale is"),
        ("float32", {"scale": (0, [1, 2])}, "scale is"),
        ("float32", {"scale": (float("nan"), 1)}, "scale is"),
        ("float32", {"scale": 255}, "scale is 255"),
        ("uint16", {"channels": "middle"}, "channels is 'middle'"),
        ("uint16", {"epoch": -1}, "epoch is -1"),
        ("uint16", {"epoch": 2**64}, "epoch is"),
        ("uint16", {"shuffle": "all"}, "shuffle is 'all'"),
        ("uint16", {"shuffle": np.array([1, 2])}, "shuffle is array"),
        ("uint16", {"fit": "stretch"}, "fit is 'stretch'"),
        ("uint16", {"size_px": (9, 9)}, "fit is None"),
        ("uint16", {"fit": "crop"}, "size_px is None"),
        ("uint16", {"fit": "crop", "size_px": (9, 0)}, "a side of size_px is 0"),
        ("uint16", {"fit": "pad", "size_px": (9, 2**40)}, "a side of size_px is"),
        ("uint16", {"fit": "pad", "size_px": (31, 99)}, "are larger than 31 x 99"),
        ("uint16", {"fit": "crop", "size_px": (31, 99)}, "are smaller than 31 x 99"),
    ],
)
def test_forms_that_make_no_sense(tmp_path, dtype, options, words):
    collection = vs.convert(make_release(1, dtype=dtype).tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        collection.batches(1, **options)


def test_a_float_is_rounded_to_a_smaller_type_by_a_scale(tmp_path):
    release = make_release(1, dtype="float64", nodata=-1.7e308)
    collection = vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    ((images, _),) = collection.batches(1, scale=(0, 1), fit="pad", size_px=(33, 40))
    assert images.dtype == "float32"
    assert np.array_equal(images[0, :, :32], collection[0].pixels.astype("f4"))
    assert (images[0, :, 32] == -np.inf).all()  # what float32 has for so small a number


def test_half_precision_holds_what_is_scaled_into_it(tmp_path):
    collection = vs.convert(make_release(2, dtype="uint16").tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    pixels = np.stack([sample.pixels for sample in collection]).astype("f4")
    for scale, wanted in (("max", pixels / 65535), ((60_000, 100_000), (pixels - 60_000) / 100_000)):
        ((images, _),) = collection.batches(2, scale=scale, dtype="float16")
        assert np.array_equal(images, wanted.astype("float16"))


# ---------------------------------------------------------------------------------------------- several heights, widths


def test_several_shapes_ask_for_a_fit(shapes, tmp_path):
    with pytest.raises(UsageError, match="of several shapes or types") as caught:
        shapes.batches(2)
    assert caught.value.hint.endswith("or take them all with fit= and size_px=")
    types = ragged(tmp_path, dtype="uint16")
    with pytest.raises(UsageError, match="of several types or numbers of bands"):
        types.batches(2, fit="pad", size_px=(48, 40))


@pytest.mark.parametrize("workers", [1, 3])
def test_smaller_chips_are_padded(chips, workers):
    options = {"fit": "pad", "size_px": (50, 41), "workers": workers, "shuffle": True}
    order = np.random.default_rng(0).permutation(len(chips))
    samples = [chips[int(at)] for at in order]
    images = np.concatenate([images for images, _ in chips.batches(4, **options)])
    wanted = []
    for sample in samples:
        _, height, width = sample.shape
        fill = 7 if height == 32 else 0
        wanted.append(np.pad(sample.pixels, ((0, 0), (0, 50 - height), (0, 41 - width)), constant_values=fill))
    assert np.array_equal(images, wanted)
    hot = np.concatenate([hot for _, hot in chips.batches(4, labels="classes", **options)])
    assert np.array_equal(hot, chips.multi_hot().values[order])
    if chips.task == "classification":
        return
    masks = np.concatenate([masks for _, masks in chips.batches(4, labels="masks", **options)])
    for found, sample in zip(masks, samples, strict=True):
        _, height, width = sample.shape
        assert np.array_equal(found, np.pad(sample.mask.values, ((0, 50 - height), (0, 41 - width))))
    boxes = [boxes for _, labels in chips.batches(4, labels="boxes", **options) for boxes in labels]
    assert [[b.tolist() for b in own] for own in boxes] == [[b.tolist() for b in s.boxes] for s in samples]


def test_larger_chips_are_cropped(chips):
    options = {"fit": "crop", "size_px": (25, 30)}
    images = np.concatenate([images for images, _ in chips.batches(4, **options)])
    corners = [(3, 5) if sample.shape[1] == 32 else (11, 3) for sample in chips]
    cut = [(slice(top, top + 25), slice(left, left + 30)) for top, left in corners]
    assert np.array_equal(images, [s.pixels[:, y, x] for s, (y, x) in zip(chips, cut, strict=True)])
    if chips.task == "classification":
        return
    masks = np.concatenate([masks for _, masks in chips.batches(4, labels="masks", **options)])
    assert np.array_equal(masks, [s.mask.values[y, x] for s, (y, x) in zip(chips, cut, strict=True)])
    found = [boxes for _, labels in chips.batches(4, labels="boxes", **options) for boxes in labels]
    moved = 0
    for sample, own, (top, left) in zip(chips, found, corners, strict=True):
        for before, after in zip(sample.boxes, own, strict=True):
            wanted = []
            for minx, miny, maxx, maxy in before.tolist():
                box = [max(minx - left, 0), max(miny - top, 0), min(maxx - left, 30), min(maxy - top, 25)]
                wanted += [box] if box[2] > box[0] and box[3] > box[1] else []
            assert after.tolist() == wanted
            moved += len(wanted)
    assert moved


def test_boxes_are_clipped_where_it_is_said(chips):
    if chips.task == "classification":
        return
    chips = chips.select(where="width = 40")
    (_, boxes), *_ = chips.batches(9, labels="boxes", clip=True)
    assert [[b.tolist() for b in own] for own in boxes] == [[b.tolist() for b in own] for own in chips.boxes(clip=True)]


@pytest.mark.parametrize("labels", ["masks", "boxes"])
def test_objects_are_read_once_for_all_batches(shapes, labels, monkeypatch):
    monkeypatch.setattr("vedastore.store.index.KEPT_BYTES", 0)  # more objects than are kept
    counted, objects = counting(shapes.store)
    batches = counted.batches(1, shuffle=True, labels=labels, fit="pad", size_px=(48, 40), workers=1, clip=True)
    next(batches)
    before = [read for read in objects.reads if read[0].endswith("parquet")]
    assert {key.rpartition("/")[2] for key, *_ in before} == {"samples.parquet", "features.parquet"}
    list(batches)
    assert [read for read in objects.reads if read[0].endswith("parquet")] == before


@pytest.fixture(scope="module")
def scattered(shapes, tmp_path_factory):
    """The same chips, whose objects stand in row groups of three in no order, no value of which may be missing."""
    store = tmp_path_factory.mktemp("scattered") / "s.zarr"
    shutil.copytree(shapes.store, store)
    order = np.random.default_rng(0).permutation(len(shapes.features))

    def change(found):
        required = [field.with_nullable(field.name in NULLABLE["features"]) for field in found.schema]
        return found.take(order).cast(pa.schema(required))

    table("features", change, row_group_size=3)(store)
    return vs.open(store)


def test_objects_in_no_order(shapes, scattered):
    options = {"shuffle": True, "labels": "boxes", "fit": "pad", "size_px": (48, 40)}
    for own, wanted in zip(
        content(scattered.batches(2, **options)), content(shapes.batches(2, **options)), strict=True
    ):
        assert own[0] == wanted[0]
        assert [[*map(sorted, of)] for of in own[1]] == [[*map(sorted, of)] for of in wanted[1]]


@settings(max_examples=30)
@given(st.lists(st.integers(0, 8), max_size=12), st.sets(st.integers(0, 8), min_size=1))
def test_spilled_objects_are_those_of_the_index(scattered, asked, known):
    features = scattered._snapshot.table("features")
    spilled = SpilledObjects(lambda: features, ["box_px"], np.array(sorted(known)))
    owner, found = spilled.read(np.array(asked, "i8"))
    rows = features.read(["position", "class", "box_px"]).to_pylist()
    wanted = [(at, row) for at, place in enumerate(asked) if place in known for row in rows if row["position"] == place]
    assert [*zip(owner.tolist(), found.to_pylist(), strict=True)] == wanted


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_a_thread_that_spills(scattered):
    process, begun, go_on, everyone = os.getpid(), threading.Event(), threading.Event(), np.arange(9)

    def features():
        begun.set()
        assert os.getpid() != process or go_on.wait(60)
        return scattered._snapshot.table("features")

    spilled, context = SpilledObjects(features, [], everyone), multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=lambda: there.send(len(spilled.read(everyone)[1])))
    with ThreadPoolExecutor(1) as threads:
        mine = threads.submit(spilled.read, everyone)
        assert begun.wait(60)
        child.start()
        answer = here.recv() if here.poll(60) else None
        go_on.set()
    child.kill()
    child.join()
    assert answer == len(mine.result()[1]) == len(scattered.features)


# --------------------------------------------------------------------------------------------------------------- torch


def test_what_to_do_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "vedastore.torch", raising=False)
    with pytest.raises(MissingExtraError, match="needs PyTorch, which cannot be imported") as caught:
        importlib.import_module("vedastore.torch")
    assert caught.value.hint.startswith("pip install torch")
