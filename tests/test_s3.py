"""Stores and releases on S3: a real service behind a proxy that counts requests and makes some of them fail."""

import filecmp
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import numpy as np
import pytest
import xarray as xr

import vedastore as vs
from tests.builders import assert_store_ok, make_release
from tests.s3_server import BUCKET, FAST, Proxy, environment, moto_server
from vedastore.exchange.release import ReleaseReader
from vedastore.io import remote
from vedastore.io.peers import Peer
from vedastore.io.s3 import PROBE, S3
from vedastore.io.upload import PART_BYTES, Upload
from vedastore.ops.convert import convert
from vedastore.ops.options import ConvertOptions
from vedastore.spec import arrays
from vedastore.spec.keys import parse_shard

RELEASE = make_release(12)


@pytest.fixture(scope="module")
def service():
    with moto_server() as target, Proxy(target) as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(proxy.url).items():
            patch.setenv(name, value)
        patch.setattr("s3fs.S3FileSystem.retries", 2)  # of its own repetitions, which pause before each
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield proxy


@pytest.fixture
def s3(service):
    service.clear()
    yield service
    service.clear()
    client = boto3.client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for entry in page.get("Contents", ()):
            client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    for upload in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()):
        client.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return RELEASE.tar_gz(tmp_path_factory.mktemp("s3") / "r.tar.gz")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A local store whose export is more than one part."""
    place = tmp_path_factory.mktemp("large")
    return vs.convert(make_release(12, shape=(3, 512, 512)).tar(place / "r.tar"), place / "r.zarr")


def keys():
    return [entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", ())]


def download(prefix, target):
    client = boto3.client("s3")
    for key in keys():
        if key.startswith(f"{prefix}/"):
            path = target / key.removeprefix(f"{prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(BUCKET, key, str(path))
    return target


def in_child(function):
    """Start a process that runs a function and ends with what it returns."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            status = function()
        finally:
            os._exit(status)
    return child


def status_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def url(key):
    return f"s3://{BUCKET}/{key}"


# ------------------------------------------------------------------------------------------------------ there and back


def test_from_s3_to_s3_and_back(tmp_path, s3, archive):
    boto3.client("s3").upload_file(str(archive), BUCKET, "in/r.tar.gz")
    collection = vs.convert(url("in/r.tar.gz"), url("out/r.zarr"))
    local = vs.convert(archive, tmp_path / "local.zarr")
    assert collection.store == url("out/r.zarr")
    assert [s.id for s in collection] == [s.id for s in local]
    np.testing.assert_array_equal(collection.to_xarray().image, local.to_xarray().image)
    np.testing.assert_array_equal(collection.masks(), local.masks())
    assert collection.verify(against=archive).ok
    assert collection.verify(against=url("in/r.tar.gz")).ok
    for one, name in ((collection, "remote.tar.gz"), (local, "local.tar.gz")):
        one.export(tmp_path / name)
    assert filecmp.cmp(tmp_path / "remote.tar.gz", tmp_path / "local.tar.gz", shallow=False)
    assert_store_ok(download("out/r.zarr", tmp_path / "copy.zarr"), RELEASE)
    assert not [key for key in keys() if "vedastore" in key]  # neither marker nor probe


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_a_source_is_read_once_and_as_it_was(tmp_path, s3, suffix):
    release = make_release(3, shape=(3, 1024, 1024))
    archive = release.tar(tmp_path / "r.tar") if suffix == "tar" else release.tar_gz(tmp_path / "r.tar.gz")
    boto3.client("s3").upload_file(str(archive), BUCKET, "big")
    s3.clear()
    assert vs.convert(url("big"), tmp_path / "r.zarr").verify(against=archive).ok
    reads = [request for request in s3.requests if request.method == "GET"]
    assert len(reads) == 1 + -(-archive.stat().st_size // (4 * 2**20))  # its first bytes, then all of it
    assert len({request.condition for request in reads}) == 1
    assert reads[0].condition
    assert not any(request.lists for request in s3.requests)


def test_nothing_is_listed_where_a_key_is_known(s3, archive):
    vs.convert(archive, url("r.zarr"))
    s3.clear()
    collection = vs.open(url("r.zarr"))
    assert collection[3].pixels.shape == (3, 32, 40)
    assert len(collection.select(where="objects >= 0")) == 12
    assert collection.verify().ok
    assert not any(request.lists for request in s3.requests)


def test_neighbouring_chips_are_one_request(s3, archive):
    vs.convert(archive, url("r.zarr"))
    collection = vs.open(url("r.zarr"))
    next(iter(collection.batches(4)))
    s3.clear()
    assert sum(len(images) for images, _ in collection.batches(12)) == 12
    shards = [request for request in s3.requests if "/image/c/" in request.key and request.method == "GET"]
    assert len(shards) == 1


def test_few_requests_open_and_give_back(tmp_path, s3, archive):
    vs.convert(archive, url("r.zarr"))
    s3.clear()
    collection = vs.open(url("r.zarr"))
    assert [request.key for request in s3.requests] == ["r.zarr/zarr.json"]
    collection.export(tmp_path / "r.tar.gz")
    shards = [request for request in s3.requests if "/image/c/" in request.key]
    assert len(shards) == 3  # how long it is, its index, all of its chips


def test_other_processes_read(s3, archive):
    collection = vs.convert(archive, url("r.zarr"))
    want = int(collection[7].pixels.sum())
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)[7].pixels.sum())"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(collection), capture_output=True, check=True)
    assert int(done.stdout) == want
    assert status_of(in_child(lambda: int(collection[7].pixels.sum()) != want)) == 0
    s3.clear()
    assert int(collection[7].pixels.sum()) == want
    assert len(s3.requests) == 1  # not repeated: the connection still works


