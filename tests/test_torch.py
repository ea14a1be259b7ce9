"""vedastore.torch under a real DataLoader: order, workers, going on in the middle, targets, and what is read."""

import copy
import itertools
import json
import pickle

import numpy as np
import pytest

import vedastore as vs
from tests.builders import TASKS, make_release
from tests.test_reading import counting
from vedastore.errors import UsageError

torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
from torch.utils.data import DataLoader, Subset  # noqa: E402 - once it is known to be there

from vedastore.torch import BatchDataset, BatchSampler, ChipDataset, collate  # noqa: E402

SAMPLES, SIZE = 23, 4
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes"),  # on fewer cores
    # Python 3.12 and later warn of every fork beside threads, which libraries have.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


def convert(folder, task):
    return vs.convert(make_release(SAMPLES, task=task).tar(folder / "r.tar"), folder / f"{task}.zarr")


@pytest.fixture(scope="module", params=TASKS)
def chips(request, tmp_path_factory):
    return convert(tmp_path_factory.mktemp("torch"), request.param)


@pytest.fixture(scope="module")
def hot(tmp_path_factory):
    return convert(tmp_path_factory.mktemp("torch"), "classification")


def iterable(collection, workers=0, **options):
    """A loader of whole batches, and what has its order."""
    dataset = BatchDataset(collection, SIZE, shuffle=True, seed=5)
    return DataLoader(dataset, batch_size=None, num_workers=workers, **options), dataset


def mapped(collection, workers=0, **options):
    """A loader of single samples, and what has its order."""
    dataset = ChipDataset(collection)
    sampler = BatchSampler(dataset, SIZE, shuffle=True, seed=5)
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=workers, **options), sampler


def wanted(collection, epoch, skip=0):
    """The pixels and classes of batches, by the plain way."""
    batches = collection.batches(SIZE, shuffle=True, seed=5, epoch=epoch, skip=skip)
    return [(images.tolist(), labels.tolist()) for images, labels in batches]


def told(loader):
    return [(images.tolist(), targets.tolist()) for images, targets in loader]


# ------------------------------------------------------------------------------------------------- order and workers


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("make", [iterable, mapped])
def test_the_order_is_the_same_with_any_workers(hot, make, workers):
    options = {"persistent_workers": True, "multiprocessing_context": "fork"} if workers else {}
    loader, order = make(hot, workers, **options)
    assert len(loader) == len(order) == 6
    for epoch in (0, 1):  # the workers live through both
        order.set_epoch(epoch)
        assert told(loader) == wanted(hot, epoch)
    order.set_epoch(0)
    assert len(told(itertools.islice(loader, 2))) == 2  # the third batch and more are under way in the workers
    state = json.loads(json.dumps(order.state(done=2)))
    assert state == hot.batches(SIZE, shuffle=True, seed=5, skip=2, clip=True, labels="classes").state()
    order.load_state(state)
    assert order.state() == state
    assert told(loader) == wanted(hot, 0, skip=2)
    order.set_epoch(1)
    assert told(loader) == wanted(hot, 1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda dataset: pickle.loads(pickle.dumps(dataset))])
def test_workers_of_a_copy_see_its_epochs(hot, copied):
    """What was pickled or copied has a place of its own, and shares it with its workers."""
    dataset = copied(BatchDataset(hot, SIZE, shuffle=True, seed=5))
    loader = DataLoader(
        dataset, batch_size=None, num_workers=1, persistent_workers=True, multiprocessing_context="fork"
    )
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        assert told(loader) == wanted(hot, epoch)


@pytest.mark.parametrize(("make", "method"), [(iterable, "spawn"), (mapped, "forkserver")])
def test_workers_that_begin_with_nothing(hot, make, method):
    loader, order = make(hot, 1, multiprocessing_context=method)
    order.set_epoch(1)
    assert told(loader) == wanted(hot, 1)


