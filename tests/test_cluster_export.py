"""Export, verification and statistics on a cluster: the results of a local run, on a disk and on S3, whoever dies."""

import contextlib
import filecmp
import io
import os
import signal
import subprocess
import sys

import boto3
import pytest

import vedastore as vs
from tests.builders import gnu_tar_members, make_release
from tests.s3_server import BUCKET, Proxy, environment, free_port, moto_server
from vedastore.cli import main
from vedastore.io import upload
from vedastore.ops import passes, rebuild, shipment

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def threads():
    with distributed.Client(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as client:
        yield client


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    place = tmp_path_factory.mktemp("small")
    return vs.convert(make_release(12, order="labels_reversed").tar_gz(place / "r.tar.gz"), place / "r.zarr")


@pytest.fixture
def sections(monkeypatch):
    """Small ones, so that there are several."""
    for module in (rebuild, shipment):
        monkeypatch.setattr(module, "SECTION_BYTES", 10_000)


@pytest.mark.parametrize(("suffix", "level"), [("tar.gz", None), ("tar.gz", 3), ("tar", None)])
@pytest.mark.parametrize("count", [5, 12])
@pytest.mark.usefixtures("sections")
def test_an_export_has_the_bytes_of_a_local_one(tmp_path, small, threads, suffix, level, count):  # noqa: PLR0917
    told = []
    reports = [
        small[:count].export(tmp_path / f"{name}.{suffix}", level=level, client=client, progress=progress)
        for name, client, progress in (("local", None, None), ("cluster", threads, lambda *done: told.append(done)))
    ]
    assert filecmp.cmp(tmp_path / f"local.{suffix}", tmp_path / f"cluster.{suffix}", shallow=False)
    assert reports[0].bytes == reports[1].bytes == (tmp_path / f"local.{suffix}").stat().st_size
    assert (reports[0].members, reports[0].identical) == (reports[1].members, reports[1].identical)
    assert told[-1] == (reports[0].members, reports[0].members)
    gnu_tar_members(tmp_path / f"cluster.{suffix}", tmp_path / "members")


def test_damage_ends_an_export(tmp_path, small, threads):
    store = tmp_path / "r.zarr"
    vs.convert(make_release(12).tar(tmp_path / "r.tar"), store)
    shard = next(path for path in store.glob("chips/*/image/c/**/*") if path.is_file())
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(vs.errors.StoreError, match="checksum"):
        vs.open(store).export(tmp_path / "back.tar", client=threads)
    assert not (tmp_path / "back.tar").exists()
    found = vs.open(store).verify(client=threads)
    assert found == vs.open(store).verify()
    assert [problem.rule for problem in found.problems] == ["image"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_statistics_are_those_of_a_local_run(tmp_path, threads, monkeypatch, dtype):
    monkeypatch.setattr(passes, "_BLOCK_BYTES", 5000)
    monkeypatch.setattr(passes, "_RUNS", 3)
    collection = vs.convert(make_release(12, dtype=dtype).tar(tmp_path / "r.tar"), tmp_path / "r.zarr").split()
    local = collection.stats(cached=False).to_dict()
    assert collection.stats(cached=False, client=threads).to_dict() == local


# ------------------------------------------------------------------------------------------------- two real processes


@pytest.fixture(scope="module")
def service():
    with moto_server() as target, Proxy(target) as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(proxy.url).items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield proxy


@pytest.fixture(scope="module")
def processes(service):
    """Two workers in processes of their own, which know the service, each with a nanny."""
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def large(service, tmp_path_factory):
    """A store on S3 with the same on a disk, whose export has several parts."""
    place = tmp_path_factory.mktemp("large")
    archive = make_release(40, shape=(3, 512, 512)).tar_gz(place / "r.tar.gz")
    boto3.client("s3").upload_file(str(archive), BUCKET, "r.tar.gz")
    return {"disk": vs.convert(archive, place / "r.zarr"), "s3": vs.convert(archive, f"s3://{BUCKET}/r.zarr")}


def fetch(key, target):
    boto3.client("s3").download_file(BUCKET, key, str(target))
    return target


def kill_one(client):
    """Return a progress that kills a worker when a third is done."""
    killed = []

    def progress(done, total):
        if done > total // 3 and not killed:
            killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    return killed, progress


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_workers_send_the_parts_themselves(tmp_path, processes, large, monkeypatch, kill):
    large["s3"].export(f"s3://{BUCKET}/local.tar", overwrite=True)
    killed, progress = kill_one(processes)
    with monkeypatch.context() as patch:
        patch.setattr(upload.Ticket, "send", None)  # in this process
        large["s3"].export(
            f"s3://{BUCKET}/cluster.tar", overwrite=True, client=processes, progress=progress if kill else None
        )
    assert len(killed) == kill
    assert filecmp.cmp(
        fetch("local.tar", tmp_path / "local"), fetch("cluster.tar", tmp_path / "cluster"), shallow=False
    )
    tags = {boto3.client("s3").head_object(Bucket=BUCKET, Key=f"{n}.tar")["ETag"] for n in ("local", "cluster")}
    assert len(tags) == 1  # the parts are the same, too
    assert int(tags.pop().strip('"').partition("-")[2]) > 3
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=BUCKET)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["disk", "s3"])
def test_a_killed_worker_costs_time_only(tmp_path, processes, large, place):
    collection = large[place]
    collection.export(tmp_path / "local.tar.gz")
    killed, progress = kill_one(processes)
    collection.export(tmp_path / "cluster.tar.gz", client=processes, progress=progress)
    assert killed
    assert filecmp.cmp(tmp_path / "local.tar.gz", tmp_path / "cluster.tar.gz", shallow=False)
    killed, progress = kill_one(processes)
    assert collection.verify(client=processes, progress=progress).ok
    assert killed
    killed, progress = kill_one(processes)
    found = collection.stats(cached=False, client=processes, progress=progress)
    assert killed
    assert found.to_dict() == collection.stats(cached=False).to_dict()