@pytest.mark.slow
def test_the_command_line(tmp_path, s3, archive):
    def run(*arguments):
        command = [sys.executable, "-m", "vedastore.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("convert", archive, url("r.zarr")).returncode == 0
    assert "12" in run("info", url("r.zarr")).stdout
    assert run("verify", url("r.zarr"), "--against", archive).returncode == 0
    assert run("convert", archive, url("r.zarr")).returncode == 4
    assert run("info", url("absent.zarr")).returncode == 5
    assert run("convert", url("absent.tar.gz"), tmp_path / "x.zarr").returncode == 3


@pytest.mark.slow
def test_what_the_how_to_says(tmp_path, s3, archive, monkeypatch):
    """Its recipe on S3, as it stands there: commands, and Python with keys of the service of the tests."""
    page = (Path(__file__).parents[1] / "docs" / "how-to.md").read_text()
    section = page.partition("## Stores on S3\n")[2].partition("\n## ")[0]
    commands, code = (
        re.findall(rf"^```{kind}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE) for kind in ("sh", "py")
    )
    client = boto3.client("s3")
    client.upload_file(str(archive), BUCKET, "ts_104-1.0.1.tar.gz")
    for line in "".join(commands).splitlines():
        command = [sys.executable, "-m", "vedastore.cli", *line.removeprefix("vedastore ").split()]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0, line
    assert "cars.tar.gz" in keys()
    text = "".join(code).replace('"..."', '"tests"').replace("https://storage.example.org", s3.url)
    monkeypatch.chdir(tmp_path)
    shutil.copy(archive, "ts_104-1.0.1.tar.gz")
    before, convert, after = re.split(r"(?m)^(collection = vs\.convert.*\n)", text)
    for key in keys():
        client.put_object_acl(Bucket=BUCKET, Key=key, ACL="public-read")  # for who opens it without credentials
    namespace = {}
    exec(before, namespace)
    for entry in client.list_objects_v2(Bucket=BUCKET, Prefix="ts_104.zarr/")["Contents"]:
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    exec(convert + after, namespace)
    assert namespace["dataset"].sizes["sample"] == len(namespace["collection"]) == 12
    assert "back.tar.gz" in keys()


def test_options_are_those_of_s3fs(s3, archive, monkeypatch):
    options = {"key": "tests", "secret": "tests", "endpoint_url": s3.url}
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    collection = vs.convert(archive, url("r.zarr"), storage_options=options)
    assert len(vs.open(url("r.zarr"), storage_options=options).samples) == len(collection) == 12
    dataset = xr.open_dataset(url("r.zarr"), engine="vedastore", storage_options=options)
    np.testing.assert_array_equal(dataset.image[:1], collection[:1].to_xarray().image)
    assert "secret" not in repr(collection)
    with pytest.raises(vs.errors.UsageError, match="local paths"):
        vs.open("r.zarr", storage_options=options)


@pytest.mark.parametrize(
    "place",
    [
        "gs://bucket/x",
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket/a//b",
        "s3://bucket//a",
        Path("s3://bucket/a"),
    ],
)
def test_places_that_are_none(place):
    with pytest.raises(vs.errors.UsageError):
        vs.open(place)


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint_url": "nonsense"},
        {"config_kwargs": {"nonsense": 1}},
        {"client_kwargs": {"nonsense": 1}},
        {"nonsense": 1},
        "nonsense",
    ],
)
def test_options_that_are_none(options):
    with pytest.raises(vs.errors.UsageError, match=r"nonsense|mapping"):
        vs.open(url("r.zarr"), storage_options=options)


