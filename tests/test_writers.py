"""Many processes commit to one store at once: nothing acknowledged is lost or doubled, readers see whole versions."""

import os

import boto3
import pytest

import vedastore as vs
from tests.builders import gnu_tar_members
from tests.figures import count
from tests.operations import seen_of
from tests.s3_server import BUCKET, environment, moto_server
from tests.writers import BASE, pair, processes, release

FEW, MANY = (3, 4), (8, int(os.environ.get("VEDASTORE_COMMITS", "10")))
"""Writers, and the commits of each; with VEDASTORE_COMMITS=50 it takes a quarter of an hour."""
SOME = 16
"""Versions of many that are looked at again."""


@pytest.fixture
def local(tmp_path):
    return str(tmp_path / "s.zarr")


@pytest.fixture
def remote(monkeypatch):
    with moto_server() as url:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}/s.zarr"


def run(kind, store, folder, writers, times):
    """Let them write while one reads; return the last version, what was acknowledged, and what was seen."""
    vs.convert(BASE.tar(folder / "base.tar"), store)
    jobs = [(kind, store, number, times) for number in range(writers)]
    with processes(("read", store)) as reader, processes(*jobs) as crowd:
        reader.start()
        told = crowd.start().results()
        (seen,) = reader.results()
    last = vs.open(store)
    acknowledged = [version for own in told for version, _ in own]
    assert len(acknowledged) == len(set(acknowledged)) == writers * times
    assert sorted(last.versions) == sorted(["1.0.1", *acknowledged])
    hashes = [told for own in seen["seen"].values() for told in own]
    assert seen["opened"] >= len(seen["seen"]) == len(hashes) == len(set(hashes)) >= 1
    for version in list(seen["seen"])[:: max(1, len(seen["seen"]) // SOME)]:
        assert seen["seen"][version] == [seen_of(vs.open(store, version))], version
    refused = sum(refused for own in told for _, refused in own)
    place = "S3" if store.startswith("s3:") else "disk"
    figures = {"writers": writers, "commits": len(acknowledged), "refused": refused, "lost": 0}
    count("P3", **{f"{name} on {place}": number for name, number in figures.items()})
    count("P5", **{f"reads on {place}": seen["opened"], f"mixed on {place}": 0})
    return last, told


def check_added(last, writers, times, folder):
    """Every sample is there once, in every version as many as there were commits, with the bytes that were given."""
    expected = {f"{number}-{turn}": pair(number, turn) for number in range(writers) for turn in range(times)}
    ids = [s.id for s in last]
    assert ids[:6] == list(map(str, range(6)))
    assert sorted(ids[6:]) == sorted(expected)
    assert [v.samples for v in last._snapshot.root.versions] == list(range(6, 7 + writers * times))
    assert all(len(v.buckets) <= 20 for v in last._snapshot.root.versions)
    last.export(folder / "back.tar")
    found = gnu_tar_members(folder / "back.tar", folder / "back")
    for sample_id, (image, label) in expected.items():
        assert found[f"{BASE.top}/images/{sample_id}.tif"] == image
        assert found[f"{BASE.top}/labels/{sample_id}.json"] == label
    assert {n: found[n] for n in BASE.pairs} == BASE.pairs
    assert last.verify().ok


def check_appended(last, told, folder):
    """Every version gives back the release that it was made of; each of them, or some of many."""
    written = [(number, turn) for number, own in enumerate(told) for turn in range(len(own))]
    for number, turn in written[:: max(1, len(written) // SOME)]:
        found = vs.open(last.store, f"{number}.{turn}")
        found.export(folder / "back.tar", overwrite=True)
        assert gnu_tar_members(folder / "back.tar", folder / "back") == release(number, turn).members
        assert found.verify().ok


@pytest.mark.parametrize(("writers", "times"), [FEW, pytest.param(*MANY, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("place", ["local", pytest.param("remote", marks=pytest.mark.slow)])
def test_no_sample_is_lost_or_doubled(place, writers, times, tmp_path, request):
    last, _ = run("add", request.getfixturevalue(place), tmp_path, writers, times)
    check_added(last, writers, times, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("writers", "times"), [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("place", ["local", "remote"])
def test_every_release_is_a_version(place, writers, times, tmp_path, request):
    last, told = run("append", request.getfixturevalue(place), tmp_path, writers, times)
    check_appended(last, told, tmp_path)
