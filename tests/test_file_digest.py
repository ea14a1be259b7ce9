"""The digest of a file that others read meanwhile: whatever they are told of, it is that of the whole file."""

import hashlib
import os
from contextlib import nullcontext

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.builders import make_release
from vedastore.errors import ArchiveError
from vedastore.exchange.release import ReleaseReader
from vedastore.io import file_digest, inflate
from vedastore.io.file_digest import FileDigest

DATA = os.urandom(1 << 20)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(file_digest, "_PART_BYTES", 1000)
    monkeypatch.setattr(file_digest, "_BLOCK_BYTES", 300)
    monkeypatch.setattr(file_digest, "_BYTES_A_MEMBER", 5000)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "r.tar").write_bytes(DATA)
    return tmp_path / "r.tar"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.integers(0, len(DATA)).map(lambda n: n * n // len(DATA))), proved=st.booleans())
def test_it_is_that_of_the_file(small_parts, path, places, proved):
    with path.open("rb") as file, FileDigest(file, "r.tar") as digest:
        for place in sorted(places):
            digest.count_member()
            digest.follow(place)
        digest.complete(xxhash.xxh3_128_hexdigest(DATA) if proved else None)
        assert digest.hexdigest() == hashlib.sha256(DATA).hexdigest()
        assert file.tell() == 0


def test_of_an_empty_file(tmp_path):
    (tmp_path / "r.tar").touch()
    with (tmp_path / "r.tar").open("rb") as file, FileDigest(file, "r.tar") as digest:
        digest.complete()
        assert digest.hexdigest() == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(("case", "hashed"), [((0, 10**9), 90_000), ((4, 10**9), 70_000), ((4, 6000), 84_000)])
def test_it_stays_behind_by_members_and_no_further_than_memory_allows(small_parts, path, monkeypatch, case, hashed):
    members, most = case
    monkeypatch.setattr(file_digest, "_BEHIND_MOST", most)
    read, preadv = [0], os.preadv

    def noted(descriptor, blocks, offset):
        found = preadv(descriptor, blocks, offset)
        read[0] = max(read[0], offset + found)
        return found

    with path.open("rb") as file, FileDigest(file, "r.tar") as digest:
        for _ in range(members):
            digest.count_member()
        monkeypatch.setattr(os, "preadv", noted)
        digest.follow(90_000)
        digest._thread.shutdown()
        assert read[0] == hashed


def test_a_file_that_changes_is_refused(path):
    with path.open("r+b") as file, FileDigest(file, "r.tar") as digest:
        digest.complete()
        os.utime(path, ns=(0, 0))
        with pytest.raises(ArchiveError, match=r"r\.tar: the archive changed while it was read"):
            digest.hexdigest()


def test_a_file_that_cannot_be_read_any_more_is_a_named_error(path, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    refused = pytest.raises(ArchiveError, match=r"r\.tar: cannot be read: Input/output error")
    with path.open("rb") as file, FileDigest(file, "r.tar") as digest, refused:
        digest.complete()
        digest.hexdigest()


def test_no_part_is_passed_over(small_parts, path, monkeypatch):
    parts, preadv = [], os.preadv

    def fail_once(*args):
        parts.append(args)
        if len(parts) == 2:
            raise MemoryError
        return preadv(*args)

    monkeypatch.setattr(os, "preadv", fail_once)
    with path.open("rb") as file, FileDigest(file, "r.tar") as digest:
        digest.follow(10_000)
        digest.complete()
        with pytest.raises(MemoryError):
            digest.hexdigest()


def test_a_file_that_ends_early_is_refused(path, monkeypatch):
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *args: preadv(*args) if args[2] < 500_000 else 0)
    monkeypatch.setattr(file_digest, "_BLOCK_BYTES", 100_000)
    with path.open("rb") as file, FileDigest(file, "r.tar") as digest:
        digest.complete()
        with pytest.raises(ArchiveError, match="changed while it was read"):
            digest.hexdigest()


@pytest.mark.parametrize(("passed", "is_refused"), [(DATA, False), (DATA[:-1], True), (DATA[:-1] + b"x", True)])
def test_what_has_passed_proves_more_than_times(path, passed, is_refused):
    with path.open("rb") as file, FileDigest(file, "r.tar") as digest:
        path.chmod(0o600)
        path.with_name("link").hardlink_to(path)
        digest.complete(xxhash.xxh3_128_hexdigest(passed))
        with pytest.raises(ArchiveError, match="changed") if is_refused else nullcontext():
            assert digest.hexdigest() == hashlib.sha256(DATA).hexdigest()


def test_a_compressed_archive_may_get_other_names_and_permissions(tmp_path, monkeypatch):
    monkeypatch.setattr(inflate, "WORTH_BYTES", 0)
    release = make_release(3)
    source, other = release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "other"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    with ReleaseReader(source, hashed=True) as reader:
        found = reader.iter_files()
        next(found)
        source.chmod(0o600)
        other.hardlink_to(source)
        other.replace(source)
        assert len(list(found)) == len(release.members) - 1
        assert reader.sha256() == digest


def test_a_container_has_less_memory_than_its_machine(tmp_path, monkeypatch):
    whole = file_digest._memory_bytes()
    monkeypatch.setattr(file_digest, "_MEMORY_LIMIT", tmp_path / "memory.max")
    for told, expected in (("max\n", None), ("1048576\n", 2**20)):
        (tmp_path / "memory.max").write_text(told)
        found = file_digest._memory_bytes()
        assert found == expected if expected else found >= whole


def test_who_leaves_early_does_not_wait_for_it(path, monkeypatch):
    blocks, preadv = [], os.preadv

    def counted(*args):
        blocks.append(args)
        return preadv(*args)

    monkeypatch.setattr(file_digest, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(os, "preadv", counted)
    with path.open("rb") as file, FileDigest(file, "r.tar") as digest:
        digest.complete()
    assert len(blocks) < len(DATA)


@pytest.mark.parametrize("kind", ["tar", "tar_gz", "directory"])
@pytest.mark.parametrize("hashed", [True, False])
def test_a_reader_hashes_where_it_is_asked_to(tmp_path, kind, hashed):
    source = getattr(make_release(3), kind)(tmp_path / "r")
    reader = ReleaseReader(source, hashed=hashed)
    assert len(list(reader.iter_members())) >= 6
    expected = hashlib.sha256(source.read_bytes()).hexdigest() if hashed and kind != "directory" else None
    assert reader.sha256() == expected
