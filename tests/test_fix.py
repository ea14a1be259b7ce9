"""``validate --fix`` mends where nothing is guessed, and touches nothing else."""

import hashlib
import json
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vedastore as vs
from tests.broken import IDS, TOP, Parts, rectangle
from tests.builders import AUSTIN, gnu_tar_members, needs_real_data
from tests.test_validate import rules_of, run, run_json
from vedastore.errors import ArchiveError, ConflictError, StoreError, UsageError
from vedastore.model import Limits
from vedastore.ops.fix import fix
from vedastore.ops.options import ConvertOptions
from vedastore.spec.repairs import dump_exact, mend_label, mend_meta, parse_exact
from vedastore.spec.rules import RULES

FIXABLE = {rule.id for rule in RULES.values() if rule.fix}
BOM = b"\xef\xbb\xbf"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def members_of(path):
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() if m.isfile() else None for m in archive}


# ---------------------------------------------------------------------------------------------------- what is mended


def droppings(parts):
    parts.files |= {".DS_Store": b"\0", "images/._2.tif": b"fork", "Thumbs.db": b"x"}


def open_rings(parts):
    del parts.features["1"]["geometry"]["coordinates"][0][-1]
    del parts.label("3")["car"][0]["coordinates"][0][-1]


def parts_of_one(parts):
    for sample_id in ("2", "4"):
        geometry = parts.features[sample_id]["geometry"]
        geometry |= {"type": "MultiPolygon", "coordinates": [geometry["coordinates"]]}


def other_suffixes(parts):
    parts.files["images/1.TIFF"] = parts.files.pop("images/1.tif")
    parts.files["labels/1.geojson"] = json.dumps(parts.features["1"], indent=1).encode()
    parts.files["labels/1.json"] = None


def byte_order_mark(parts):
    parts.text(lambda text: BOM + text, "4")


CHANGES = {
    "droppings": droppings,
    "open_rings": open_rings,
    "parts_of_one": parts_of_one,
    "classes": lambda parts: parts.meta.update(classes=["tree"], nclasses=1),
    "nclasses": lambda parts: parts.meta.update(nclasses=9),
    "bbox": lambda parts: parts.meta.update(bbox=[0, 0, 1, 1]),
    "bounds_json": lambda parts: setattr(parts, "bounds", b"{"),
    "bounds_count": lambda parts: parts.bounds["features"].pop(),
    "bounds_elsewhere": lambda parts: parts.bounds["features"].__setitem__(0, parts.bounds["features"][1]),
    "other_suffixes": other_suffixes,
    "byte_order_mark": byte_order_mark,
}
LATER = ("other_suffixes", "byte_order_mark")  # these make bytes of what stands there by then


def broken(names):
    parts = Parts("segmentation")
    for name in sorted(names, key=lambda n: n in LATER):
        if not (name.startswith("bounds_") and isinstance(parts.bounds, bytes)):
            CHANGES[name](parts)
    return parts.release()


@settings(max_examples=25)
@given(st.sets(st.sampled_from(sorted(CHANGES)), min_size=1), st.sampled_from(["tar_gz", "tar", "directory"]))
def test_what_is_fixable_is_fixed_and_nothing_else_is_touched(names, packing):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        release = broken(names)
        source, out = release.pack(packing, folder), folder / "out.tar.gz"
        before = {p: digest(p) for p in folder.rglob("*") if p.is_file()}
        report = fix(source, out, ConvertOptions())
        assert {p: digest(p) for p in before} == before
        assert report.report.problems == ()
        assert not {f.rule for f in report.report.findings} & FIXABLE
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]

        found = gnu_tar_members(out, folder / "found")
        edited = {e.member for e in report.edits}
        for name, data in release.members.items():
            if name not in edited:
                assert found[name] == data
        renamed = {e.done.removeprefix("renamed to ") for e in report.edits if e.rule == "import-suffix"}
        gone = {e.member for e in report.edits if e.rule in {"kept-member", "import-suffix"}}
        assert set(found) == (set(release.members) - gone) | renamed
        images = {n.rpartition(".")[0]: d for n, d in release.members.items() if "/images/" in n and "._" not in n}
        assert {n.rpartition(".")[0]: d for n, d in found.items() if "/images/" in n} == images
        collection = vs.convert(out, folder / "r.zarr")
        assert sorted(collection.samples["id"]) == list(IDS)
        assert {s.id: s.label for s in collection} == {s: Parts("segmentation").label(s) for s in IDS}
        again = fix(out, folder / "again.tar.gz", ConvertOptions())
        assert again.edits == ()
        assert (folder / "again.tar.gz").read_bytes() == out.read_bytes()


