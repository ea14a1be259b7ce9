"""Every rule has a release that breaks just this one, told through the command line; and how it is told."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

import vedastore as vs
from tests.broken import CASES, IDS, TOP, Parts, image, write
from tests.builders import ATLANTA, AUSTIN, needs_real_data
from vedastore.cli import main
from vedastore.exchange.release import look
from vedastore.model import EXAMPLES
from vedastore.spec.rules import RULES, SECTIONS, SEVERITIES

REFUSALS = {"archive-damaged", "archive-member", "archive-limit"}


def run(capsys, *arguments, code):
    found = main([str(a) for a in arguments])
    told = capsys.readouterr()
    assert found == code, told
    return told


def run_json(capsys, *arguments, code):
    return json.loads(run(capsys, *arguments, "--json", code=code).out)


def rules_of(told):
    return [f["rule"] for f in (*told["problems"], *told["findings"])]


@pytest.mark.parametrize("rule", RULES)
def test_a_release_that_breaks_just_this_rule(rule, tmp_path, capsys):
    source, arguments = write(rule, tmp_path)
    severity = RULES[rule].severity
    if rule in REFUSALS:
        assert run_json(capsys, "validate", source, *arguments, code=3)["error"]["rule"] == rule
        return
    told = run_json(capsys, "validate", source, *arguments, code=0 if severity == "note" else 1)
    assert rules_of(told) == [rule]
    (finding,) = (*told["problems"], *told["findings"])
    assert set(finding) == {"rule", "severity", "message", "where", "count", "samples"}
    assert (finding["severity"], bool(told["problems"])) == (severity, severity == "error")
    assert told["ok"] == (severity == "note")
    assert [told[f"{s}s"] for s in SEVERITIES] == [int(s == severity) for s in SEVERITIES]
    run(capsys, "validate", source, *arguments, "--strict", code=1)


@pytest.mark.parametrize("rule", [r for r in RULES if RULES[r].severity == "error" and r in CASES])
def test_a_conversion_refuses_errors_by_the_same_rule(rule, tmp_path, capsys):
    source, arguments = write(rule, tmp_path)
    error = run_json(capsys, "convert", source, tmp_path / "r.zarr", *arguments, code=3)["error"]
    assert error["rule"] == rule
    assert not (tmp_path / "r.zarr").exists()


@pytest.mark.parametrize("rule", [r for r in RULES if RULES[r].severity != "error"])
def test_a_conversion_finds_the_same(rule, tmp_path, capsys):
    source, arguments = write(rule, tmp_path)
    validated = run_json(capsys, "validate", source, *arguments, code=0 if RULES[rule].severity == "note" else 1)
    converted = run_json(capsys, "convert", source, tmp_path / "r.zarr", *arguments, code=0)
    assert converted["findings"] == validated["findings"]
    assert [f["rule"] for f in converted["findings"]] == [rule]
    stored = json.loads((tmp_path / "r.zarr" / "zarr.json").read_bytes())["attributes"]["vedastore"]["versions"][0]
    assert [{**f, "severity": RULES[rule].severity} for f in stored["findings"]] == converted["findings"]


def test_a_good_release_breaks_no_rule(tmp_path, capsys):
    for task in ("classification", "segmentation"):
        source = Parts(task).release().tar_gz(tmp_path / f"{task}.tar.gz")
        told = run_json(capsys, "validate", source, "--strict", code=0)
        assert told == {
            "ok": True, "samples": 4, "task": task, "classes": ["car", "tree"],
            "label_coords": "geographic" if task == "segmentation" else None,
            "errors": 0, "warnings": 0, "notes": 0, "findings": [], "problems": [],
        }  # fmt: skip


@needs_real_data
def test_real_releases(capsys):
    assert rules_of(run_json(capsys, "validate", ATLANTA, code=0)) == []
    assert rules_of(run_json(capsys, "validate", AUSTIN, code=0)) == ["import-geometry"]


def test_catalogue():
    assert list(RULES) == [rule.id for rules in SECTIONS.values() for rule in rules]
    assert len(RULES) == sum(map(len, SECTIONS.values()))
    for rule in RULES.values():
        assert rule.severity in SEVERITIES
        assert rule.id == rule.id.lower().strip("-")
        for text in (rule.title, rule.advice, rule.fix or "x"):
            assert text == text.strip()
            assert not text.endswith(".")


def test_every_rule_that_is_named_in_the_code_is_in_the_catalogue():
    named = set()
    for path in (Path(vs.__file__).parent).rglob("*.py"):
        # These tell what is wrong with a store.
        if path.stem in {"verify", "inspection", "comparison", "stats", "repair"}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "rule" and isinstance(node.value, ast.Constant):
                named.add(node.value.value)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"Finding", "many"}:
                named |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant)}
    assert named
    assert named - {None} <= set(RULES)


# ------------------------------------------------------------------------------------------------ one finding, bounded


def test_many_bad_samples_are_one_finding(tmp_path, capsys):
    parts = Parts(ids=[str(n) for n in range(60)])
    for number in range(50):
        parts.files[f"images/{number}.tif"] = None
    told = run_json(capsys, "validate", parts.release().tar_gz(tmp_path / "r.tar.gz"), code=1)
    assert rules_of(told) == ["pair-incomplete"]
    (problem,) = told["problems"]
    assert problem["count"] == 50
    assert len(problem["samples"]) == EXAMPLES == 20
    assert problem["message"].startswith("50 samples: ")
    assert (told["samples"], told["errors"]) == (10, 1)


def test_every_error_of_a_sample_is_told(tmp_path, capsys):
    parts = Parts()
    parts.files["images/2.tif"] = b"no TIFF"
    parts.features["2"] = {"type": "Feature"}
    parts.files["images/3.tif"] = b"no TIFF"
    parts.files["labels/3.json"] = None
    parts.files["images/4.tif"] = None
    parts.features["4"]["properties"]["label"] = []
    told = run_json(capsys, "validate", parts.release().tar_gz(tmp_path / "r.tar.gz"), code=1)
    found = {p["rule"]: p["samples"] for p in told["problems"]}
    assert found["image-damaged"] == ["2", "3"]
    assert found["pair-incomplete"] == ["3", "4"]
    assert {"2", "4"} == {i for rule, ids in found.items() if rule.startswith("label-") for i in ids}


def test_problems_of_the_release_do_not_hide_those_of_samples(tmp_path, capsys):
    parts = Parts()
    parts.meta["mlType"] = "regression"
    parts.files["images/2.tif"] = None
    parts.files["README"] = b"hello"
    told = run_json(capsys, "validate", parts.release().tar_gz(tmp_path / "r.tar.gz"), code=1)
    assert rules_of(told) == ["pair-incomplete", "meta-task", "kept-member"]
    assert (told["task"], told["samples"]) == (None, 0)


def test_lines(tmp_path, capsys):
    parts = Parts()
    parts.files |= {"images/2.tif": None, "README": b"hello", "images/3.tif": image(2, (1, 32, 32))}
    lines = run(capsys, "validate", parts.release().tar_gz(tmp_path / "r.tar.gz"), code=1).out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [
        ["error", "pair-incomplete"], ["warning", "image-bands"], ["note", "kept-member"],
    ]  # fmt: skip
    assert lines[0].startswith(
        "error    pair-incomplete  1 sample: 2 \u2014 ts_7-1.0.0/labels/2.json: sample '2' has no image ("
    )
    assert lines[1].startswith(
        "warning  image-bands  1 sample: 3 \u2014 images have different numbers of bands: 3 (2), 1 (1) ("
    )
    assert lines[-1].endswith("r.tar.gz: not ok; 3 samples convert, 1 error, 1 warning, 1 note")
    assert run(capsys, "validate", tmp_path / "r.tar.gz", "--quiet", code=1).out == ""


def test_hostile_names_stay_on_their_line(tmp_path, capsys):
    release = Parts().release()
    release.members["\u202e\u2028x"] = b""
    out = run(capsys, "validate", release.tar_gz(tmp_path / "r.tar.gz"), code=0).out
    assert len(out.splitlines()) == 2
    assert "\\u202e\\u2028x" in out


# --------------------------------------------------------------------------------------------------------- one by one


@pytest.mark.parametrize(
    ("pixels", "nodata", "expected"),
    [
        (np.zeros((2, 50, 60)), None, "black"),
        (np.full((2, 50, 60), 7), None, "constant"),
        (np.full((2, 50, 60), 7), "7", "black"),
        (np.where(np.arange(3000) % 2, 0, -9999).reshape(1, 50, 60), "-9999", "black"),
        (np.where(np.arange(3000) % 2, 0, -9999).reshape(1, 50, 60), None, "varied"),
        (np.full((1, 50, 60), np.nan), "nan", "black"),
        (np.full((1, 50, 60), np.nan), None, "constant"),
        (np.full((1, 50, 60), 7), "not a number", "constant"),
        (np.stack([np.full((50, 60), 1), np.full((50, 60), 2)]), None, "constant"),
        (np.stack([np.zeros((50, 60)), np.full((50, 60), 2)]), None, "constant"),
        (np.zeros((1, 0, 4)), None, "black"),
        (np.full((1, 4, 4), 255, "u1"), "255.0", "black"),
        (np.full((1, 4, 4), 255, "u1"), "99999", "constant"),
        (np.full((1, 4, 4), 2**63 + 1, "u8"), str(2**63 + 1), "black"),
    ],
)
def test_look(pixels, nodata, expected):
    assert look(pixels, nodata) == expected


@pytest.mark.parametrize("place", [(0, 0, 0), (1, 0, 63), (0, 49, 59), (1, 20, 5)])
@pytest.mark.parametrize("value", [0, 5])
def test_one_pixel_is_something_to_see(place, value):
    pixels = np.full((2, 50, 64), value, "u2")
    pixels[place] += 1
    assert look(pixels, None) == "varied"


def test_duplicates_are_of_one_shape_and_type(tmp_path, capsys):
    pixels = np.arange(64, dtype="u1")
    from tests.builders import plain_tiff

    parts = Parts()
    for sample_id, shape in zip(IDS, [(1, 8, 8), (1, 4, 16), (1, 16, 4), (1, 8, 8)], strict=True):
        parts.files[f"images/{sample_id}.tif"] = plain_tiff(pixels.reshape(shape))
    told = run_json(capsys, "validate", parts.release().tar_gz(tmp_path / "r.tar.gz"), code=1)
    found = {f["rule"]: f["samples"] for f in told["findings"]}
    assert found["image-duplicate"] == ["1", "4"]
    assert found["image-size"] == ["2", "3"]


def test_black_images_are_no_duplicates(tmp_path, capsys):
    from tests.builders import plain_tiff

    parts = Parts()
    parts.files |= {f"images/{i}.tif": plain_tiff(np.zeros((3, 32, 32), "u1")) for i in "12"}
    told = run_json(capsys, "validate", parts.release().tar_gz(tmp_path / "r.tar.gz"), code=1)
    assert rules_of(told) == ["image-black"]


def test_bounds_of_one_feature_for_all(tmp_path, capsys):
    parts = Parts()
    west, south, east, north = parts.meta["bbox"]
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    for bounds in ({"type": "Polygon", "coordinates": [ring]}, {"type": "MultiPolygon", "coordinates": [[ring]]}):
        feature = {"type": "Feature", "geometry": bounds}
        for document in (bounds, feature, {"type": "FeatureCollection", "features": [feature]}):
            parts.bounds = document
            assert rules_of(run_json(capsys, "validate", parts.release().tar_gz(tmp_path / "r.tar.gz"), code=0)) == []
    ring[1][0] = ring[2][0] = east - 0.01
    told = run_json(capsys, "validate", parts.release().tar_gz(tmp_path / "r.tar.gz"), code=1)
    (finding,) = told["findings"]
    assert (finding["rule"], finding["samples"]) == ("bounds-footprint", ["4"])


def test_a_sample_that_does_not_convert_makes_no_noise(tmp_path, capsys):
    for rule in ("pair-incomplete", "json-syntax", "image-damaged"):
        parts = Parts()
        parts.features["2"]["properties"]["label"] = {"car": 1, "tree": 1, "boat": 1}
        parts.meta |= {"classes": ["boat", "car", "tree"], "nclasses": 3}
        if rule == "json-syntax":
            parts.files["labels/2.json"] = b"{"
        else:
            parts.files["images/2.tif"] = None if rule == "pair-incomplete" else b"no TIFF"
        told = run_json(capsys, "validate", parts.release().tar_gz(tmp_path / "r.tar.gz"), code=1)
        assert (len(told["problems"]), told["findings"]) == (1, [])


# -------------------------------------------------------------------------------------------------------------- limits


def test_limits(tmp_path, capsys):
    source = Parts().release().tar_gz(tmp_path / "r.tar.gz")
    told = run(capsys, "validate", source, "--limit", "nonsense=3", code=2).err
    assert "there is no limit 'nonsense'" in told
    assert "image_bytes" in told
    assert "json_depth" in told
    for value in ("", "x", "-1", "1kb", "1.5GiB", "0"):
        run(capsys, "validate", source, "--limit", f"members={value}", code=2)
    run(capsys, "validate", source, "--limit", "member_bytes=1KiB", code=3)
    run(capsys, "validate", source, "--limit", "member_bytes=1MiB", "--limit", "members=100", code=0)
    assert (
        "above the limit"
        in run(capsys, "convert", source, tmp_path / "r.zarr", "--limit", "member_bytes=9", code=3).err
    )
    with pytest.raises(vs.errors.ArchiveError, match="above the limit"):
        vs.convert(source, tmp_path / "r.zarr", limits=vs.Limits(member_bytes=9))
    vs.convert(source, tmp_path / "r.zarr", limits=vs.Limits(members=99))
    run(capsys, "verify", tmp_path / "r.zarr", "--against", source, "--limit", "members=2", code=3)
    run(capsys, "verify", tmp_path / "r.zarr", "--against", source, code=0)


# --------------------------------------------------------------------------------------------------------------- SARIF


def check_sarif(document):
    """The essentials of the schema of SARIF 2.1.0: what must be there, and of which type."""
    assert document["version"] == "2.1.0"
    assert document["$schema"].endswith("sarif-schema-2.1.0.json")
    (run_,) = document["runs"]
    driver = run_["tool"]["driver"]
    assert driver["name"] == "vedastore"
    assert [r["id"] for r in driver["rules"]] == list(RULES)
    for rule in driver["rules"]:
        assert rule["defaultConfiguration"]["level"] in {"none", "note", "warning", "error"}
        assert all(
            set(rule[k]) == {"text"} and rule[k]["text"] for k in ("shortDescription", "fullDescription", "help")
        )
    for result in run_["results"]:
        assert set(result) == {"ruleId", "ruleIndex", "level", "message", "locations", "occurrenceCount"}
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in {"note", "warning", "error"}
        assert isinstance(result["message"]["text"], str)
        assert isinstance(result["occurrenceCount"], int)
        assert result["occurrenceCount"] >= 1
        assert result["locations"]
        for location in result["locations"]:
            assert set(location) <= {"physicalLocation", "logicalLocations"}
            uri = location["physicalLocation"]["artifactLocation"]["uri"]
            assert uri.isascii()
            assert " " not in uri
            assert all(isinstance(p["fullyQualifiedName"], str) for p in location.get("logicalLocations", ()))
    return run_["results"]


def members_of(result):
    return [p["fullyQualifiedName"] for where in result["locations"] for p in where.get("logicalLocations", ())]


def test_sarif(tmp_path, capsys):
    parts = Parts()
    parts.files |= {"images/2.tif": None, "README": b"hello", "images/3.tif": image(2, (1, 32, 32))}
    parts.features["4"]["geometry"] = {}
    parts.meta.pop("public")
    source = parts.release().tar_gz(tmp_path / "my release.tar.gz")
    results = check_sarif(json.loads(run(capsys, "validate", source, "--sarif", code=1).out))
    found = {r["ruleId"]: r for r in results}
    assert members_of(found["pair-incomplete"]) == [f"{TOP}/labels/2.json"]
    assert members_of(found["image-bands"]) == [f"{TOP}/images/3.tif"]
    assert members_of(found["footprint-missing"]) == [f"{TOP}/labels/4.json"]
    assert members_of(found["kept-member"]) == [f"{TOP}/README"]
    assert members_of(found["meta-key"]) == []
    assert {r["level"] for r in results} == {"error", "warning", "note"}
    assert found["meta-key"]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].endswith(
        "my%20release.tar.gz"
    )


def test_sarif_of_a_good_release_and_of_a_refused_archive(tmp_path, capsys):
    source = Parts().release().tar_gz(tmp_path / "r.tar.gz")
    assert check_sarif(json.loads(run(capsys, "validate", source, "--sarif", code=0).out)) == []
    source.write_bytes(source.read_bytes()[:-9])
    told = run(capsys, "validate", source, "--sarif", code=3)
    (result,) = check_sarif(json.loads(told.out))
    assert (result["ruleId"], result["level"]) == ("archive-damaged", "error")
    assert told.err.startswith("vedastore: r.tar.gz: ")
    assert run(capsys, "validate", source, "--sarif", "--json", code=2).out
