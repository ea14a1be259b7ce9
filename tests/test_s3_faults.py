"""S3 that fails at one request, once or for good: the store is the old one or the new one, whole; a retry succeeds."""

import os
import re
from collections import Counter

import boto3
import pytest

import vedastore as vs
from tests.faults import Runner
from tests.figures import count
from tests.operations import OPERATIONS, Scene, digest
from tests.rig import FULL, UNKNOWN, Ready, Rig
from tests.s3_server import BUCKET, Proxy, environment, moto_server

FAULTS = ("lose", "drop", 500, 503, 409, 412, "hang", "cut")
STEP = 1 if os.environ.get("VEDASTORE_SWEEP") == "all" else 13
CONFLICT = 4


class Remote(Scene):
    """A scene whose place is a bucket. ``objects`` are what it is put back to."""

    def __init__(self, folder, client):
        super().__init__(folder)
        self.store, self.archive, self.place = f"s3://{BUCKET}/r.zarr", f"s3://{BUCKET}/out.tar.gz", None
        self._client, self.objects = client, {}

    def keep(self):
        self.objects = {key: self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in self.keys()}

    def restore(self):
        for key in self.keys():
            self._client.delete_object(Bucket=BUCKET, Key=key)
        for key, data in self.objects.items():
            self._client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def keys(self):
        return [e["Key"] for e in self._client.list_objects_v2(Bucket=BUCKET).get("Contents", ())]

    def archive_seen(self):
        if "out.tar.gz" not in self.keys():
            return "none"
        return digest(self._client.get_object(Bucket=BUCKET, Key="out.tar.gz")["Body"].read())

    def files(self, *, folders=True):
        return Counter(re.sub(r"[0-9a-f]{32}|(?<=~)[0-9a-f]{8}", "*", key) for key in self.keys())

    def check_clean(self):
        vs.clean(self.store, grace_days=0)
        told = vs.clean(self.store, grace_days=0, dry_run=True)
        assert (told.removed, told.waiting, told.foreign) == (0, 0, 0)


@pytest.fixture(scope="module")
def service():
    with moto_server() as target, Proxy(target) as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(proxy.url).items():
            patch.setenv(name, value)
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        client = boto3.client("s3", endpoint_url=target)  # past the proxy
        client.create_bucket(Bucket=BUCKET)
        yield proxy, client


@pytest.fixture(scope="module")
def runner(service, tmp_path_factory):
    with Runner(tmp_path_factory.mktemp("s3-faults")) as runner:
        yield runner


def prepare(runner, service, operation, folder):
    proxy, client = service
    proxy.clear()
    scene = Remote(folder, client)
    scene.restore()
    scene.fill()
    for command in operation.before:
        assert runner.run(scene.arguments(command)).code == 0
    scene.keep()
    old = scene.seen()
    proxy.clear()
    assert runner.run(scene.arguments(operation.command)).code == 0
    requests = len(proxy.requests)
    new = scene.seen()
    scene.check_clean()
    return Ready(operation, scene, [{"call": "request"}] * requests, old, new, scene.files())


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_a_request_that_fails(runner, service, operation, tmp_path):
    proxy, _ = service
    ready, rig = prepare(runner, service, operation, tmp_path), Rig(runner, tmp_path)
    scene, swept = ready.scene, Counter()
    for number in range(1, len(ready.calls) + 1, STEP):
        fault, lasting = FAULTS[number // STEP % len(FAULTS)], number // STEP // len(FAULTS) % 2 == 0
        scene.restore()
        proxy.clear()
        proxy.fault = lambda n, _, at=number, fault=fault, lasting=lasting: (
            fault if n == at or (lasting and n > at) else None
        )
        ran = runner.run(scene.arguments(operation.command))
        met = proxy.requests[number - 1] if len(proxy.requests) >= number else None
        proxy.clear()
        told = f"{operation}, request {number}, {fault}, for good: {lasting}: exit {ran.code}, {ran.said}: {met}"
        assert ran.code in {0, CONFLICT, FULL, UNKNOWN}, told
        assert "Traceback" not in ran.said, told
        there = rig.check(ready, scene, ran.code, told)
        rig.retry(ready, scene, there, told)
        swept[f"{fault}"] += 1
    count("P4", faults=swept.total(), lost=0)