def test_who_pays_and_who_asks_is_told_with_every_request(tmp_path, s3, archive):
    vs.convert(archive, url("r.zarr"))
    s3.clear()
    assert vs.open(url("r.zarr"), storage_options={"requester_pays": True}).export(tmp_path / "r.tar").samples == 12
    assert {request.headers.get("x-amz-request-payer") for request in s3.requests} == {"requester"}
    for key in keys():
        boto3.client("s3").put_object_acl(Bucket=BUCKET, Key=key, ACL="public-read")
    s3.clear()
    assert vs.open(url("r.zarr"), storage_options={"anon": True})[0].pixels.any()
    assert not any("Authorization" in request.headers for request in s3.requests)


def test_xarray_takes_the_options(s3, archive, monkeypatch):
    want = int(vs.convert(archive, url("r.zarr")).to_xarray().image.sum())
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    options = {"key": "tests", "secret": "tests", "endpoint_url": s3.url}
    assert xr.open_dataset(url("r.zarr"), engine="vedastore", storage_options=options).image.sum() == want
    assert "/" in xr.open_datatree(url("r.zarr"), engine="vedastore", storage_options=options).groups


@pytest.mark.parametrize("name", ["a b+c%20d?e#f", "ü/日本&=;'~!*()"])
def test_keys_may_have_any_characters(s3, archive, name):
    boto3.client("s3").upload_file(str(archive), BUCKET, f"{name}.tar")
    assert vs.convert(url(f"{name}.tar"), url(name)).samples.id.tolist() == vs.open(url(name)).samples.id.tolist()
    assert f"{name}/zarr.json" in keys()


# -------------------------------------------------------------------------------------------------------------- exports


def test_an_export_to_s3_has_the_bytes_of_a_local_one(tmp_path, s3, large):
    collection = large
    want = collection.export(tmp_path / "back.tar")
    s3.clear()
    report = collection.export(url("back.tar"))
    assert (report.bytes, report.dest) == (want.bytes, url("back.tar"))
    assert want.bytes > PART_BYTES
    assert any("uploadId" in request.query for request in s3.requests)
    boto3.client("s3").download_file(BUCKET, "back.tar", str(tmp_path / "copy.tar"))
    assert filecmp.cmp(tmp_path / "back.tar", tmp_path / "copy.tar", shallow=False)
    assert collection.verify(against=url("back.tar")).ok
    some = collection[:3].export(url("some.tar"), for_import=True).request
    assert some["options"]["s3path"] == url("some.tar")


