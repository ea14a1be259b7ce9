"""What can be made again is made again: the root from its copy, metadata from the root, statistics from the version."""

import json
import re
import shutil
import signal
import subprocess
import sys

import pytest

import vedastore as vs
from tests.builders import assert_store_ok, make_release
from vedastore.cli import main
from vedastore.errors import ConflictError, StoreError, UnknownOutcomeError, UsageError
from vedastore.io.local import LocalObjects
from vedastore.spec.root import dump_json, seal

RELEASE = make_release(5)
OTHER = make_release(4, seed=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of two versions, with statistics; and releases to overwrite it with."""
    folder = tmp_path_factory.mktemp("repair")
    OTHER.tar(folder / "other.tar")
    vs.convert(RELEASE.tar(folder / "r.tar"), folder / "r.zarr").split().stats()
    return folder


@pytest.fixture
def store(made, tmp_path):
    shutil.copytree(made / "r.zarr", tmp_path / "r.zarr")
    return tmp_path / "r.zarr"


def files(store):
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}


def copies(store):
    return sorted(p.relative_to(store).as_posix() for p in store.glob("index/*/root.json"))


def told(report):
    return [(r.rule, r.where) for r in report.repaired]


@pytest.fixture
def run(capsys):
    """Run a command in this process; give its exit code and what it prints."""

    def call(*arguments):
        code = main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return call


# ------------------------------------------------------------------------------------------------------ one copy a root


def test_a_root_has_one_copy(made, store):
    write_id = json.loads((store / "zarr.json").read_bytes())["attributes"]["vedastore"]["write_id"]
    assert copies(store) == [f"index/{write_id}/root.json"]
    assert (store / copies(store)[0]).read_bytes() == (store / "zarr.json").read_bytes()
    for change in (
        lambda: vs.open(store).assign(seen=1),
        lambda: vs.convert(made / "other.tar", store, mode="overwrite"),
    ):
        before = copies(store)
        change()
        assert len(copies(store)) == 1 != before
        assert (store / copies(store)[0]).read_bytes() == (store / "zarr.json").read_bytes()
    before = files(store)
    with pytest.raises(ConflictError):
        vs.convert(made / "other.tar", store)
    assert files(store) == before


def test_of_writers_that_lose_no_copy_stays(store):
    one, other = vs.open(store), vs.open(store)
    one.assign(seen=1)
    with pytest.raises(ConflictError):
        other.assign(seen=2)
    assert len(copies(store)) == 1


def test_clean_keeps_the_copy_of_the_root_and_no_other(store):
    before = files(store)
    vs.open(store).assign(seen=1)
    for key, data in before.items():
        if key.endswith("root.json"):
            (store / key).write_bytes(data)
    stays = copies(store)
    assert len(stays) == 2
    assert vs.clean(store).removed == 0
    assert vs.clean(store, grace_days=0).removed == 1
    assert len(copies(store)) == 1
    assert (store / copies(store)[0]).read_bytes() == (store / "zarr.json").read_bytes()


# ---------------------------------------------------------------------------------------------------- a root comes back


@pytest.mark.parametrize("damage", ["absent", "empty", "half", "checksum", "bit", "text", "dangling"])
def test_a_lost_root_is_restored(store, damage):
    before, path = files(store), store / "zarr.json"
    whole = path.read_bytes()
    path.unlink()
    if damage == "dangling":
        path.symlink_to(store.with_name("nowhere"))
    elif damage != "absent":
        path.write_bytes({
            "empty": b"",
            "half": whole[: len(whole) // 2],
            "checksum": whole.replace(b'"checksum": "', b'"checksum": "0'),
            "bit": whole.replace(b'"name": "Harbours"', b'"name": "Harbourr"', 1),
            "text": b"no JSON at all",
        }[damage])  # fmt: skip
    with pytest.raises(StoreError, match="verify --repair may restore it"):
        vs.open(store)
    report = vs.repair(store)
    assert report.ok
    assert told(report) == [("root", "zarr.json")]
    assert files(store) == before
    assert not path.is_symlink()
    assert_store_ok(store, RELEASE)
    assert vs.repair(store).repaired == ()


def test_the_command(store, run):
    before = files(store)
    (store / "zarr.json").unlink()
    code, _, error = run("verify", store)
    assert code == 5
    assert "verify --repair may restore it from a copy" in error
    code, out, _ = run("verify", store, "--repair")
    assert code == 0
    assert re.search(r"repaired root: .*restored from the copy of write [0-9a-f]{32} \(version 1.0.1\+1 of 2", out)
    assert files(store) == before
    shard = next(store.glob("chips/*/image/c/0/0/0/0"))
    shard.write_bytes(shard.read_bytes()[:-9] + bytes(9))
    (store / "chips" / "zarr.json").unlink()
    code, out, _ = run("verify", store, "--repair", "--json")
    assert code == 1
    document = json.loads(out)
    assert [r["where"] for r in document["repaired"]] == ["chips/zarr.json"]
    assert {p["rule"] for p in document["problems"]} == {"image", "shard"}
    assert run("verify", store, "--root", "0" * 32)[0] == 2
    assert run("verify", store, "--repair", "--root", "0" * 32)[0] == 2


def test_a_copy_that_is_not_whole_restores_nothing(store):
    """Not one that is damaged, or names what is not there, or is of another write; nothing is touched then."""
    whole, (key,) = files(store), copies(store)
    (store / "zarr.json").unlink()
    body = json.loads(whole[key])["attributes"]["vedastore"]
    body["versions"][0]["index"]["samples"]["bytes"] += 1
    lie = dump_json({"attributes": {"vedastore": seal({n: v for n, v in body.items() if n != "checksum"})}})
    samples, shard = (next(k for k in whole if end in k) for end in ("samples.parquet", "/c/0/0/0/0"))
    for damaged in (
        {key: whole[key].replace(b"Harbours", b"Harbourr")},
        {key: b""},
        {key: lie},
        {f"index/{'5c0ffee1' * 4}/root.json": whole[key], key: None},
        {samples: None},
        {shard: whole[shard][:-1]},
        {shard: None},
    ):
        for name, data in damaged.items():
            path = store / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True) if data is None else path.write_bytes(data)
        before = files(store)
        with pytest.raises(StoreError, match="there is no copy of its root that is whole"):
            vs.repair(store)
        assert files(store) == before
        for name in damaged:
            (store / name).unlink(missing_ok=True)
            if name in whole:
                (store / name).write_bytes(whole[name])
    assert vs.repair(store).ok


def test_what_is_no_store_stays_as_it_is(tmp_path, store):
    with pytest.raises(StoreError, match="there is no store"):
        vs.repair(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(StoreError, match="not a vedastore store"):
        vs.repair(tmp_path)
    later = (store / "zarr.json").read_bytes().replace(b'"format": 1,', b'"format": 9,', 1)
    (store / "zarr.json").write_bytes(later)
    for call in (vs.repair, vs.open):
        with pytest.raises(StoreError, match="update vedastore"):
            call(store)
    assert (store / "zarr.json").read_bytes() == later


# ------------------------------------------------------------------------------------------------------- several copies


def with_old_copy(store, change):
    """Change a store as a writer that dies before it has removed the copy of the root that it replaced."""
    before = {key: (store / key).read_bytes() for key in copies(store)}
    change()
    for key, data in before.items():
        (store / key).write_bytes(data)
    return next(iter(before)).split("/")[1]


def test_what_others_were_made_into_is_not_the_last(made, store):
    with_old_copy(store, lambda: vs.open(store).assign(seen=1))
    with_old_copy(store, lambda: vs.open(store).assign(seen=2))
    with_old_copy(store, lambda: vs.convert(made / "other.tar", store, mode="append", version="2"))
    before = (store / "zarr.json").read_bytes()
    assert len(copies(store)) == 4
    (store / "zarr.json").unlink()
    assert vs.repair(store).version == "2"
    assert (store / "zarr.json").read_bytes() == before
    assert_store_ok(store, OTHER)


def test_where_several_may_be_the_last_the_user_chooses(made, store):
    old, before = vs.open(store).version, (store / "zarr.json").read_bytes()
    old_id = with_old_copy(store, lambda: vs.convert(made / "other.tar", store, mode="overwrite"))
    new = (store / "zarr.json").read_bytes()
    new_id = next(name.split("/")[1] for name in copies(store) if old_id not in name)
    with pytest.raises(UsageError, match="sound"):
        vs.repair(store, root=old_id)
    (store / "zarr.json").unlink()
    here = files(store)
    with pytest.raises(StoreError, match="2 copies may be the last") as refused:
        vs.repair(store)
    assert f"{old_id} (version {old} of 2" in refused.value.hint
    assert f"{new_id} (version 1.0.1 of 2" in refused.value.hint
    with pytest.raises(UsageError, match="no copy that is whole"):
        vs.repair(store, root="0" * 32)
    assert files(store) == here
    assert vs.repair(store, root=old_id).ok
    assert (store / "zarr.json").read_bytes() == before
    assert_store_ok(store, RELEASE)
    (store / "zarr.json").unlink()
    assert vs.repair(store, root=new_id).ok
    assert (store / "zarr.json").read_bytes() == new
    (store / "zarr.json").write_bytes(new[:-300])  # it says whose it is
    assert vs.repair(store).ok
    assert (store / "zarr.json").read_bytes() == new
    assert_store_ok(store, OTHER)


def test_a_damaged_root_without_a_copy_is_not_replaced_by_an_older_one(store):
    with_old_copy(store, lambda: vs.open(store).assign(seen=1))
    whole = (store / "zarr.json").read_bytes()
    (newest,) = (name for name in copies(store) if (store / name).read_bytes() == whole)
    (store / newest).unlink()
    (store / "zarr.json").write_bytes(whole[:-300])
    with pytest.raises(StoreError, match=r"no copy of write [0-9a-f]{32}, which made it"):
        vs.repair(store)
    assert (store / "zarr.json").read_bytes() == whole[:-300]


def test_a_first_conversion_that_was_interrupted_is_no_store(store):
    (store / "zarr.json").unlink()
    (store / ".vedastore-incomplete").touch()
    for call in (vs.open, vs.repair):
        with pytest.raises(StoreError, match="has not finished"):
            call(store)
    assert vs.repair(store, root=copies(store)[0].split("/")[1]).ok


KILLED = """
import os, signal, sys, vedastore as vs
from vedastore.io.objects import LocalObjects
kill, (operation, end), left = lambda: os.kill(os.getpid(), signal.SIGKILL), sys.argv[3].split(), None
original = getattr(LocalObjects, operation)
def call(self, key, *arguments):
    if key.endswith("root.json" if operation != "swap" else "zarr.json"):
        if end == "after":
            original(self, key, *arguments)
        kill()
    return original(self, key, *arguments)
setattr(LocalObjects, operation, call)
vs.convert(sys.argv[1], sys.argv[2], mode="overwrite") if sys.argv[1] else vs.open(sys.argv[2]).assign(seen=1)
"""


STEPS = ("write before", "write after", "swap before", "swap after", "delete before")


@pytest.mark.parametrize(
    ("change", "when"),
    [
        pytest.param(change, when, marks=() if (change, when) == ("overwrite", "swap after") else pytest.mark.slow)
        for change in ("assign", "overwrite")
        for when in STEPS
    ],
)
def test_killed_between_the_steps(made, store, change, when):
    """The store is the old one or the new one; when its root is lost then too, it is the same, or the user chooses."""
    source = made / "other.tar" if change == "overwrite" else ""
    before = (store / "zarr.json").read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, source, store, when], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    now = (store / "zarr.json").read_bytes()
    assert (now == before) == (when not in {"swap after", "delete before"})
    release = OTHER if now != before and source else RELEASE
    assert_store_ok(store, release)
    assert len(copies(store)) == (1 if when == "write before" else 2)
    (store / "zarr.json").unlink()
    if len(copies(store)) == 2 and source:
        with pytest.raises(StoreError, match="2 copies may be the last"):
            vs.repair(store)
        write_id = json.loads(now)["attributes"]["vedastore"]["write_id"]
        assert vs.repair(store, root=write_id).ok
        assert (store / "zarr.json").read_bytes() == now
    else:
        assert vs.repair(store).version == ("1.0.1+1" if len(copies(store)) == 1 else "1.0.1+2")
    assert_store_ok(store, release)


def test_an_outcome_that_nobody_knows_leaves_both_copies(store, monkeypatch):
    before = set(files(store))
    swap, read = LocalObjects.swap, LocalObjects.read_tagged

    def lost(self, key, *arguments):
        swap(self, key, *arguments)
        monkeypatch.setattr(LocalObjects, "read_tagged", failing)
        raise UnknownOutcomeError("no answer")

    def failing(self, *_):
        raise StoreError("no answer")

    monkeypatch.setattr(LocalObjects, "swap", lost)
    with pytest.raises(UnknownOutcomeError):
        vs.open(store).assign(seen=1)
    monkeypatch.setattr(LocalObjects, "read_tagged", read)
    monkeypatch.setattr(LocalObjects, "swap", swap)
    assert before <= set(files(store))
    assert len(copies(store)) == 2
    assert vs.open(store).version == "1.0.1+2"
    (store / "zarr.json").unlink()
    assert vs.repair(store).version == "1.0.1+2"
    assert_store_ok(store, RELEASE)


def test_a_commit_on_which_another_has_built_is_known_as_ours(store, monkeypatch):
    """A swap that landed is repeated and refused; meanwhile another writer has read the new root and committed."""
    swap = LocalObjects.swap

    def repeated(self, *arguments):
        monkeypatch.setattr(LocalObjects, "swap", swap)
        swap(self, *arguments)
        vs.open(store).assign(other=2)
        raise ConflictError("another writer was first")

    monkeypatch.setattr(LocalObjects, "swap", repeated)
    assert vs.open(store).assign(seen=1).version == "1.0.1+2"
    assert vs.open(store).columns == ("seen", "other")
    assert len(copies(store)) == 1
    assert_store_ok(store, RELEASE)


# ------------------------------------------------------------------------------------------------------ what is implied


def test_metadata_is_written_again(store):
    before = files(store)
    documents = [key for key in before if key.startswith("chips/") and key.endswith("zarr.json")]
    assert len(documents) == 3
    for key, data in ((documents[0], None), (documents[1], before[documents[1]][:-7]), (documents[2], b"")):
        (store / key).unlink() if data is None else (store / key).write_bytes(data)
    assert not vs.open(store).verify().ok
    report = vs.repair(store)
    assert report.ok
    assert sorted(told(report)) == sorted(("metadata", key) for key in documents)
    assert files(store) == before


@pytest.mark.parametrize("inside", [True, False])
def test_a_root_of_which_only_the_rest_is_damaged_is_written_again(store, inside):
    whole = (store / "zarr.json").read_bytes()
    damaged = b'"uint9"'.join(whole.rsplit(b'"uint8"', 1))
    for path in (store / "zarr.json", *([store / copies(store)[0]] if inside else [])):
        path.write_bytes(damaged)
    assert {p.where for p in vs.open(store).verify().problems} >= {"zarr.json"}
    report = vs.repair(store)
    assert report.ok
    assert len(report.repaired) == 1 + inside
    assert (store / "zarr.json").read_bytes() == whole == (store / copies(store)[0]).read_bytes()


def test_a_copy_is_made_again(store):
    whole, (key,) = files(store), copies(store)
    (store / key).unlink()
    report = vs.open(store).verify()
    assert report.ok
    assert [(n.rule, n.where) for n in report.notes] == [("copy", key)]
    assert told(vs.repair(store)) == [("copy", key)]
    assert files(store) == whole
    (store / key).write_bytes(whole[key][:-1])
    assert [p.where for p in vs.open(store).verify().problems] == [key]
    assert told(vs.repair(store)) == [("metadata", key)]
    assert files(store) == whole


def test_statistics_are_measured_again(store):
    before = files(store)
    key = next(k for k in before if k.endswith("stats.json"))
    document = json.loads(before[key])
    document["stats"]["bands"][0]["mean"] += 0.001
    lie = dump_json(seal({n: v for n, v in document.items() if n != "checksum"}))
    for damaged in (before[key][:-9], b"", lie):
        (store / key).write_bytes(damaged)
        assert [n.where for n in vs.open(store).verify().notes] == [key]
        report = vs.repair(store)
        assert told(report) == [("statistics", key)]
        assert report.ok
        assert not report.notes
        assert files(store) == before


def test_a_repair_follows_no_link_out_of_the_store(store, tmp_path):
    """Metadata of a stranger's store that stands elsewhere stays a problem, and what is there stays as it is."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "zarr.json").write_text("mine")
    (bucket,) = (p for p in (store / "chips").iterdir() if p.is_dir())
    shutil.move(bucket / "image", tmp_path / "mine" / "image")
    bucket.joinpath("zarr.json").unlink()
    bucket.rmdir()
    bucket.symlink_to(tmp_path / "mine")
    report = vs.repair(store)
    assert [(p.rule, p.where) for p in report.problems] == [("metadata", f"chips/{bucket.name}/zarr.json")]
    assert not report.repaired
    assert (tmp_path / "mine" / "zarr.json").read_text() == "mine"


def test_a_root_that_names_a_write_elsewhere_is_refused(store, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "root.json").write_text("mine")
    body = json.loads((store / "zarr.json").read_bytes())["attributes"]["vedastore"]
    body = {n: v for n, v in body.items() if n != "checksum"} | {"write_id": "../../mine"}
    (store / "zarr.json").write_bytes(dump_json({"attributes": {"vedastore": seal(body)}}))
    for call in (vs.open, lambda s: vs.open(s).assign(seen=1)):
        with pytest.raises(StoreError, match="damaged: its write_id"):
            call(store)
    assert (tmp_path / "mine" / "root.json").read_text() == "mine"
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["root.json"]
