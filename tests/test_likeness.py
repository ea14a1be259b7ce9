"""Images that look alike: hashes that small changes leave alone, every near pair found, groups joined whole."""

import numpy as np
import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

import vedastore as vs
from tests.builders import make_release, pixels_of, plain_tiff
from vedastore.ops.groups import Groups, name_groups
from vedastore.ops.likeness import Likeness, read_likeness
from vedastore.spec.likeness import hash_images, is_telling, near_pairs


def distance(one, other):
    return (int(one) ^ int(other)).bit_count()


def slow_hash(chip, nodata=None):
    """The hash of one chip, cell by cell."""
    chip = np.abs(chip).astype("f8") if chip.dtype.kind == "c" else chip.astype("f8")
    chip[~np.isfinite(chip) | (chip == nodata)] = np.nan
    cells = np.empty((8, 9))
    for row, column in np.ndindex(8, 9):
        (top, left), (bottom, right) = (
            [n * size // count for n, size, count in zip((row + r, column + r), chip.shape[1:], (8, 9), strict=True)]
            for r in (0, 1)
        )
        part = chip[:, top : max(bottom, top + 1), left : max(right, left + 1)]
        cells[row, column] = np.nan if np.isnan(part).all() else np.nanmean(part)
    if not np.isnan(cells).all():
        cells[np.isnan(cells)] = np.nanmean(cells)
    bits = cells[:, :-1] > cells[:, 1:]
    return int("".join(str(int(bit)) for bit in bits.ravel()), 2)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64", "float16", "float64", "complex64"])
@pytest.mark.parametrize("shape", [(3, 32, 40), (1, 4, 5), (2, 8, 9), (1, 1, 1), (5, 17, 300)])
def test_hashes_are_those_of_cells(shape, dtype):
    chips = np.stack([pixels_of(shape, "uint8", seed) for seed in range(4)]).astype(dtype)
    if np.dtype(dtype).kind == "f":
        chips[1, :, : shape[1] // 2] = np.nan
        chips[2, 0, 0, 0] = np.inf
    assert hash_images(chips).tolist() == [slow_hash(chip) for chip in chips]
    bands_last = np.ascontiguousarray(chips.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert hash_images(bands_last).tolist() == hash_images(chips).tolist()
    if np.dtype(dtype).kind != "c":
        value = chips[3, 0, 0, 0]
        assert hash_images(chips, value).tolist() == [slow_hash(chip, value) for chip in chips]


def test_small_changes_change_few_bits():
    rng = np.random.default_rng(0)
    chips = np.stack([pixels_of((3, 96, 96), "uint8", seed) for seed in range(20)])
    hashes = hash_images(chips)
    assert is_telling(hashes).all()
    changed = [
        chips * 0.5 + 20,
        np.clip(chips + rng.normal(0, 4, chips.shape), 0, 255).astype("u1"),
        chips.astype("u2") * 257,
    ]
    for other in changed:
        apart = [*map(distance, hashes, hash_images(other))]
        assert np.median(apart) <= 2
    others = [distance(a, b) for n, a in enumerate(hashes) for b in hashes[:n]]
    assert min(others) > 6


def test_flat_images_say_too_little():
    flat = np.zeros((5, 1, 64, 64), "f4")
    flat[1], flat[2] = 7, np.nan
    flat[3, :, 30:34, 30:34] = 1  # a spot
    flat[4] = np.arange(64)  # brighter to the right
    assert not is_telling(hash_images(flat)).any()
    assert not is_telling(hash_images(np.full((1, 2, 16, 16), 1.7e308))).any()


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=12), st.lists(st.integers(0, 2**63), max_size=12), st.integers(0, 6)
)
def test_every_near_pair_is_found(seeds, changes, bits):
    """Hashes, and others that differ from them in a few bits."""
    near = [seed ^ sum(1 << bit for bit in {change >> k & 63 for k in range(0, 36, 6)})
            for seed in seeds for change in changes]  # fmt: skip
    hashes = np.unique(np.array([*seeds, *near], "u8"))
    found = {tuple(sorted(p)) for a, b in near_pairs(hashes, bits) for p in zip(a.tolist(), b.tolist(), strict=True)}
    wanted = {(a, b) for b in range(len(hashes)) for a in range(b) if distance(hashes[a], hashes[b]) <= bits}
    assert found == wanted


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_what_is_joined_is_one_group(count, pairs):
    pairs = [(a % count, b % count) for a, b in pairs]
    groups = Groups(count)
    groups.join((np.array([a]), np.array([b])) for a, b in pairs[::2])
    groups.join([tuple(np.array(pairs[1::2], "i8").reshape(-1, 2).T)])
    slow = list(range(count))
    for a, b in pairs:
        low, high = sorted((slow[a], slow[b]))
        slow = [low if root == high else root for root in slow]
    assert groups.roots.tolist() == slow
    numbers, names = name_groups(groups.roots, [f"n{(7 * n) % count}" for n in range(count)])
    assert [names[n] for n in numbers] == [
        min(f"n{(7 * m) % count}" for m in range(count) if slow[m] == slow[n]) for n in range(count)
    ]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(-1, 3)), max_size=25), st.integers(0, 6))
def test_images_of_other_splits_are_counted(images, bits):
    hashes = np.array([255 * (1 + n % 3) + 2 ** (n % 40) for n, _ in images], "u8")
    splits = np.array([split for _, split in images], "i8")
    different, kinds = np.unique(hashes, return_inverse=True)
    found = Likeness(kinds, different, 0).count_apart(splits, bits)
    leaks = [
        any(t not in (-1, s) and distance(h, g) <= bits for g, t in zip(hashes, splits, strict=True))
        for h, s in zip(hashes, splits, strict=True) if s >= 0
    ]  # fmt: skip
    assert found == sum(leaks)


def test_hashes_do_not_depend_on_who_works(tmp_path):
    release = make_release(12, task="classification")
    for number, shape in enumerate([(3, 40, 40), (1, 40, 40), (3, 40, 40), (1, 40, 40)]):
        flat = np.full(shape, 9 * (number // 2), "u1")
        release.members[f"{release.top}/images/{number}.tif"] = plain_tiff(flat)
    snapshot = vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr", label_coords="pixel")._snapshot
    positions = np.array([11, 3, 2, 5, 0, 1, 4])
    calls = []
    found = read_likeness(snapshot, positions, workers=1, progress=lambda *done: calls.append(done))
    assert calls[-1] == (7, 7)
    with Client(processes=False, dashboard_address=":0") as client:
        again = read_likeness(snapshot, positions, client=client)
    for other in (again, read_likeness(snapshot, positions, workers=3)):
        assert other.kinds.tolist() == found.kinds.tolist()
        assert other.hashes.tolist() == found.hashes.tolist()
    assert found.plain == 4
    assert len(set(found.kinds.tolist())) == 7  # flat, but of different pixels
    chips = [vs.open(tmp_path / "r.zarr")[int(p)].image.to_numpy() for p in positions]
    told = [slow_hash(chip) for chip, kind in zip(chips, found.kinds, strict=True) if kind < 3]
    assert sorted(told) == found.hashes.tolist()