def test_an_export_replaces_nothing_unless_it_may(tmp_path, s3, archive):
    collection = vs.convert(archive, tmp_path / "r.zarr")
    collection.export(url("back.tar.gz"))
    s3.clear()
    with pytest.raises(vs.errors.ConflictError, match="already"):
        collection.export(url("back.tar.gz"))
    assert [request.method for request in s3.requests] == ["HEAD"]
    collection.export(url("back.tar.gz"), overwrite=True, storage_options={"key": "tests", "secret": "tests"})
    with pytest.raises(vs.errors.UsageError, match="local paths"):
        collection.export(tmp_path / "back.tar.gz", storage_options={"anon": True})
    with pytest.raises(vs.errors.UsageError, match="in the store"):
        vs.convert(archive, url("r.zarr")).export(url("r.zarr/back.tar.gz"))


@pytest.mark.parametrize("size", ["small", "large"])
def test_of_two_exports_one_is_there(tmp_path, s3, archive, large, size):
    """Another one lands after the look at the target, and before the end of this one."""
    collection = vs.convert(archive, tmp_path / "r.zarr") if size == "small" else large

    def meanwhile(_number, request):
        if request.method in {"PUT", "POST"} and request.condition:
            s3.fault = lambda _number, _request: None
            boto3.client("s3").put_object(Bucket=BUCKET, Key="back.tar", Body=b"other")

    s3.fault = meanwhile
    with pytest.raises(vs.errors.ConflictError, match="first"):
        collection.export(url("back.tar"))
    assert boto3.client("s3").get_object(Bucket=BUCKET, Key="back.tar")["Body"].read() == b"other"
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=BUCKET)


@pytest.mark.parametrize("fault", ["lose", 500, 403, 409])
@pytest.mark.parametrize("when", ["uploads", "partNumber", "uploadId="])
def test_an_export_is_there_whole_or_not_at_all(tmp_path, s3, large, fault, when):
    """The first request of a kind fails: to begin, to send a part, to end."""
    seen = []

    def once(_number, request):
        kind = "partNumber" if request.method == "PUT" else "uploads" if request.query == "uploads" else "uploadId="
        if request.method in {"PUT", "POST"} and kind == when and not seen:
            seen.append(request)
            return fault
        return None

    s3.fault = once
    try:
        large.export(url("back.tar"))
    except vs.errors.ConflictError:
        assert fault == 409  # another write was under way
    except vs.errors.StoreError as error:
        assert fault in {403, 409}, error  # noqa: PT017
    else:
        assert fault in {"lose", 500}
        assert large.verify(against=url("back.tar")).ok
    assert seen
    assert keys() == (["back.tar"] if fault in {"lose", 500} else [])
    if fault in {403, 409}:
        assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=BUCKET)


def test_an_export_that_nobody_knows_of_is_told(s3, large):
    def ended(_number, request):
        if request.method == "POST" and "uploadId=" in request.query:
            s3.fault = lambda _number, _request: "drop"
            return "lose"
        return None

    s3.fault = ended
    with pytest.raises(vs.errors.UnknownOutcomeError, match="written or not"):
        large.export(url("back.tar"), storage_options=FAST)
    s3.clear()
    assert large.verify(against=url("back.tar")).ok


# -------------------------------------------------------------------------------------------------- extracted releases


def put(entries):
    for key, data in entries.items():
        boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=data)


@pytest.mark.parametrize("below", ["", "top/"])
def test_a_prefix_is_read_as_a_directory_is(tmp_path, s3, below):
    names = [
        "images/10.tif",
        "images/9.tif",
        "images/a b+%.tif",
        "labels/9.json",
        "README",
        "x/y/z",
        "x/y-1",
        ".hidden",
    ]
    files = {f"rel/{below}{name}": name.encode() for name in names}
    for key, data in files.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(data)
    (tmp_path / f"rel/{below}empty").mkdir()
    put(files | {f"rel/{below}empty/": b"", f"rel/{below}images/": b"", "rel/": b""})
    s3.clear()
    local, there = ReleaseReader(tmp_path / "rel"), ReleaseReader(url("rel"))
    assert list(there.iter_members()) == list(local.iter_members())
    assert there.container == "directory"
    assert [request.lists for request in s3.requests].count(True) == 1


