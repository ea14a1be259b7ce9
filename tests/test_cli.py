"""The command line as a user runs it: results, exit codes, JSON, one line for a refusal."""

import gzip
import json
import os
import pty
import re
import subprocess
import sys
import tarfile
import termios

import pytest

from tests.builders import Release, assert_store_ok, make_release

COMMANDS = ("convert", "export", "info", "verify", "validate", "versions", "clean", "demo")


def run(*arguments, code=0, cwd=None):
    command = [sys.executable, "-m", "vedastore.cli", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def run_json(*arguments, code=0):
    return json.loads(run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def source(tmp_path):
    return make_release(4).tar_gz(tmp_path / "harbours-1.0.1.tar.gz")


def test_the_main_job(tmp_path, source):
    store, back = tmp_path / "r.zarr", tmp_path / "back.tar.gz"
    assert "4 samples" in run("convert", source, store).stdout
    assert "Harbours" in run("info", store).stdout
    assert "10 members (10 byte-identical, 0 equivalent)" in run("export", store, back).stdout
    assert "ok" in run("verify", store, "--against", source).stdout
    assert "1.0.1" in run("versions", store).stdout
    assert "ok" in run("validate", back).stdout
    assert_store_ok(store, make_release(4))


def test_json_documents(tmp_path, source):
    store = tmp_path / "r.zarr"
    converted = run_json("convert", source, store)
    assert {"store", "version", "samples", "features", "skipped", "kept_members", "findings"} <= set(converted)
    assert (converted["samples"], converted["version"], converted["skipped"]) == (4, "1.0.1", [])
    told = run_json("info", store)
    wanted = {"name", "task", "classes", "samples", "features", "version", "versions", "buckets", "bounds", "bytes"}
    assert wanted <= set(told)
    assert told["buckets"] == {"uint8-3x32x40": 4}
    roots = {"zarr.json", "root.json"}
    assert told["bytes"] == sum(p.stat().st_size for p in store.rglob("*") if p.is_file() and p.name not in roots)
    verified = run_json("verify", store, "--against", source)
    assert verified == {
        "ok": True,
        "version": "1.0.1",
        "samples": 4,
        "byte_identical": 10,
        "equivalent": 0,
        "problems": [],
        "notes": [],
        "repaired": [],
    }
    run("split", store)
    told = [(v["version"], v["parent"], v["samples"]) for v in run_json("versions", store)["versions"]]
    assert told == [("1.0.1", None, 4), ("1.0.1+1", "1.0.1", 4)]
    one, other = run("versions", store).stdout.splitlines()
    assert re.fullmatch(r"1\.0\.1  20\S+  4 samples, \d+ features", one)
    assert re.fullmatch(r"1\.0\.1\+1  20\S+  4 samples, \d+ features  made from 1\.0\.1", other)
    assert run_json("export", store, tmp_path / "b.tgz")["identical"] == 10
    assert run_json("export", store, tmp_path / "c.tgz", "--level", "9")["bytes"] > 0
    assert gzip.decompress((tmp_path / "c.tgz").read_bytes()) == gzip.decompress((tmp_path / "b.tgz").read_bytes())
    assert run_json("validate", source)["ok"] is True


def test_quiet_says_nothing(tmp_path, source):
    done = run("convert", source, tmp_path / "r.zarr", "--quiet")
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    text = run(command, "--help").stdout
    assert f"example:\n  vedastore {command}" in text
    assert "--json" in text
    assert "--quiet" in text


def refused(*arguments, code):
    """A JSON document on stdout, and one line on stderr, as without ``--json``."""
    done = run(*arguments, "--json", code=code)
    assert re.fullmatch(r"vedastore: [^\n]+\n", done.stderr), done.stderr
    error = json.loads(done.stdout)["error"]
    assert set(error) - {"rule"} == {"kind", "message", "where", "hint"}
    assert ("rule" in error) == (code == 3)
    return error


def test_a_refusal_without_json_is_the_same_line(tmp_path):
    plain, both = run("info", tmp_path / "x.zarr", code=5), run("info", tmp_path / "x.zarr", "--json", code=5)
    assert plain.stdout == ""
    assert plain.stderr == both.stderr
    assert re.fullmatch(r"vedastore: [^\n]+\n", plain.stderr)


def test_exit_codes(tmp_path, source):
    store = tmp_path / "r.zarr"
    run("convert", source, store)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(source.read_bytes()[:-9])
    assert refused("convert", cut, tmp_path / "x.zarr", code=3)["where"].startswith("cut.tar.gz")
    assert refused("convert", tmp_path / "none.tar.gz", tmp_path / "x.zarr", code=3)["kind"] == "archive"
    assert refused("convert", source, store, code=4)["kind"] == "conflict"
    assert refused("export", store, source, code=4)["kind"] == "conflict"
    assert refused("info", tmp_path / "x.zarr", code=5)["kind"] == "store"
    assert refused("info", source, code=5)["kind"] == "store"
    assert refused("export", store, tmp_path / "no" / "b.tar.gz", code=5)["kind"] == "store"
    assert refused("export", store, tmp_path / f"{'x' * 300}.tar", code=5)["kind"] == "store"
    assert refused("export", store, tmp_path / "b.zip", code=2)["kind"] == "usage"
    for level, name in ((0, "b.tar.gz"), (10, "b.tar.gz"), (1, "b.tar")):
        assert refused("export", store, tmp_path / name, "--level", str(level), code=2)["kind"] == "usage"
    assert refused("export", store, tmp_path / "b.tar", "--version", "7", code=2)["hint"] == "the store has 1.0.1"
    assert refused("convert", "gs://bucket/r.tar.gz", tmp_path / "x.zarr", code=2)["kind"] == "usage"
    assert refused("convert", source, source, tmp_path / "x.zarr", code=2)["kind"] == "usage"
    assert refused("convert", source, code=2)["kind"] == "usage"
    assert refused("frobnicate", code=2)["kind"] == "usage"
    assert not (tmp_path / "x.zarr").exists()
    shard = next(store.glob("chips/*/image/c/0/0/0/0"))
    shard.write_bytes(b"\0" * shard.stat().st_size)
    assert "problem" in run("verify", store, code=1).stdout
    assert refused("export", store, tmp_path / "b.tar.gz", code=5)["kind"] == "store"


def test_hostile_names_are_escaped(tmp_path):
    release = Release({"ts/images/\u202e\u200bx.tif": b"no TIFF"}).tar_gz(tmp_path / "r.tar.gz")
    error = refused("convert", release, tmp_path / "r.zarr", code=3)
    assert "\u202e" not in error["where"]
    assert "\\u202e\\u200bx.tif" in error["where"]


def test_skip_ends_with_one(tmp_path):
    release = make_release(3)
    release.members[f"{release.top}/images/1.tif"] = b"no TIFF"
    source = release.tar_gz(tmp_path / "r.tar.gz")
    told = run_json("convert", source, tmp_path / "r.zarr", "--on-error=skip", code=1)
    assert [s["id"] for s in told["skipped"]] == ["1"]
    assert told["samples"] == 2


def test_validate_tells_all_problems(tmp_path):
    release = make_release(4)
    top = release.top
    release.members[f"{top}/images/1.tif"] = b"no TIFF"
    release.members[f"{top}/README"] = b"hello"
    del release.members[f"{top}/labels/2.json"]
    told = run_json("validate", release.tar_gz(tmp_path / "r.tar.gz"), code=1)
    assert told["samples"] == 2
    where = {p["rule"]: (p["where"], p["samples"]) for p in told["problems"]}
    assert where["pair-incomplete"] == (f"r.tar.gz: {top}/images/2.tif", ["2"])
    assert where["image-damaged"] == (f"r.tar.gz: {top}/images/1.tif", ["1"])
    assert {f["rule"] for f in told["findings"]} == {"kept-member", "meta-key"}
    assert not [p for p in tmp_path.iterdir() if p.name != "r.tar.gz"]


def test_for_import(tmp_path, source):
    store, dest = tmp_path / "r.zarr", tmp_path / "import.tar.gz"
    run("convert", source, store)
    request = run_json("export", store, dest, "--for-import")["request"]
    assert request["metadata"]["imshape"] == [3, 32, 40]
    assert request["metadata"]["mltype"] == "segmentation"
    assert request["options"] == {"default_label": None, "label_field": None, "s3path": "import.tar.gz"}
    with tarfile.open(dest) as archive:
        assert len(archive.getnames()) == 8


def test_demo(tmp_path):
    told = run_json("demo", tmp_path / "demo")
    assert told["verify"]["ok"] is True
    assert told["verify"]["byte_identical"] == told["export"]["members"] == 50
    assert_store_ok(tmp_path / "demo" / "demo-1.0.0.zarr")
    refused("demo", tmp_path / "demo", code=4)
    (tmp_path / "file").touch()
    refused("demo", tmp_path / "file", code=5)


def test_a_terminal_shows_progress_and_a_pipe_does_not(tmp_path, source):
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    command = [sys.executable, "-m", "vedastore.cli", "convert", source, tmp_path / "r.zarr"]
    process = subprocess.Popen(command, stderr=follower, stdout=subprocess.PIPE, close_fds=True)
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(leader)
    assert b"4 samples" in process.communicate()[0]
    assert process.returncode == 0
    assert b"B/s" in shown
    assert b"\r" in shown


def test_a_full_stdout_is_told(tmp_path, source):
    run("convert", source, tmp_path / "r.zarr")
    command = f"{sys.executable} -m vedastore.cli info {tmp_path / 'r.zarr'} > /dev/full"
    done = subprocess.run(command, shell=True, check=False, capture_output=True, text=True)
    assert done.returncode == 5
    assert done.stderr.startswith("vedastore: the result cannot be printed: No space left on device")
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path, source):
    run("convert", source, tmp_path / "r.zarr")
    done = subprocess.run(
        f"{sys.executable} -m vedastore.cli info {tmp_path / 'r.zarr'} --json | true",
        shell=True,
        check=False,
        capture_output=True,
    )
    assert b"Traceback" not in done.stderr