def test_states_are_those_of_batches(hot):
    _, order = mapped(hot)
    order.set_epoch(3)
    state = order.state(done=4)
    left = vs.Batches.from_state(hot, state)
    assert [(i.tolist(), t.tolist()) for i, t in left] == wanted(hot, 3, skip=4)
    for wrong in (None, state | {"size": 5}, state | {"seed": 0}, state | {"done": 7}, state | {"epoch": 10**30}):
        with pytest.raises(UsageError):
            order.load_state(wrong)
    with pytest.raises(UsageError, match="of another samples"):
        mapped(hot[1:])[1].load_state(state)
    with pytest.raises(UsageError, match="done is 7"):
        order.state(done=7)
    with pytest.raises(UsageError, match="epoch is -1"):
        order.set_epoch(-1)
    assert order.state(done=4) == state  # what was refused has changed nothing


def test_a_dataset_takes_the_collection_along_and_nothing_that_was_read(hot):
    dataset = ChipDataset(hot)
    copied = pickle.dumps(dataset)
    assert len(copied) < 20_000
    assert torch.equal(pickle.loads(copied)[3][0], dataset[3][0])


# --------------------------------------------------------------------------------------------------- items and targets


def test_targets_of_each_task(chips):
    dataset = ChipDataset(chips)
    images, targets = collate(dataset.__getitems__(range(SAMPLES)))
    assert np.array_equal(images, np.stack([s.pixels for s in chips]))
    if chips.task == "classification":
        assert targets.dtype == torch.float32
        assert np.array_equal(targets, chips.multi_hot())
        torch.nn.BCEWithLogitsLoss()(torch.zeros(targets.shape), targets)
    elif chips.task == "segmentation":
        assert targets.dtype == torch.int64
        assert np.array_equal(targets, chips.masks())
        torch.nn.CrossEntropyLoss()(torch.zeros(SAMPLES, 4, 32, 40), targets)
    else:
        for target, by_class in zip(targets, chips.boxes(clip=True), strict=True):
            assert (target["boxes"].dtype, target["labels"].dtype) == (torch.float32, torch.int64)
            assert np.array_equal(target["boxes"], np.concatenate(by_class).astype("f4"))
            assert target["labels"].tolist() == [code for code, own in enumerate(by_class, 1) for _ in own]
        assert {len(target["boxes"]) for target in targets} > {0}


def test_a_sample_that_is_asked_for_twice(chips):
    """As samplers with replacement do."""
    dataset, asked = ChipDataset(chips), [*range(SAMPLES)] * 2
    for at, (image, target) in zip(asked, dataset.__getitems__(asked), strict=True):
        alone, wanted = dataset[at]
        assert torch.equal(image, alone)
        if isinstance(wanted, dict):
            assert all(torch.equal(target[name], wanted[name]) for name in wanted)
        else:
            assert torch.equal(target, wanted)


def test_boxes_without_an_area_are_left_out(chips, monkeypatch):
    if chips.task != "object_detection":
        return
    thin = np.array([[1, 1, 1 + 1e-12, 9], [2, 3, 4, 5.0]])  # one edge, as float32 has it
    monkeypatch.setattr("vedastore.views.targets.group_boxes", lambda *_: [[thin, np.zeros((0, 4)), thin[1:]]])
    _, target = ChipDataset(chips)[0]
    assert (target["boxes"].tolist(), target["labels"].tolist()) == ([[2, 3, 4, 5], [2, 3, 4, 5]], [1, 3])


def test_other_labels_and_forms(chips):
    if chips.task == "classification":
        with pytest.raises(UsageError, match="no objects"):
            ChipDataset(chips, labels="boxes")
    (image, target) = ChipDataset(chips, labels="classes", channels="last", scale="max", fit="crop", size_px=(9, 8))[1]
    assert (image.shape, image.dtype, target.tolist()) == (
        (9, 8, 3),
        torch.float32,
        chips.multi_hot()[1].values.tolist(),
    )
    with pytest.raises(UsageError, match="there is no option 'skip'") as caught:
        BatchDataset(chips, 2, skip=1)
    assert caught.value.hint.startswith("there are split, bucket, labels, channels")
    with pytest.raises(UsageError, match="size is 0"):
        BatchSampler(ChipDataset(chips), 0)