def test_processes_convert_to_s3(tmp_path, s3, monkeypatch):
    """Chunks in shared memory are sent as those of threads are, a shard in several parts."""
    source = make_release(30, shape=(3, 512, 512)).directory(tmp_path / "extracted")
    vs.convert(source, tmp_path / "local.zarr", workers=1)
    read, submit = [], Peer.submit
    monkeypatch.setattr("vedastore.ops.process_crew.WORTH_BYTES", 0)
    monkeypatch.setattr("vedastore.ops.convert.BATCH_BYTES", 2**18)
    monkeypatch.setattr(Peer, "is_ready", True)
    monkeypatch.setattr(Peer, "submit", lambda self, *told: (read.append(told), submit(self, *told))[1])
    collection = vs.convert(source, url("r.zarr"), workers=2)
    assert len(read) >= 30
    assert collection.verify().ok
    there = download("r.zarr", tmp_path / "there")
    wanted, found = (
        sorted(f.read_bytes() for f in store.glob("chips/*/image/c/**/*") if f.is_file())
        for store in (tmp_path / "local.zarr", there)
    )
    assert len(wanted) == 1
    assert found == wanted


def test_an_extracted_release_on_s3_is_converted(tmp_path, s3, archive):
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    root = next(path for path in tmp_path.iterdir() if path.is_dir())
    put({f"in/{p.relative_to(tmp_path)}": p.read_bytes() for p in root.rglob("*") if p.is_file()})
    collection = vs.convert(url(f"in/{root.name}"), url("r.zarr"))
    assert collection.verify(against=archive).ok
    assert collection.verify(against=url(f"in/{root.name}")).ok
    with pytest.raises(vs.errors.UsageError, match="in the release"):
        vs.convert(url(f"in/{root.name}"), url(f"in/{root.name}/r.zarr"))


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"a\\b": b""}, "backslash"),
        ({"C:x": b""}, "drive letter"),
        ({"a\x01": b""}, "control character"),
        ({"images/": b"data"}, "data of its own"),
        ({"images": b"", "images/1.tif": b""}, "file and of a directory"),
        ({"a": b"", "b": b"", "c": b""}, "above the limit"),
        ({"a": bytes(101)}, "above the limit"),
        ({}, "none under it"),
    ],
)
def test_keys_that_no_release_may_have(s3, entries, why):
    put({f"rel/{key}": data for key, data in entries.items()})
    with pytest.raises(vs.errors.ArchiveError, match=why):
        list(ReleaseReader(url("rel"), limits=vs.Limits(members=2, member_bytes=100)).iter_members())


def test_a_file_that_changes_after_it_was_listed_is_refused(s3):
    put({f"rel/{n}": b"1" for n in range(3)})
    s3.clear()

    def replaced(_number, request):
        if request.key == "rel/2" and request.method == "GET":
            s3.fault = lambda _number, _request: None
            put({"rel/2": b"2"})

    s3.fault = replaced
    with pytest.raises(vs.errors.ArchiveError, match="changed while it was read"):
        list(ReleaseReader(url("rel")).iter_members())


def test_what_no_version_names_is_removed(s3, archive):
    vs.convert(archive, url("r.zarr"))
    old = {key for key in keys() if key.startswith("r.zarr/")}
    boto3.client("s3").put_object(Bucket=BUCKET, Key="r.zarr/notes.txt", Body=b"mine")
    vs.convert(archive, url("r.zarr"), mode="overwrite")
    told = vs.clean(url("r.zarr"))
    assert (told.removed, told.foreign) == (0, 1)  # the grace period is not over
    assert vs.clean(url("r.zarr"), grace_days=0).removed == told.waiting > 0
    assert old & {*keys()} == {"r.zarr/zarr.json", "r.zarr/chips/zarr.json"}
    assert vs.open(url("r.zarr")).verify(against=archive).ok


