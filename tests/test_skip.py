"""``--on-error skip``: every id of a release is stored or listed as skipped, exactly once."""

import io
import json
import tarfile
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vedastore as vs
from tests.broken import TOP, Parts, image, mixed_bits
from tests.builders import assert_store_ok
from tests.test_validate import run, run_json
from vedastore.spec.root import SKIPPED_INLINE
from vedastore.spec.rules import RULES


def drop(path):
    return lambda parts, i: parts.files.update({path.format(i): None})


def put(path, data):
    return lambda parts, i: parts.files.update({path.format(i): data})


def edit(old, new):
    return lambda parts, i: parts.text(lambda text: text.replace(old, new), i)


def nothing_of_it(parts, sample_id):
    parts.files[f"images/{sample_id}.tif"] = b"no TIFF"
    parts.files[f"labels/{sample_id}.json"] = b"no JSON"


WAYS = {
    "no_image": drop("images/{}.tif"),
    "no_label": drop("labels/{}.json"),
    "no_tiff": put("images/{}.tif", b"no TIFF"),
    "cut_tiff": put("images/{}.tif", image(1)[:-300]),
    "odd_tiff": put("images/{}.tif", mixed_bits()),
    "two_images": put("images/{}.TIFF", image(7)),
    "two_bad_images": put("images/{}.TIFF", b"no TIFF"),
    "two_labels": put("labels/{}.geojson", b'{"geometry": {}, "properties": {"label": "car"}}'),
    "no_json": put("labels/{}.json", b"{"),
    "no_utf8": put("labels/{}.json", b"\xff"),
    "no_number": edit(b'"car": 1', b'"car": NaN'),
    "key_twice": edit(b'"car": 1', b'"car": 1, "car": 1'),
    "no_property": edit(b'"label"', b'"other"'),
    "no_form": edit(b'"car": 1', b'"car": "yes"'),
    "no_class": edit(b'"car"', b'""'),
    "other_task": edit(b'"car": 1, "tree": 0', b'"car": []'),
    "other_task_2": edit(b'"car": 1, "tree": 1', b'"car": []'),
    "no_polygon": edit(b'"Polygon"', b'"Point"'),
    "few_corners": edit(b'"coordinates": [[', b'"coordinates": [[1, 2]], "x": [['),
    "both": nothing_of_it,
}


@settings(max_examples=30)
@given(
    st.lists(st.none() | st.sampled_from(sorted(WAYS)), min_size=1, max_size=8).filter(lambda ways: None in ways),
    st.booleans(),
)
def test_in_is_stored_and_skipped(ways, labels_first):
    ids = [f"{n}" for n in range(len(ways))]
    parts = Parts(ids=ids)
    parts.files["README"] = b"hello"
    bad = set()
    for sample_id, way in zip(ids, ways, strict=True):
        before = parts.release().members
        if way:
            WAYS[way](parts, sample_id)
            bad |= {sample_id} if parts.release().members != before else set()
    release = parts.release()
    release.members = dict(sorted(release.members.items(), reverse=labels_first))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source = release.tar_gz(folder / "r.tar.gz")
        told, code = convert(source, folder / "r.zarr")
        collection = assert_store_ok(folder / "r.zarr")
        stored = list(collection.samples["id"])
        skipped = [s["id"] for s in told["skipped"]]
        assert code == (1 if skipped else 0)
        assert set(skipped) == bad
        assert sorted(stored + skipped) == ids
        assert told["read"] == len(ids) == told["samples"] + told["skipped_samples"]
        members = [m for s in told["skipped"] for m in s["members"]]
        members += [*collection.samples["image_member"], *collection.samples["label_member"]]
        assert sorted(members) == sorted(n for n in release.members if "images/" in n or "labels/" in n)
        for entry in told["skipped"]:
            assert set(entry) == {"id", "members", "rules", "reason"}
            assert entry["reason"]
            assert {RULES[rule].severity for rule in entry["rules"]} == {"error"}
        version = json.loads((folder / "r.zarr" / "zarr.json").read_bytes())["attributes"]["vedastore"]["versions"][0]
        assert version["skipped"] == told["skipped"]


def convert(source, store):
    """Run the command line; return its document and exit code."""
    import contextlib

    from vedastore.cli import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = main(["convert", str(source), str(store), "--on-error", "skip", "--json"])
    return json.loads(printed.getvalue()), code


def test_nothing_that_converts_is_no_store(tmp_path, capsys):
    parts = Parts(ids="1")
    parts.files["images/1.tif"] = b"no TIFF"
    source = parts.release().tar_gz(tmp_path / "r.tar.gz")
    error = run_json(capsys, "convert", source, tmp_path / "r.zarr", "--on-error", "skip", code=3)["error"]
    assert error["rule"] == "release-empty"
    assert not (tmp_path / "r.zarr").exists()


@pytest.fixture(scope="module")
def long_list(tmp_path_factory):
    """A store of one sample, and of many more that were left out."""
    folder = tmp_path_factory.mktemp("skipped")
    release = Parts(ids="1").release()
    source = folder / "r.tar"
    with tarfile.open(source, "w") as archive:
        many = {f"{TOP}/images/bad-{n:04}.tif": b"no TIFF" for n in range(SKIPPED_INLINE + 500)}
        for name, data in (release.members | many).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return folder / "r.zarr", *convert(source, folder / "r.zarr")


def test_a_long_list_is_a_table_of_its_own(long_list):
    store, told, code = long_list
    assert code == 1
    assert_store_ok(store)
    assert len(told["skipped"]) == SKIPPED_INLINE
    assert told["skipped_samples"] == SKIPPED_INLINE + 500
    assert told["read"] == told["samples"] + told["skipped_samples"]
    version = json.loads((store / "zarr.json").read_bytes())["attributes"]["vedastore"]["versions"][0]
    assert version["index"]["skipped"]["rows"] == SKIPPED_INLINE + 500
    table = pq.read_table(store / version["index"]["skipped"]["key"]).to_pylist()
    assert table[:SKIPPED_INLINE] == version["skipped"]
    assert len({row["id"] for row in table}) == len(table)
    assert table[-1] == {
        "id": "bad-1499",
        "members": [f"{TOP}/images/bad-1499.tif"],
        "rules": ["image-damaged", "pair-incomplete"],
        "reason": table[-1]["reason"],
    }


def test_verify_checks_the_long_list(long_list, capsys):
    store, _, _ = long_list
    (path,) = store.glob("index/*/skipped.parquet")
    data = path.read_bytes()
    try:
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        assert "skipped.parquet" in run(capsys, "verify", store, code=1).out
        path.unlink()
        assert not vs.open(store).verify().ok
    finally:
        path.write_bytes(data)
    assert vs.open(store).verify().ok
