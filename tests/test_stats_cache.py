"""Statistics that a store keeps: the same answer without reading a pixel, and never that of another version."""

import json
import os
import shutil
import threading

import pytest
import zarr

import vedastore as vs
from tests.builders import assert_store_ok, make_release
from tests.test_docs import run_cli
from vedastore.ops import stats as stats_op
from vedastore.spec import statistics
from vedastore.spec.root import seal
from vedastore.store.chips import ShardReader


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A store of nine samples, with its statistics."""
    folder = tmp_path_factory.mktemp("kept")
    collection = vs.convert(make_release(9).tar(folder / "r.tar"), folder / "r.zarr")
    collection.stats()
    return folder / "r.zarr"


@pytest.fixture
def store(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "r.zarr")
    return tmp_path / "r.zarr"


@pytest.fixture
def reads(monkeypatch):
    """How many rows of chips were read."""
    rows = []
    read = ShardReader.read_rows
    monkeypatch.setattr(ShardReader, "read_rows", lambda self, wanted: rows.extend(wanted) or read(self, wanted))
    return rows


def kept_in(store):
    return sorted(store.rglob("stats*.json"))


def edit(store, change):
    """Change what is kept, and make its checksum fit."""
    (path,) = kept_in(store)
    body = json.loads(path.read_bytes())
    body.pop("checksum")
    change(body)
    path.write_text(json.dumps(seal(body)))


def test_the_second_answer_is_the_first_and_reads_no_pixels(store, reads):
    fresh = vs.open(store).stats(cached=False)
    assert sorted(reads) == list(range(9))
    kept = vs.open(store).stats()
    assert (kept, kept.to_dict(), len(reads)) == (fresh, fresh.to_dict(), 9)
    assert [type(v) for v in kept.bands[0].histogram] == [type(v) for v in fresh.bands[0].histogram]


def test_questions_of_another_kind_are_measured(store, reads):
    collection = vs.open(store)
    (path,) = kept_in(store)
    whole = path.read_bytes()
    assert collection[:4].stats().samples == 4
    assert collection.select(classes="car").stats().samples < 9
    assert list(collection.stats(percentiles=[50]).bands[0].percentiles) == ["50"]
    assert len(reads) > 13
    assert kept_in(store) == [path]
    assert path.read_bytes() == whole


def test_each_version_has_its_own(store, reads):
    vs.open(store).split(seed=1)
    found = vs.open(store).stats()
    assert set(found.splits) <= {"train", "test", "validate"}
    assert len(reads) == 9
    assert set(vs.open(store, "1.0.1").stats().splits) == {""}
    assert vs.open(store).stats() == found
    assert len(reads) == 9
    vs.convert(make_release(4, seed=5).tar(store.parent / "o.tar"), store, mode="overwrite")
    assert vs.open(store).stats().samples == 4


def test_those_of_another_version_are_passed_over(store, reads):
    edit(store, lambda body: body.update(describes="0" * 64))
    assert vs.open(store).stats().samples == 9
    edit(store, lambda body: body.update(format=99))
    assert vs.open(store).stats().samples == 9
    assert len(reads) == 18
    assert vs.open(store).verify().notes == ()


def test_buckets_have_their_own(tmp_path, reads):
    release = make_release(3)
    other = make_release(5, dtype="uint16", top=release.top)
    release.members |= {n: d for n, d in other.members.items() if n.rpartition("/")[2][0] in "34"}
    collection = vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    buckets = sorted(set(collection.samples.bucket))
    first = [collection.stats(bucket=name) for name in buckets]
    count = len(reads)
    assert [collection.stats(bucket=name) for name in buckets] == first
    assert (len(reads), count) == (5, 5)
    assert [s.samples for s in first] == [2, 3]
    assert collection.verify().notes == ()


def test_a_copy_keeps_them_and_a_store_with_them_is_sound(store, reads):
    shutil.copytree(store, store.with_name("copy.zarr"))
    vs.open(store.with_name("copy.zarr")).stats()
    assert reads == []
    assert_store_ok(store)
    group = zarr.open_group(store, mode="r")
    assert [*group.group_keys()] == ["chips"]


def test_a_store_that_cannot_be_written_answers(store, reads, monkeypatch):
    kept_in(store)[0].unlink()
    folder = next((store / "index").iterdir())
    if os.geteuid():
        folder.chmod(0o555)
    else:  # the rights of a directory stop everyone but root
        (folder / "stats.json").mkdir()
    before = sorted(store.rglob("*"))
    assert vs.open(store).stats() == vs.open(store).stats()
    assert len(reads) == 18
    assert sorted(store.rglob("*")) == before
    folder.chmod(0o755)


def test_no_link_leads_a_write_out_of_the_store(store, tmp_path):
    kept_in(store)[0].unlink()
    folder = next((store / "index").iterdir())
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    assert vs.open(store).stats().samples == 9
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_in_its_place_is_replaced_and_not_followed(store, tmp_path):
    (path,) = kept_in(store)
    path.unlink()
    (tmp_path / "mine").write_text("mine")
    path.symlink_to(tmp_path / "mine")
    assert vs.open(store).stats().samples == 9
    assert (tmp_path / "mine").read_text() == "mine"
    assert not path.is_symlink()


def test_damage_is_noticed_anywhere(store):
    wanted = vs.open(store).stats(cached=False)
    (path,) = kept_in(store)
    whole = path.read_bytes()
    for place in (0, 9, 40, len(whole) // 3, len(whole) // 2, len(whole) - 40, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert vs.open(store).stats() == wanted
        assert path.read_bytes() == whole, "it is made again"


LIES = {
    "samples": lambda stats: stats.update(samples=8),
    "no samples": lambda stats: stats.pop("samples"),
    "chips": lambda stats: stats["chips"][0].update(dtype="uint16"),
    "chips of nothing": lambda stats: stats["chips"][0].update(bucket="uint8-1x1x1"),
    "no bands": lambda stats: stats.update(bands=[]),
    "text": lambda stats: stats["bands"][0].update(mean="1"),
    "beyond": lambda stats: stats["bands"][0].update(mean=1e9),
    "negative": lambda stats: stats["bands"][0].update(count=-1),
    "true": lambda stats: stats["bands"][0].update(invalid=True),
    "huge": lambda stats: stats["bands"][0].update(max=10**400),
    "deviation": lambda stats: stats["bands"][0].update(std=1e9),
    "bins": lambda stats: stats["bands"][0]["histogram"].append(0),
    "histogram": lambda stats: stats["bands"][0]["histogram"].__setitem__(0, 10**6),
    "edges": lambda stats: stats["bands"][0]["edges"].reverse(),
    "too many values": lambda stats: stats["bands"][0].update(invalid=10**9),
    "percentiles": lambda stats: stats["bands"][0].update(percentiles=[1]),
    "classes": lambda stats: stats["classes"].pop("car"),
    "objects": lambda stats: stats["classes"]["car"].update(objects=0),
    "objects in all": lambda stats: stats["objects"].update(objects=0),
    "per sample": lambda stats: stats["objects_per_sample"].update({"99": 1}),
    "numbers of objects": lambda stats: stats["objects_per_sample"].update({"x": 1}),
    "splits": lambda stats: stats["splits"].update({"train": {}}),
    "a list": lambda stats: stats.update(splits=[]),
    "class of a split": lambda stats: stats["splits"][""]["classes"].update(tree=1),
    "areas": lambda stats: stats["classes"]["car"]["area_m2"].update(mean=[]),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_cannot_be_of_the_version_is_not_believed(store, lie, reads):
    edit(store, lambda body: LIES[lie](body["stats"]))
    (note,) = vs.open(store).verify().notes
    assert note.rule == "statistics"
    del reads[:]
    assert vs.open(store).stats().samples == 9
    assert len(reads) == 9


@pytest.mark.parametrize("data", [
    b"", b"{}", b"[]", b"null", b'{"checksum": 1}', b"\xff", b"[" * 10**6, b"[]," * 10**6, b" " * 9 * 2**20, b"NaN",
    b'{"format": 1e999}',
])  # fmt: skip
def test_no_document_is_no_answer(store, data):
    kept_in(store)[0].write_bytes(data)
    report = vs.open(store).verify()
    assert report.ok
    assert [(n.rule, n.where) for n in report.notes] == [("statistics", str(kept_in(store)[0].relative_to(store)))]
    assert vs.open(store).stats().samples == 9


def test_a_pipe_in_its_place_is_no_answer(store):
    (path,) = kept_in(store)
    path.unlink()
    os.mkfifo(path)
    assert vs.open(store).stats().samples == 9


def test_a_lie_that_could_be_true_is_found_by_verify(store):
    edit(store, lambda body: body["stats"]["bands"][0].update(mean=body["stats"]["bands"][0]["mean"] + 1e-3))
    assert [n.message for n in vs.open(store).verify().notes] == [
        "the statistics that are kept here are not those of the version"
    ]
    code, out = run_cli(["verify", str(store)])
    assert (code, "note statistics: index/" in out) == (0, True)
    assert run_cli(["stats", str(store), "--fresh", "--quiet"]) == (0, "")
    assert vs.open(store).verify().notes == ()


def test_what_is_too_long_is_not_kept(store, monkeypatch):
    kept_in(store)[0].unlink()
    monkeypatch.setattr(statistics, "LIMIT_BYTES", 1000)
    assert vs.open(store).stats().samples == 9
    assert kept_in(store) == []


def test_many_at_once(store):
    kept_in(store)[0].unlink()
    found = []
    threads = [threading.Thread(target=lambda: found.append(vs.open(store).stats(workers=1))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all(f == found[0] for f in found)
    assert len(kept_in(store)) == 1
    assert not list(store.rglob(".*"))
    assert vs.open(store).verify().notes == ()


def test_a_document_gives_the_statistics_again(store):
    found = vs.open(store).stats()
    assert stats_op.parse_stats(json.loads(json.dumps(found.to_dict()))) == found