@pytest.mark.slow
def test_an_upload_that_is_refused_leaves_nothing(service, processes, large):
    boto3.client("s3").delete_object(Bucket=BUCKET, Key="refused.tar")
    service.fault = lambda _number, request: 403 if "partNumber=2" in request.query else None
    try:
        with pytest.raises(vs.errors.StoreError, match="S3 did not do it"):
            large["disk"].export(f"s3://{BUCKET}/refused.tar", client=processes)
    finally:
        service.clear()
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=BUCKET)
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="refused.tar")


@pytest.mark.slow
def test_a_small_export_is_put_at_once(tmp_path, processes, small):
    small.export(tmp_path / "local.tar")
    small.export(f"s3://{BUCKET}/small.tar", client=processes, overwrite=True)
    assert filecmp.cmp(tmp_path / "local.tar", fetch("small.tar", tmp_path / "small.tar"), shallow=False)


@pytest.mark.slow
def test_a_shard_is_looked_at_once(tmp_path, service, threads):
    collection = vs.convert(make_release(12).tar(tmp_path / "r.tar"), f"s3://{BUCKET}/once.zarr")
    service.clear()
    assert collection.verify(client=threads).ok
    asked = [request for request in service.requests if "/image/c/" in request.key]
    shards = {request.key for request in asked}
    heads = [request.key for request in asked if request.method == "HEAD"]
    assert sorted(heads) == sorted(shards)
    starts = [(request.key, request.range) for request in asked if request.method == "GET"]
    assert len(starts) == len(set(starts))


# -------------------------------------------------------------------------------------------------- the command line


def run(*arguments):
    """What the command line does in this process, and prints."""
    handler, printed = signal.getsignal(signal.SIGTERM), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            status = main([*map(str, arguments)])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert "Traceback" not in printed.getvalue()
    return status, printed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["disk", "s3"])