def test_the_report_names_every_edit(tmp_path, capsys):
    source = broken({"droppings", "open_rings", "classes"}).tar_gz(tmp_path / "r.tar.gz")
    out = tmp_path / "out.tar.gz"
    told = run_json(capsys, "validate", source, "--fix", out, code=0)
    assert told["fixed"] == str(out)
    assert (told["findings"], told["problems"]) == ([], [])
    assert [(e["member"].removeprefix(f"{TOP}/"), e["rule"], e["done"]) for e in told["edits"]] == [
        (".DS_Store", "kept-member", "left out"),
        ("Thumbs.db", "kept-member", "left out"),
        ("images/._2.tif", "kept-member", "left out"),
        ("labels/1.json", "ring-unclosed", "1 ring closed"),
        ("labels/3.json", "ring-unclosed", "1 ring closed"),
        ("meta.json", "meta-classes", "classes: car added"),
        ("meta.json", "meta-nclasses", "nclasses is 2"),
    ]
    lines = run(capsys, "validate", source, "--fix", tmp_path / "b.tar.gz", code=0).out.splitlines()
    assert lines[0] == f"fixed    kept-member  {TOP}/.DS_Store: left out"
    assert lines[-1].endswith("b.tar.gz: ok; 4 samples convert")
    assert (tmp_path / "b.tar.gz").read_bytes() == out.read_bytes()


def test_meta_keeps_its_order_and_every_other_key(tmp_path):
    release = broken({"classes", "nclasses", "bbox"})
    name = f"{TOP}/meta.json"
    release.members[name] = json.dumps(json.loads(release.members[name]), indent=2).replace("1.5,", "1.50,").encode()
    fix(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "out.tar.gz", ConvertOptions())
    after = members_of(tmp_path / "out.tar.gz")[name]
    wanted = json.loads(release.members[name]) | {"classes": ["tree", "car"], "nclasses": 2}
    wanted["bbox"] = [10, 50, 10 + 4 * 0.01, 50.01]
    assert list(json.loads(after)) == list(wanted)
    assert json.loads(after) == wanted
    assert b"\n    1.50," in after
    assert after.startswith(b'{\n  "bbox": [\n    10.0,')


def test_what_cannot_be_mended_is_told(tmp_path, capsys):
    parts = Parts("segmentation")
    parts.files |= {"images/2.tif": None, "README": b"hello", ".DS_Store": b"\0"}
    parts.meta["bbox"] = [0, 0, 1, 1]
    parts.bounds["features"] = parts.bounds["features"][:2]
    source = parts.release().tar_gz(tmp_path / "r.tar.gz")
    told = run_json(capsys, "validate", source, "--fix", tmp_path / "out.tar.gz", code=1)
    # A sample has no image: boxes around the others would be a guess.
    assert rules_of(told) == ["pair-incomplete", "meta-bbox", "bounds-count", "bounds-footprint", "kept-member"]
    assert [e["member"] for e in told["edits"]] == [f"{TOP}/.DS_Store"]
    assert list(members_of(tmp_path / "out.tar.gz")) == [n for n in parts.release().members if ".DS_Store" not in n]


def test_classes_in_other_forms_are_left_alone(tmp_path, capsys):
    for classes in ({"tree": 1}, [{"name": "tree"}]):
        parts = Parts("segmentation")
        parts.meta |= {"classes": classes, "nclasses": 1}
        source = parts.release().tar_gz(tmp_path / "r.tar.gz")
        told = run_json(capsys, "validate", source, "--fix", tmp_path / "o.tar.gz", "--overwrite", code=1)
        assert (rules_of(told), told["edits"]) == (["meta-classes"], [])


def test_bounds_that_would_be_too_large_become_one_feature(tmp_path):
    parts = Parts()
    parts.bounds = b"["
    parts.meta["other"] = None
    source = parts.release().tar_gz(tmp_path / "r.tar.gz")
    report = fix(source, tmp_path / "out.tar.gz", ConvertOptions(limits=Limits(json_bytes=600)))
    assert [e.done for e in report.edits] == ["one feature around all footprints"]
    assert report.report.findings == ()
    (feature,) = json.loads(members_of(tmp_path / "out.tar.gz")[f"{TOP}/bounds.geojson"])["features"]
    assert feature["geometry"]["coordinates"] == [rectangle(10, 50, 10.04, 50.01)]


def test_members_of_other_systems_are_told_apart(tmp_path):
    release = Parts().release()
    junk = {f"__MACOSX/{TOP}/images/._1.tif": b"x", f"__MACOSX/._{TOP}": b"x", f"{TOP}/labels/.DS_Store": b"x"}
    kept = {f"{TOP}/DS_Store": b"x", f"{TOP}/my__MACOSX/x": b"x", f"{TOP}/a._b": b"x", f"{TOP}/Thumbs.db.txt": b"x"}
    release.members |= junk | kept
    report = fix(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "out.tar.gz", ConvertOptions())
    assert {e.member for e in report.edits} == set(junk)
    (finding,) = report.report.findings
    assert set(finding.samples) == set(kept)


# ------------------------------------------------------------------------------------------------------- the two passes


