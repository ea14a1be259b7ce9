"""scripts/bench: the page says what the results say, all readers give the same pixels, and failures are told."""

import dataclasses
import doctest
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import vedastore as vs
from scripts.benchmarks import formats, generator, goals, page, peers, readers, results
from scripts.benchmarks.contender import Contender, Row, measure
from scripts.benchmarks.data import Data
from scripts.benchmarks.plot import draw

DOCS = Path(__file__).resolve().parents[1] / "docs"
CHIPS = 5
OURS = ["vedastore", "vedastore-batches", "memmap", "zarr", "rasterio", "dataset"]
WITH_LIBRARY = {"hdf5": "h5py", "webdataset": "webdataset", "webdataset-gz": "webdataset"}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A release in the forms that readers read."""
    data = Data(tmp_path_factory.mktemp("bench"))
    at = data.places(CHIPS)
    generator.make_release(Path(at.release), CHIPS, "none")
    data.unpacked(CHIPS)
    formats.make_memmap(at.files, at.memmap)
    formats.make_sums(at.files, at.sums)
    vs.convert(at.release, at.store)
    return at


def row(*seconds, chips=1, **more):
    return {"seconds": list(seconds), "chips": chips, "status": "ok", **more}


def test_page_is_made_of_its_results():
    found = json.loads((DOCS / "benchmarks.json").read_text())
    assert (DOCS / "benchmarks.svg").read_text() == draw(found)
    assert (DOCS / "benchmarks.md").read_text() == page.render(found, "benchmarks.svg")


def test_figures_have_three_digits():
    assert doctest.testmod(page).attempted > 0
    assert doctest.testmod(page).failed == 0


def test_ratios_are_taken_within_rounds():
    first = Row(Contender("a", "a"), seconds=[1.0, 10.0, 2.0], chips=10)
    second = Row(Contender("b", "b"), seconds=[1.0, 5.0, 4.0], chips=5)
    mine, theirs = results.summarise([first, second])
    assert (mine["ratio"], theirs["ratio"], theirs["ratio_range"]) == (1.0, 2.0, [1.0, 4.0])
    assert (mine["chips_per_second"], theirs["seconds_median"], theirs["seconds_range"]) == (5.0, 4.0, [1.0, 5.0])


def test_goals_that_are_missed_are_told(monkeypatch):
    stages = {"convert": [row(2.0, 3.0, key="vedastore", bytes=120), row(4.0, 3.0, key="gzip")]}
    found = {
        "stages": stages,
        "data": {"release_bytes": 200, "samples": 2},
        "machine": {"memory_is": "PSS", "cores": 2},
    }
    monkeypatch.setattr(goals, "GOALS", [g for g in goals.GOALS if g.text.startswith(("convert a tar.gz", "size of"))])
    values = {goal.text: (value, value is not None and goal.reached(value)) for goal, value in goals.judge(found)}
    assert values == {
        "convert a tar.gz, by `gzip -dc` of it": (1.5, False),
        "size of the store, by the tar.gz": (1.2, False),
        "size of the compact store, by the tar.gz": (None, False),
        "size of the export, by gzip -6": (None, False),
    }


@pytest.mark.parametrize("task", ["sequential", "batches", "single"])
@pytest.mark.parametrize("name", [*OURS, *WITH_LIBRARY])
def test_readers_give_the_same_pixels(name, task, places):
    if name in WITH_LIBRARY:
        pytest.importorskip(WITH_LIBRARY[name])
    if name.startswith("webdataset") and task != "sequential":
        pytest.skip("it reads in a row only")
    if name == "hdf5" and not Path(places.hdf5).exists():
        formats.make_hdf5(places.memmap, places.hdf5)
    reader, sums = readers.READERS[name](places), np.load(places.sums)
    rows = readers.chosen(task, places, None)
    reader.load()
    reader.open()
    assert readers.work(reader, task, rows, sums) == CHIPS
    readers.check(reader, task, rows, sums)


def test_a_reader_that_gives_other_pixels_is_stopped(places, tmp_path):
    chips = np.load(places.memmap)
    chips[3, 1, 2, 3] ^= 1
    np.save(tmp_path / "other.npy", chips)
    other = readers.Memmap(dataclasses.replace(places, memmap=str(tmp_path / "other.npy")))
    other.open()
    rows, sums = np.arange(CHIPS), np.load(places.sums)
    with pytest.raises(SystemExit, match="sum up to"):
        readers.work(other, "sequential", rows, sums)
    for task in ("batches", "single"):
        with pytest.raises(SystemExit, match="sum up to"):
            readers.check(other, task, rows, sums)


def test_dataset_reads_what_the_release_has(places):
    found = peers.TiffDataset(places.tiffs)
    assert len(found) == CHIPS
    assert np.array_equal(np.stack([found[i]["image"] for i in range(CHIPS)]), np.load(places.memmap))


def test_contenders_take_turns_and_failures_are_told(tmp_path, capsys):
    pytest.importorskip("psutil")
    out, calls = tmp_path / "out", tmp_path / "calls"
    code = "import sys, json; open(sys.argv[1], 'a').write(sys.argv[2]); print(json.dumps({'parts': {'work': 2.0}}))"
    writes = f"import pathlib; p = pathlib.Path({str(out)!r}); assert not p.exists(); p.write_text('12345')"
    rows = measure(
        "stage",
        [
            Contender("a", "a", (sys.executable, "-c", code, str(calls), "a"), reports=True, clock="work"),
            Contender("b", "b", (sys.executable, "-c", code, str(calls), "b"), reports=True),
            Contender("half", "half", run_of="b", clock="work"),
            Contender("writes", "writes", (sys.executable, "-c", writes), writes=out),
            Contender("broken", "broken", (sys.executable, "-c", "raise SystemExit('it broke')")),
            Contender("absent", "absent", ("absent",), needs=("no_such_library",)),
        ],
        rounds=2,
    )
    found = {r.contender.key: r for r in rows}
    assert sorted(calls.read_text()) == ["a"] * 3 + ["b"] * 3  # the first run of each is not timed
    assert (found["a"].seconds, found["half"].seconds, len(found["b"].seconds)) == ([2.0, 2.0], [2.0, 2.0], 2)
    assert (found["writes"].bytes, out.exists(), found["writes"].status) == (5, False, "ok")
    assert (found["broken"].status, found["broken"].seconds) == ("failed: it broke", [])
    assert found["absent"].status == "not installed (no_such_library)"
    assert "broken failed" in capsys.readouterr().err
    told = page.render(
        {**json.loads((DOCS / "benchmarks.json").read_text()), "stages": {"convert": results.summarise(rows)}}, None
    )
    assert "| broken | failed: it broke |" in told
    assert "| absent | not installed (no_such_library) |" in told
