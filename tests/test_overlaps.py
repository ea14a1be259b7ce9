"""A larger release whose chips overlap: what splits leak, found by another library."""

import json
import subprocess
import sys

import pytest
import shapely

import vedastore as vs
from tests.builders import SHARED

MAKER = SHARED / "bench" / "make_release.py"
SAMPLES = 400
PLACE = "rng.uniform(-120, 120), rng.uniform(-60, 60)"


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A store of chips that lie within some kilometres of one another."""
    if not MAKER.exists():
        pytest.skip("the maker of large releases is not beside this checkout")
    folder = tmp_path_factory.mktemp("crowded")
    code = MAKER.read_text()
    assert PLACE in code
    code = f"__file__ = {str(MAKER)!r}\n" + code.replace(PLACE, "rng.uniform(7, 7.01), rng.uniform(46, 46.01)")
    command = [sys.executable, "-c", code, folder / "r.tar.gz", "--samples", str(SAMPLES), "--size", "64"]
    subprocess.run(command, check=True, capture_output=True)
    vs.convert(folder / "r.tar.gz", folder / "r.zarr")
    return folder / "r.zarr"


def crossing(collection):
    """The pairs of samples of different splits whose footprints touch, and the samples in them."""
    samples = collection.samples
    shapes, splits = samples.geometry.to_numpy(), samples.split.fillna("").to_numpy()
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    apart = (one != other) & (splits[one] != splits[other]) & (splits[one] != "") & (splits[other] != "")
    return int(apart.sum()) // 2, len({*one[apart].tolist()})


def report(store, *options):
    command = [sys.executable, "-m", "vedastore.cli", "split", store, "--json", *options]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_the_plain_split_leaks_and_says_how_much(crowded):
    told = report(crowded)
    pairs, samples = crossing(vs.open(crowded, told["version"]))
    assert pairs > 0
    assert told["touching"] == samples


@pytest.mark.parametrize("options", [(), ("--stratify", "--duplicates"), ("--buffer", "0.0005")])
def test_a_split_by_place_does_not(crowded, options):
    told = report(crowded, "--by", "place", *options)
    collection = vs.open(crowded, told["version"])
    assert crossing(collection) == (0, 0)
    assert told["touching"] == 0
    assert {*collection.samples.split.dropna()} == {"train", "test", "validate"}
    assert told["left_out"] == int(collection.samples.split.isna().sum())