def test_the_target(tmp_path, capsys):
    source = broken({"droppings"}).tar_gz(tmp_path / "r.tar.gz")
    out = tmp_path / "out.tar.gz"
    out.write_bytes(b"mine")
    with pytest.raises(ConflictError):
        fix(source, out, ConvertOptions())
    assert out.read_bytes() == b"mine"
    run(capsys, "validate", source, "--fix", out, code=4)
    run(capsys, "validate", source, "--fix", out, "--overwrite", code=0)
    folder = broken({"droppings"}).directory(tmp_path / "x")
    for place in (source, tmp_path / "out.tar", tmp_path / "out.zip", folder / "out.tar.gz"):
        with pytest.raises(UsageError):
            fix(folder if place.parent == folder else source, place, ConvertOptions(), overwrite=True)
    with pytest.raises(StoreError):
        fix(source, tmp_path / "no" / "out.tar.gz", ConvertOptions())


@pytest.mark.parametrize("other", [{"open_rings"}, {"droppings", "classes"}])
def test_a_release_that_changes_between_the_passes(tmp_path, other):
    source = broken({"droppings"}).tar_gz(tmp_path / "r.tar.gz")
    later = broken(other).tar_gz(tmp_path / "later.tar.gz")

    def replace(done, total):
        if done == total and later.exists():
            later.replace(source)

    with pytest.raises(ArchiveError, match="changed while it was read"):
        fix(source, tmp_path / "out.tar.gz", ConvertOptions(), progress=replace)
    assert [p.name for p in tmp_path.iterdir()] == ["r.tar.gz"]


def test_a_release_that_is_cut_between_the_passes(tmp_path):
    source = broken({"droppings"}).tar_gz(tmp_path / "r.tar.gz")

    def cut(done, total):
        if done == total and source.stat().st_size == total:
            data = source.read_bytes()
            source.unlink()
            source.write_bytes(data[:-100])

    with pytest.raises(ArchiveError):
        fix(source, tmp_path / "out.tar.gz", ConvertOptions(), progress=cut)
    assert [p.name for p in tmp_path.iterdir()] == ["r.tar.gz"]


@needs_real_data
def test_a_real_release(tmp_path):
    report = fix(AUSTIN, tmp_path / "out.tar.gz", ConvertOptions())
    assert {e.rule for e in report.edits} == {"import-geometry"}
    assert report.report.findings == ()
    before, after = members_of(AUSTIN), members_of(tmp_path / "out.tar.gz")
    assert list(before) == list(after)
    assert {n for n in before if before[n] != after[n]} == {e.member for e in report.edits}
    for name in {e.member for e in report.edits}:
        old, new = json.loads(before[name]), json.loads(after[name])
        old["geometry"] = {"type": "Polygon", "coordinates": old["geometry"]["coordinates"][0]}
        assert new == old


# ------------------------------------------------------------------------------------------------------------- repairs

NUMBERS = st.sampled_from(
    ["1", "-0", "1.50", "1e5", "1E-7", "0.1000000000000000055511151231257827", "12345678901234567890"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.text() | NUMBERS.map(lambda t: parse_exact(t.encode())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(VALUES, st.sampled_from([None, 0, 1, 4]))
def test_json_comes_back_number_by_number(value, indent):
    data = dump_exact(value, indent)
    assert parse_exact(data) == value
    assert json.loads(data) == json.loads(dump_exact(value))


def test_lone_surrogates_come_back():
    text = b'{"\\ud800": "a\\udfff"}'
    assert json.loads(dump_exact(parse_exact(text))) == json.loads(text)


def test_a_byte_order_mark_alone_leaves_every_other_byte():
    text = b'{"geometry" :null,\r\n "properties":{"label":"car"}}'
    assert mend_label(BOM + text) == (text, {"json-bom": "the byte order mark is left out"})
    assert mend_label(text) == (text, {})


def test_rings_are_closed_wherever_a_label_has_them():
    ring = "[[0, 0], [1.0, 0], [1, 1e0], [0, 1]]"
    polygon = f'{{"type": "Polygon", "coordinates": [{ring}]}}'
    multi = f'{{"type": "MultiPolygon", "coordinates": [[{ring}, {ring}], [{ring}]]}}'
    feature = f'{{"type": "Feature", "geometry": {polygon}, "z": 1.00}}'
    text = f'{{"geometry": {polygon}, "Properties": {{"kind": {{"a": [{multi}, {feature}, [0, 0, 1, 1]], "b": 1}}}}}}'
    mended, done = mend_label(text.encode(), "kind")
    closed = ring.replace("[0, 1]]", "[0, 1], [0, 0]]")
    assert mended.decode() == text.replace(ring, closed)
    assert done == {"ring-unclosed": "5 rings closed"}


def test_a_ring_closed_in_other_words_is_closed():
    text = b'{"geometry": {"type": "Polygon", "coordinates": [[[0, 1], [1, 1], [1, 2], [0.0, 1e0]]]}}'
    assert mend_label(text) == (text, {})


def test_meta_of_one_line_stays_on_it():
    data, done = mend_meta(b'{"nclasses":3,"classes":["a",1],"x":1.0}', {"meta-classes"}, named={"b", "1"}, bbox=None)
    assert data == b'{"nclasses": 3, "classes": ["a", 1, "b"], "x": 1.0}'
    assert done == {"meta-classes": "classes: b added"}