def test_every_command_takes_a_scheduler(tmp_path, processes, small, place, monkeypatch):
    """Workers have another working directory than the command, to which its paths are relative."""
    monkeypatch.chdir(tmp_path)
    small.export("want.tar.gz")
    there = "" if place == "disk" else f"s3://{BUCKET}/cli/"
    if there:
        boto3.client("s3").upload_file("want.tar.gz", BUCKET, "cli/want.tar.gz")
    for command in (
        ("convert", f"{there}want.tar.gz", f"{there}c.zarr"),
        ("export", f"{there}c.zarr", f"{there}back.tar.gz"),
        ("verify", f"{there}c.zarr", "--against", f"{there}back.tar.gz"),
        ("stats", f"{there}c.zarr", "--fresh"),
        ("validate", f"{there}back.tar.gz"),
    ):
        status, printed = run(*command, "--scheduler", processes.scheduler.address)
        assert status == 0, (command, printed)
    back = fetch("cli/back.tar.gz", tmp_path / "fetched.tar.gz") if there else tmp_path / "back.tar.gz"
    assert filecmp.cmp("want.tar.gz", back, shallow=False)


@pytest.mark.slow
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{}", "nonsense://{}"])
def test_a_scheduler_that_is_not_there(tmp_path, small, address):
    status, printed = run("export", small.store, tmp_path / "x.tar", "--scheduler", address.format(free_port()))
    assert (status, (tmp_path / "x.tar").exists()) == (2, False), printed
    assert "the scheduler cannot be reached" in printed


WORKER = """
import asyncio, sys
from distributed import Worker

async def main():
    async with Worker(sys.argv[1], nthreads=1) as worker:
        await worker.finished()

asyncio.run(main())
"""


@contextlib.contextmanager
def odd_worker(folder, code="", **variables):
    """A client of a cluster with one worker, which is unlike this process."""
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0", protocol="tcp") as cluster,
        distributed.Client(cluster) as client,
    ):
        command = [sys.executable, "-c", code + WORKER, cluster.scheduler_address]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, cwd=folder, env=os.environ | variables, **quiet) as worker:
            try:
                client.wait_for_workers(1, timeout=60)
                yield client
            finally:
                worker.kill()


def assert_told(collection, client, tmp_path, message):
    jobs = (
        lambda: collection.export(tmp_path / "x.tar", client=client),
        lambda: collection.verify(client=client),
        lambda: collection.stats(cached=False, client=client),
    )
    for job in jobs:
        with pytest.raises(vs.errors.StoreError, match=message):
            job()
    assert not (tmp_path / "x.tar").exists()


@pytest.mark.slow
def test_workers_without_vedastore_are_told(tmp_path, small):
    with odd_worker(tmp_path, "import sys\nsys.modules['vedastore'] = None\n") as client:
        assert_told(small, client, tmp_path, "lack a library")


@pytest.mark.slow
def test_workers_that_do_not_reach_the_store_are_told(tmp_path, service, large):
    with odd_worker(tmp_path, AWS_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}", AWS_MAX_ATTEMPTS="1") as client:
        assert_told(large["s3"], client, tmp_path, "a worker of the cluster cannot read the store")


@pytest.mark.slow
@pytest.mark.usefixtures("sections")
def test_a_scheduler_that_dies_is_told(tmp_path, small):
    code = "import asyncio, sys\nfrom distributed import Scheduler, Worker\n\nasync def main():\n"
    code += (
        "    async with Scheduler(host='127.0.0.1', port=int(sys.argv[1]), dashboard=False) as s, Worker(s.address):\n"
    )
    code += "        await s.finished()\n\nasyncio.run(main())\n"
    port = free_port()
    command = [sys.executable, "-c", code, str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path) as scheduler:
        try:
            with distributed.Client(f"tcp://127.0.0.1:{port}", timeout=30) as client:
                client.wait_for_workers(1, timeout=30)
                with pytest.raises(vs.errors.StoreError, match="gave the work up"):
                    small.export(tmp_path / "x.tar", client=client, progress=lambda *_: scheduler.kill())
        finally:
            scheduler.kill()
    assert not (tmp_path / "x.tar").exists()