# ------------------------------------------------------------------------------------------------------------- writers


def test_a_place_that_holds_other_things_is_left_alone(s3, archive):
    boto3.client("s3").put_object(Bucket=BUCKET, Key="r.zarr/notes.txt", Body=b"mine")
    with pytest.raises(vs.errors.ConflictError, match="other objects"):
        vs.convert(archive, url("r.zarr"))
    assert keys() == ["r.zarr/notes.txt"]


def test_what_consoles_and_killed_writers_leave_is_in_nobodys_way(s3, archive):
    client = boto3.client("s3")
    client.put_object(Bucket=BUCKET, Key="r.zarr/", Body=b"")  # a folder that was made by hand
    client.put_object(Bucket=BUCKET, Key=f"r.zarr/{PROBE}0", Body=b"1")
    assert len(vs.convert(archive, url("r.zarr"))) == 12


def test_of_two_processes_one_wins_whole(tmp_path, s3, archive):
    def attempt():
        try:
            vs.convert(archive, url("r.zarr"), storage_options={"endpoint_url": s3.url})  # which nobody has probed
        except vs.errors.ConflictError:
            return 4
        return 0

    children = [in_child(attempt) for _ in range(2)]
    assert sorted(map(status_of, children)) == [0, 4]
    assert_store_ok(download("r.zarr", tmp_path / "r.zarr"), RELEASE)


@pytest.mark.parametrize("last", [".vedastore-incomplete", "image/c/0/0/0/0", "samples.parquet", "zarr.json"])
def test_a_killed_writer_is_in_nobodys_way(tmp_path, s3, archive, last):
    """It is killed when it has asked for one of its objects to be written; that one is not."""

    def kill(_number, request):
        if request.method == "PUT" and request.key.endswith(last):
            os.kill(child, signal.SIGKILL)
            return "drop"
        return None

    s3.fault = kill
    child = in_child(lambda: len(vs.convert(archive, url("r.zarr"))))
    assert status_of(child) == -signal.SIGKILL
    s3.clear()
    with pytest.raises(vs.errors.StoreError, match=r"no store|not finished"):
        vs.open(url("r.zarr"))
    assert vs.convert(archive, url("r.zarr")).verify(against=archive).ok
    assert not any("incomplete" in key for key in keys())


def test_a_killed_conversion_goes_on(tmp_path, s3, archive, monkeypatch):
    """What it has noted down is proved and copied by S3, to keys of the new writer: the old one may be alive."""
    arrays._spec_of.cache_clear()
    monkeypatch.setattr(arrays, "SHARD_TARGET_BYTES", 4 * 3 * 32 * 40)

    def kill(_number, request):
        if request.method == "PUT" and request.key.endswith("image/c/2/0/0/0"):
            os.kill(child, signal.SIGKILL)
            return "drop"
        return None

    s3.fault = kill
    child = in_child(lambda: len(vs.convert(archive, url("r.zarr"))))
    assert status_of(child) == -signal.SIGKILL
    before = {key for key in keys() if parse_shard(key.removeprefix("r.zarr/"))}
    s3.clear()
    report = convert(archive, url("r.zarr"), ConvertOptions())
    arrays._spec_of.cache_clear()
    assert (report.resumed, len(before)) == (8, 2)
    puts = [r for r in s3.requests if r.method == "PUT" and parse_shard(r.key.removeprefix("r.zarr/"))]
    assert sorted("x-amz-copy-source" in {name.lower() for name in r.headers} for r in puts) == [False, True, True]
    assert not before & {r.key for r in puts}
    assert before < {*keys()}
    assert not any("incomplete" in key or f"{report.root.write_id}/shard-" in key for key in keys())
    assert vs.open(url("r.zarr")).verify(against=archive).ok


