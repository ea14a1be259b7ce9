"""The promises on S3 once more, on another implementation than that of the other tests, where it is installed."""

import filecmp
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest

import vedastore as vs
from tests.builders import make_release
from tests.s3_server import BUCKET, Proxy, environment, seaweed_server
from vedastore.io.s3 import S3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with (
        seaweed_server(tmp_path_factory.mktemp("weed")) as target,
        Proxy(target) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in environment(proxy.url).items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield proxy


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return make_release(12).tar_gz(tmp_path_factory.mktemp("s3") / "r.tar.gz")


def test_it_has_conditional_writes(service):
    S3(BUCKET, "probe", {}).check_swaps()


def test_there_and_back(tmp_path, service, archive):
    boto3.client("s3").upload_file(str(archive), BUCKET, "r.tar.gz")
    collection = vs.convert(f"s3://{BUCKET}/r.tar.gz", f"s3://{BUCKET}/r.zarr")
    assert collection.verify(against=archive).ok
    vs.convert(archive, tmp_path / "r.zarr").export(tmp_path / "local.tar.gz")
    collection.export(f"s3://{BUCKET}/back.tar.gz")
    boto3.client("s3").download_file(BUCKET, "back.tar.gz", str(tmp_path / "back.tar.gz"))
    assert filecmp.cmp(tmp_path / "local.tar.gz", tmp_path / "back.tar.gz", shallow=False)
    with pytest.raises(vs.errors.ConflictError):
        collection.export(f"s3://{BUCKET}/back.tar.gz")


def test_an_upload_in_parts_replaces_nothing(tmp_path, service):
    large = vs.convert(make_release(12, shape=(3, 512, 512)).tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    large.export(f"s3://{BUCKET}/big.tar")
    assert large.verify(against=f"s3://{BUCKET}/big.tar").ok
    other = b"other"

    def meanwhile(_number, request):
        if request.method == "POST" and request.condition:
            service.fault = lambda _number, _request: None
            boto3.client("s3").put_object(Bucket=BUCKET, Key="late.tar", Body=other)

    service.fault = meanwhile
    with pytest.raises(vs.errors.ConflictError, match="first"):
        large.export(f"s3://{BUCKET}/late.tar")
    assert boto3.client("s3").get_object(Bucket=BUCKET, Key="late.tar")["Body"].read() == other


@pytest.mark.parametrize("fault", ["lose", "drop", 500])
def test_a_commit_whose_answer_is_lost_is_no_failure(service, archive, fault):
    seen = []

    def once(_number, request):
        if request.method == "PUT" and request.key.endswith(".zarr/zarr.json") and not seen:
            seen.append(request)
            return fault
        return None

    service.fault = once
    assert vs.convert(archive, f"s3://{BUCKET}/{fault}.zarr").verify(against=archive).ok
    service.clear()
    assert seen


def test_of_many_writers_one_wins_whole(service, archive):
    def attempt(_):
        try:
            return vs.convert(archive, f"s3://{BUCKET}/race.zarr")
        except vs.errors.ConflictError:
            return None

    with ThreadPoolExecutor(4) as pool:
        assert sum(found is not None for found in pool.map(attempt, range(4))) == 1
    assert vs.open(f"s3://{BUCKET}/race.zarr").verify(against=archive).ok