def test_a_dataset_is_a_sequence(hot):
    dataset = ChipDataset(hot)
    assert torch.equal(dataset[-1][0], dataset[SAMPLES - 1][0])
    for index in (SAMPLES, -SAMPLES - 1):
        with pytest.raises(IndexError):
            dataset[index]
        with pytest.raises(IndexError):
            dataset.__getitems__([0, index])
    with pytest.raises(TypeError):
        dataset[1:3]
    images, targets = collate(dataset.__getitems__([]))
    assert (images.shape, targets.shape) == ((0, 3, 32, 40), (0, 3))


def test_samples_that_were_changed_in_their_list(chips):
    """As a dataset around this one does that augments what was read together."""
    samples = ChipDataset(chips).__getitems__([3, 1, 2])
    wanted, targets = collate(list(samples))
    for changed in (pickle.loads(pickle.dumps(samples)), samples):
        changed[:2] = [(image.flip(-1), target) for image, target in changed[:2]]
        images, _ = collate(changed)
        assert torch.equal(images[:2], wanted[:2].flip(-1))
        assert torch.equal(images[2:], wanted[2:])
    del samples[0]
    assert [len(part) for part in collate(samples)] == [2, 2]
    assert len(targets) == 3


@pytest.mark.parametrize("collate_fn", [None, collate])
def test_other_loaders_and_wrappers(hot, collate_fn):
    """PyTorch's own collation and subsets, and a dataset that changes samples one by one."""
    dataset = ChipDataset(hot)
    images, targets = next(iter(DataLoader(Subset(dataset, [7, 2, 9]), batch_size=2, collate_fn=collate_fn)))
    assert np.array_equal(images, np.stack([hot[7].pixels, hot[2].pixels]))
    assert np.array_equal(targets, hot.multi_hot()[[7, 2]])
    changed = [(image + 1, target) for image, target in dataset]
    images, _ = next(iter(DataLoader(changed, batch_size=2, collate_fn=collate_fn)))
    assert np.array_equal(images, np.stack([hot[0].pixels, hot[1].pixels]) + 1)


def test_detections_that_were_changed_one_by_one(chips):
    if chips.task == "object_detection":
        changed = [(image, target | {"more": 1}) for image, target in itertools.islice(ChipDataset(chips), 2)]
        images, targets = collate(changed)
        assert (len(images), [target["more"] for target in targets]) == (2, [1, 1])


# -------------------------------------------------------------------------------------------------- reads and copies


def test_a_batch_is_one_read_and_no_copy(hot):
    collection, objects = counting(hot.store)
    samples = ChipDataset(collection).__getitems__([5, 3, 4, 6])
    assert len(objects.of_shards("parts")) == 1
    images, _ = collate(samples)
    assert [images[at].data_ptr() for at in range(4)] == [image.data_ptr() for image, _ in samples]
    array, labels = next(hot.batches(4))
    assert ChipDataset(hot).source.as_tensors((array, labels))[0].data_ptr() == array.ctypes.data


def test_each_worker_reads_its_own_batches_alone(hot, monkeypatch):
    collection, objects = counting(hot.store)
    dataset = BatchDataset(collection, 1)
    monkeypatch.setattr("vedastore.torch.get_worker_info", lambda: type("Info", (), {"id": 1, "num_workers": 3}))
    assert [images.tolist() for images, _ in dataset] == [[hot[at].pixels.tolist()] for at in range(1, SAMPLES, 3)]
    assert len(objects.of_shards("parts")) == len(range(1, SAMPLES, 3))