def test_of_many_writers_one_wins_whole(tmp_path, s3, archive):
    def attempt(_):
        try:
            return vs.convert(archive, url("r.zarr"))
        except vs.errors.ConflictError:
            return None

    with ThreadPoolExecutor(4) as pool:
        won = [result for result in pool.map(attempt, range(4)) if result is not None]
    assert len(won) == 1
    assert_store_ok(download("r.zarr", tmp_path / "r.zarr"), RELEASE)


def test_a_service_without_conditional_writes_is_refused(s3, archive):
    """The proxy takes the conditions out: the service does what it is told then."""
    s3.fault = lambda _number, request: 200 if request.method == "PUT" and request.condition else None
    options = {"endpoint_url": s3.url.replace("127.0.0.1", "localhost")}  # nobody has asked it yet
    with pytest.raises(vs.errors.StoreError, match="ignores the conditions"):
        vs.convert(archive, url("r.zarr"), storage_options=options)
    s3.clear()
    assert keys() == []


# -------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("fault", ["lose", "drop", 500, 503, 409])
def test_a_commit_whose_answer_is_lost_is_no_failure(s3, archive, fault):
    """The request is repeated where it may be; the root is read back where the repetition is refused."""
    seen = []

    def once(_number, request):
        if request.method == "PUT" and request.key == "r.zarr/zarr.json" and not seen:
            seen.append(request)
            return fault
        return None

    s3.fault = once
    assert vs.convert(archive, url("r.zarr")).verify().ok
    assert seen


def test_an_outcome_that_nobody_knows_is_told_and_nothing_is_removed(s3, archive):
    """The commit lands, its answer is lost, and nothing is answered any more."""

    def fault(_number, request):
        if request.method == "PUT" and request.key == "r.zarr/zarr.json":
            s3.fault = lambda _number, _request: "drop"
            return "lose"
        return None

    s3.fault = fault
    with pytest.raises(vs.errors.UnknownOutcomeError):
        vs.convert(archive, url("r.zarr"), storage_options=FAST)
    s3.clear()
    assert vs.open(url("r.zarr")).verify(against=archive).ok


def test_a_write_that_is_under_way_all_the_time_may_be_our_own(s3, archive, monkeypatch):
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0)
    s3.fault = lambda _n, request: 409 if request.method == "PUT" and request.key == "r.zarr/zarr.json" else None
    with pytest.raises(vs.errors.UnknownOutcomeError, match="under way"):
        vs.convert(archive, url("r.zarr"))
    assert any(key.endswith("samples.parquet") for key in keys())  # it may be named any moment


def roots():
    """The root document, and its copies."""
    client = boto3.client("s3")
    found = [key for key in keys() if key.endswith(("r.zarr/zarr.json", "/root.json"))]
    return [client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in found]


@pytest.mark.parametrize("damage", [None, *(pytest.param(data, marks=pytest.mark.slow) for data in (b"", b"half"))])
def test_a_lost_root_is_restored(tmp_path, s3, archive, damage):
    vs.convert(archive, url("r.zarr"))
    vs.convert(archive, url("r.zarr"), mode="overwrite").assign(seen=1)
    one, other = roots()
    assert one == other
    client = boto3.client("s3")
    client.delete_object(Bucket=BUCKET, Key="r.zarr/zarr.json")
    if damage is not None:
        client.put_object(Bucket=BUCKET, Key="r.zarr/zarr.json", Body=damage)
    with pytest.raises(vs.errors.StoreError, match="verify --repair may restore it"):
        vs.open(url("r.zarr"))
    s3.clear()
    report = vs.repair(url("r.zarr"))
    assert report.ok
    assert [r.rule for r in report.repaired] == ["root"]
    assert ["prefix=r.zarr%2Findex%2F" in q.query for q in s3.requests if q.lists] == [True]
    assert roots() == [one, one]
    assert vs.repair(url("r.zarr")).repaired == ()
    assert_store_ok(download("r.zarr", tmp_path / "r.zarr"), RELEASE)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["lose", "drop", 500, 409])
