"""Conversions on a Dask cluster, and in its tasks: the same bytes as anywhere, whichever worker dies."""

import errno
import os
import signal

import pytest

import vedastore as vs
from tests.builders import assert_store_ok, geotiff, make_release, objects_of, pixels_of
from vedastore.errors import ClusterError, StoreError
from vedastore.io.objects import LocalObjects
from vedastore.ops.cluster_crew import Cluster, _write_shard
from vedastore.ops.convert import convert
from vedastore.ops.options import ConvertOptions
from vedastore.spec import keys
from vedastore.store.commit import Write

distributed = pytest.importorskip("distributed")
IMAGE_BYTES = 3 * 32 * 40


@pytest.fixture(scope="module")
def client():
    with distributed.Client(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as client:
        yield client


def mixed_release(count=22):
    """Images of three shapes."""
    release = make_release(count, task="classification")
    shapes = [(3, 32, 40), (3, 32, 40), (1, 16, 16), (2, 8, 8)]
    for number, name in enumerate([n for n in release.members if n.endswith(".tif")]):
        release.members[name] = geotiff(pixels_of(shapes[number % 4], seed=number))
    return release


@pytest.mark.usefixtures("small_shards", "one_write_id")
@pytest.mark.parametrize("spilled", [False, True], ids=["held", "spilled"])
def test_the_same_bytes_as_here(tmp_path, client, monkeypatch, spilled):
    """Every object: shards, tables, metadata. This process writes no shard, unless it had to take chunks back."""
    put, written = Write.put, []
    source = mixed_release().tar_gz(tmp_path / "r.tar.gz")
    vs.convert(source, tmp_path / "here.zarr")
    monkeypatch.setattr(Write, "put", lambda self, key, parts: (written.append(key), put(self, key, parts))[1])
    if spilled:
        monkeypatch.setattr(Cluster, "drafts_bytes", 1)
    vs.convert(source, tmp_path / "there.zarr", client=client)
    there = objects_of(tmp_path / "there.zarr")
    assert there == objects_of(tmp_path / "here.zarr")
    shards = {key for key in there if keys.parse_shard(key)}
    assert len(shards) == 5
    assert shards & {*written} == (shards if spilled else set())
    assert_store_ok(tmp_path / "there.zarr")


@pytest.mark.usefixtures("small_shards")
def test_what_is_under_way_is_bounded(tmp_path, client, monkeypatch):
    """Chunks are given up as their shard is written: not all are held at the end."""
    held, init = [], Cluster.put

    def put(self, write, key, draft):
        held.append(len(client.who_has()))
        return init(self, write, key, draft)

    monkeypatch.setattr(Cluster, "put", put)
    monkeypatch.setattr(Cluster, "writes_pending", 1)
    monkeypatch.setattr("vedastore.ops.cluster_crew.IN_FLIGHT_BYTES", 4 * IMAGE_BYTES)
    vs.convert(make_release(60).tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr", client=client)
    assert len(held) == 15
    assert max(held) < 40  # of 60 batches and their halves


def test_a_worker_elsewhere_is_refused(tmp_path, client):
    """One that has not the same disk would keep the shard to itself."""
    objects = LocalObjects(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="does not see the store"):
        client.submit(_write_shard, [], [], b"", 0, (objects, "chips/x", (keys.INCOMPLETE, ""))).result()
    assert not (tmp_path / "nowhere").exists()


def test_a_worker_of_a_dead_writer_is_refused(tmp_path, client):
    """Its shard would take the place of one of the conversion that has come after."""
    objects = LocalObjects(tmp_path / "r.zarr")
    with Write(objects, fingerprint="one") as dead:
        witness = dead.witness
        assert client.submit(_write_shard, [], [], b"x", 0, (objects, "chips/x", witness)).result() == 1
        objects.delete("chips/x")
    with Write(objects, fingerprint="other") as write:
        with pytest.raises(StoreError, match="another conversion"):
            client.submit(_write_shard, [], [], b"", 0, (objects, "chips/x", witness)).result()
        assert objects.size("chips/x") is None
        assert witness != write.witness


def test_chips_of_other_bytes_than_the_index_says_are_refused(tmp_path, client):
    """A batch that was lost is read again by another worker, whose library may be another one."""
    objects = LocalObjects(tmp_path / "r.zarr")
    with Write(objects) as write:
        with pytest.raises(StoreError, match="do not encode alike"):
            client.submit(_write_shard, [], [], b"x", 7, (objects, "chips/x", write.witness)).result()
        assert objects.size("chips/x") is None


def test_a_shard_that_is_not_there_is_refused(tmp_path, client, monkeypatch):
    """The worker says that it has written, and this process sees nothing of it."""
    monkeypatch.setattr(LocalObjects, "__reduce__", lambda _: (LocalObjects, (tmp_path / "other",)))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / keys.INCOMPLETE).symlink_to(tmp_path / "r.zarr" / keys.INCOMPLETE)
    with pytest.raises(StoreError, match="does not see it"):
        vs.convert(make_release(2).tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr", client=client)
    assert not (tmp_path / "r.zarr").exists()


def test_a_refused_release_leaves_nothing(tmp_path, client):
    release = make_release(12)
    release.members[f"{release.top}/images/11.tif"] = b"no image"
    with pytest.raises(vs.errors.ImageError, match="images"):
        vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr", client=client)
    assert not (tmp_path / "r.zarr").exists()


def test_a_fault_of_this_process_is_not_the_clusters(tmp_path, client):
    """A full disk here has its name, and what the workers have begun is given up."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    collection = vs.convert(make_release(4).tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    with pytest.raises(StoreError, match="No space left") as told:
        collection.export(tmp_path / "x.tar", client=client, progress=full)
    assert not isinstance(told.value, ClusterError)
    with pytest.raises(OSError, match="No space left"):
        collection.verify(client=client, progress=full)


def test_edits_are_made_here(tmp_path, client, monkeypatch):
    """They are small, and take no client: an active one is left alone."""
    release = make_release(4)
    collection = vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    label = release.members[f"{release.top}/labels/0.json"]
    assert distributed.get_client() is client
    monkeypatch.setattr(client, "submit", None)
    monkeypatch.setattr(client, "get_executor", None)
    assert len(collection.add({"new": (geotiff(pixels_of(seed=99)), label)})) == 5


@pytest.mark.parametrize("job", ["convert", "verify"])
def test_a_cluster_without_workers_is_told(tmp_path, monkeypatch, job):
    source, store = make_release(2).tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr"
    collection = vs.convert(source, tmp_path / "there.zarr")
    monkeypatch.setattr("vedastore.ops.cluster._PATIENCE_SECONDS", 0.1)
    with (
        distributed.Client(n_workers=0, processes=False, dashboard_address=":0") as nobody,
        pytest.raises(ClusterError, match="has no workers"),
    ):
        vs.convert(source, store, client=nobody) if job == "convert" else collection.verify(client=nobody)
    assert not store.exists()


def test_a_task_converts_by_itself(tmp_path):
    """On a worker with one thread, a conversion that waited for tasks of its own would wait for ever."""
    sources = [make_release(3, seed=n).tar_gz(tmp_path / f"{n}.tar.gz") for n in range(3)]
    stores = [tmp_path / f"{n}.zarr" for n in range(3)]
    with distributed.Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as client:
        collections = client.gather(client.map(vs.convert, sources, stores))
        assert client.gather(client.map(lambda c: c.verify().ok, collections)) == [True] * 3
    assert [len(c) for c in collections] == [3] * 3


@pytest.mark.slow
@pytest.mark.usefixtures("small_shards", "one_write_id")
@pytest.mark.parametrize("at", [0.3, 0.9])
def test_a_killed_worker_costs_time_only(tmp_path, at):
    """SIGKILL to a worker with chunks of shards under way, and perhaps with half a shard written."""
    source = make_release(300).tar(tmp_path / "r.tar")
    vs.convert(source, tmp_path / "here.zarr")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = [*client.run(os.getpid).values()]

        def kill(done, total):
            if pids and done > at * total:
                os.kill(pids.pop(), signal.SIGKILL)
                pids.clear()

        vs.convert(source, tmp_path / "there.zarr", client=client, progress=kill)
    assert not pids
    assert objects_of(tmp_path / "there.zarr") == objects_of(tmp_path / "here.zarr")


@pytest.mark.usefixtures("small_shards", "one_write_id")
def test_a_lost_cluster_is_told_and_gone_on_without(tmp_path, client):
    """What the workers wrote stays; the same conversion goes on with it, here or on another cluster."""
    source = make_release(40).tar(tmp_path / "r.tar")
    vs.convert(source, tmp_path / "here.zarr")

    put, shards = Cluster.put, []

    def close(self, write, key, draft):
        shards.append(key)
        if len(shards) == 8:
            cluster.close()
        return put(self, write, key, draft)

    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        pytest.MonkeyPatch.context() as patch,
    ):
        lost = distributed.Client(cluster)
        patch.setattr(Cluster, "put", close)
        with pytest.raises(ClusterError, match="gave the work up"):
            vs.convert(source, tmp_path / "r.zarr", client=lost)
    with pytest.raises(StoreError, match="has not finished"):
        vs.open(tmp_path / "r.zarr")
    report = convert(source, tmp_path / "r.zarr", ConvertOptions(), client=client)
    assert 4 <= report.resumed < 40
    assert objects_of(tmp_path / "r.zarr") == objects_of(tmp_path / "here.zarr")
