"""Damage is found and named; a release is compared member by member."""

import numpy as np
import pytest

import vedastore as vs
from tests.builders import Release, geotiff, make_release, pixels_of
from tests.figures import count
from vedastore.errors import StoreError


@pytest.fixture
def store(tmp_path):
    release = make_release(5, order="images_first")
    vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    return tmp_path / "r.zarr"


def damage_of(store):
    """The places that a verification names, of all versions."""
    try:
        reports = [vs.open(store, version=version).verify() for version in vs.open(store).versions]
    except StoreError as error:
        return [error.where]
    return [p.where or "" for report in reports for p in (*report.problems, *report.notes)]


def everything_of(store):
    """The pixels of all samples, and what else readers see of them."""
    collection = vs.open(store)
    images = {s.id: s.image.values for s in collection}
    rest = [s.label for s in collection], collection.samples.to_wkb().to_csv(), collection.features.to_wkb().to_csv()
    return images, (*rest, collection.stats().to_dict())


def test_one_flipped_bit_anywhere_is_named(store):
    """One bit of every object in turn, at several places of each: verify names it, and nobody reads what is wrong."""
    vs.open(store).assign(score=[0.5, 1, 2, 3, 4]).stats()
    images, rest = everything_of(store)
    objects = sorted(p for p in store.rglob("*") if p.is_file())
    assert len(objects) == 11
    bits = 0
    for path in objects:
        whole = path.read_bytes()
        for place in sorted({0, 9, len(whole) // 3, len(whole) // 2, len(whole) - 40, len(whole) - 1}):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            bits += 1
            key = str(path.relative_to(store))
            named = damage_of(store)
            assert any(key in place for place in named), f"byte {place} of {key}: {named}"
            try:
                found, others = everything_of(store)
            except StoreError:
                continue
            finally:
                path.write_bytes(whole)
            assert others == rest
            for name, image in found.items():
                np.testing.assert_array_equal(image, images[name])
    assert all(vs.open(store, version=version).verify().ok for version in vs.open(store).versions)
    count("P7", objects=len(objects), bits=bits, unnoticed=0)


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_an_object_cut_or_absent_is_named(store, cut):
    for path in sorted(p for p in store.rglob("*") if p.is_file() and p.name != "zarr.json"):
        whole = path.read_bytes()
        path.write_bytes(whole[:cut])
        assert not vs.open(store).verify().ok
        path.unlink()
        report = vs.open(store).verify()
        named = report.notes if path.name == "root.json" else report.problems  # nothing depends on a copy
        assert any(str(path.relative_to(store)) in (p.where or "") for p in named), report
        path.write_bytes(whole)
    assert vs.open(store).verify().ok


def test_of_a_version_in_parts_only_the_file_that_is_damaged_is_named(store):
    vs.open(store).remove("1").update_labels({"2": vs.open(store)["3"].feature})
    tables = sorted(store.glob("index/*/*.parquet"))
    assert [p.name for p in tables].count("part-samples.parquet") == 2
    for path in tables:
        whole = path.read_bytes()
        for data in (None, whole[:-9], bytes(4) + whole[4:], whole[:-60] + bytes([whole[-60] ^ 1]) + whole[-59:]):
            path.unlink()
            if data is not None:
                path.write_bytes(data)
            report = vs.open(store).verify()
            assert {p.where for p in report.problems} == {str(path.relative_to(store))}, report
            path.write_bytes(whole)
    assert vs.open(store).verify().ok


def test_pixels_of_another_store_are_found(store, tmp_path):
    """A shard that is whole, but not the one that was committed."""
    vs.convert(make_release(5, seed=9).tar_gz(tmp_path / "other.tar.gz"), tmp_path / "other.zarr")
    shard = "chips/uint8-3x32x40/image/c/0/0/0/0"
    (store / shard).write_bytes((tmp_path / "other.zarr" / shard).read_bytes())
    report = vs.open(store).verify()
    assert {p.rule for p in report.problems} >= {"image"}
    with pytest.raises(StoreError, match="not those that were converted"):
        vs.open(store).export(tmp_path / "back.tar.gz")
    assert not (tmp_path / "back.tar.gz").exists()


def test_against_tells_every_difference(store, tmp_path):
    release = make_release(5)
    top = release.top
    changes = {
        f"{top}/images/1.tif": geotiff(pixels_of(seed=99), (0.5, 0, 733_700, 0, -0.5, 3_725_150)),
        f"{top}/labels/2.json": release.members[f"{top}/labels/2.json"] + b" ",
        f"{top}/README": b"new",
    }
    members = release.members | changes
    del members[f"{top}/images/3.tif"]
    Release(members).tar_gz(tmp_path / "other.tar.gz")
    report = vs.open(store).verify(against=tmp_path / "other.tar.gz")
    told = {(p.rule, p.where.rpartition("/")[2]) for p in report.problems}
    assert told == {("different", "1.tif"), ("different", "2.json"), ("missing", "README"), ("extra", "3.tif")}
    assert any("pixel values" in p.message for p in report.problems)
    assert (report.ok, report.byte_identical, report.equivalent) == (False, 9, 0)


def test_equivalent_images_are_told_apart_from_identical_ones(store, tmp_path):
    """The same chips, compressed: other bytes, and a tag that differs, so no member that differs is passed over."""
    release = make_release(5, compress="deflate")
    release.tar_gz(tmp_path / "deflate.tar.gz")
    report = vs.open(store).verify(against=tmp_path / "deflate.tar.gz")
    assert [p.rule for p in report.problems] == ["different"] * 5
    assert all("Compression" in p.message or "259" in p.message for p in report.problems)
    assert report.byte_identical == 7


def test_a_damaged_release_is_refused_not_compared(store, tmp_path):
    data = (tmp_path / "r.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(data[:-9])
    with pytest.raises(vs.errors.ArchiveError):
        vs.open(store).verify(against=tmp_path / "cut.tar.gz")