def test_a_repair_whose_answer_is_lost_is_no_failure(s3, archive, fault):
    vs.convert(archive, url("r.zarr"))
    before, seen = roots(), []
    boto3.client("s3").delete_object(Bucket=BUCKET, Key="r.zarr/zarr.json")

    def once(_number, request):
        if request.method == "PUT" and request.key == "r.zarr/zarr.json" and not seen:
            seen.append(request)
            return fault
        return None

    s3.fault = once
    assert vs.repair(url("r.zarr")).ok
    assert seen
    assert roots() == before


@pytest.mark.slow
def test_a_commit_of_which_nobody_knows_keeps_both_copies(s3, archive):
    collection = vs.convert(archive, url("r.zarr"))
    (before,) = {*roots()}

    def fault(_number, request):
        if request.method == "PUT" and request.key == "r.zarr/zarr.json":
            s3.fault = lambda _number, _request: "drop"
            return "lose"
        return None

    s3.fault = fault
    options = {**FAST, "endpoint_url": s3.url}
    with pytest.raises(vs.errors.UnknownOutcomeError):
        vs.open(url("r.zarr"), storage_options=options).assign(seen=1)
    s3.clear()
    assert len(roots()) == 3
    assert before in roots()
    boto3.client("s3").delete_object(Bucket=BUCKET, Key="r.zarr/zarr.json")
    assert vs.repair(url("r.zarr")).version == "1.0.1+1" != collection.version
    assert vs.clean(url("r.zarr"), grace_days=0).removed == 1
    assert len({*roots()}) == 1


def test_parts_of_an_upload_are_alike(s3):
    with Upload(S3(BUCKET, "big", {}), "") as upload:
        for number in range(3):
            upload.write(bytes([number]) * (7 * 2**20))
        assert upload.complete() == 21 * 2**20
    parts = [boto3.client("s3").head_object(Bucket=BUCKET, Key="big", PartNumber=n) for n in (1, 2, 3)]
    assert [part["ContentLength"] for part in parts] == [PART_BYTES, PART_BYTES, 5 * 2**20]


@pytest.mark.parametrize("fault", ["cut", "drop", 500])
def test_reads_are_repeated(s3, archive, fault):
    collection = vs.convert(archive, url("r.zarr"))
    want = int(collection.to_xarray().image.sum())
    s3.clear()
    s3.fault = lambda number, request: fault if number % 4 == 0 and request.method == "GET" else None
    assert int(vs.open(url("r.zarr")).to_xarray().image.sum()) == want


def test_reads_that_go_on_failing_are_a_named_error(s3, archive):
    vs.convert(archive, url("r.zarr"))
    collection = vs.open(url("r.zarr"), storage_options=FAST)
    s3.fault = lambda _number, _request: 403
    with pytest.raises(vs.errors.StoreError, match="S3 did not do it"):
        collection[0].pixels  # noqa: B018


def test_a_source_that_fails_is_refused(tmp_path, s3, archive):
    boto3.client("s3").upload_file(str(archive), BUCKET, "r.tar.gz")
    s3.clear()
    s3.fault = lambda number, request: 403 if request.method == "GET" and number > 2 else None
    with pytest.raises(vs.errors.ArchiveError, match="S3 did not do it"):
        vs.convert(url("r.tar.gz"), tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()


def test_a_source_that_changes_meanwhile_is_refused(tmp_path, s3):
    one, other = (make_release(3, shape=(3, 1024, 1024), seed=n).tar(tmp_path / f"{n}.tar") for n in (1, 2))
    boto3.client("s3").upload_file(str(one), BUCKET, "r.tar")
    s3.clear()

    def replaced(number, _request):
        if number == 3:
            s3.fault = lambda _number, _request: None
            boto3.client("s3").upload_file(str(other), BUCKET, "r.tar")

    s3.fault = replaced
    with pytest.raises(vs.errors.ArchiveError, match="changed while it was read"):
        vs.convert(url("r.tar"), tmp_path / "r.zarr")
