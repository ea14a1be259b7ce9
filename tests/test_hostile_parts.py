"""Versions in parts from a stranger: parts that lie about positions, counts, files and buckets."""

import hashlib
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vedastore as vs
from tests.builders import make_release, pixels_of, plain_tiff
from tests.test_hostile_store import added, check, edit_root, write_table
from vedastore.spec.root import ATTRIBUTE


@pytest.fixture(scope="module")
def parted(tmp_path_factory):
    """A sound store in three parts, with two buckets of one shape: one label is another, one sample gone, one new."""
    folder = tmp_path_factory.mktemp("parted")
    store = folder / "r.zarr"
    first = vs.convert(make_release(5).tar(folder / "r.tar"), store)
    found = first.update_labels({"1": {"car": []}}).remove("3")
    found.add({"new": (plain_tiff(pixels_of(seed=9)), {"boat": [[1, 2, 9, 9]]})})
    return store


def parts_of(store):
    body = json.loads((store / "zarr.json").read_bytes())["attributes"][ATTRIBUTE]
    return body["versions"][-1]["parts"]


def last(change):
    """Change the last version as the root document has it."""
    return lambda store: edit_root(store, lambda body: change(body["versions"][-1]))


def say(**changes):
    return last(lambda version: version.update(changes))


def part_file(number, name, **changes):
    return last(lambda version: version["parts"][number][name].update(changes))


def part_table(number, name, change):
    """Change a table of a part as Arrow holds it, and make the root document fit."""

    def edit(store):
        path = store / parts_of(store)[number][name]["key"]
        found = change(pq.read_table(path))
        path.write_bytes(write_table(name, found))
        data = path.read_bytes()
        told = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "rows": found.num_rows}
        part_file(number, name, **told)(store)

    return edit


def at(*positions):
    """Give the rows of a table these positions; the first one is repeated where they are more."""

    def change(found):
        found = found.take([min(n, found.num_rows - 1) for n in range(len(positions))])
        place = found.column_names.index("position")
        return found.set_column(place, "position", pa.array(positions, "int64"))

    return change


def twin(**changes):
    """The bucket that the last part has made gets other fields."""

    def change(version):
        name = next(name for name in version["buckets"] if "~" in name)
        version["buckets"][name].update(changes)

    return last(change)


VERSION_PARTS = {
    "sound": (say(), "fine"),
    "nine": (last(lambda v: v.update(parts=v["parts"][:1] * 9)), "refused"),
    "no-list": (say(parts={}), "refused"),
    "no-tables": (say(parts=[{}]), "refused"),
    "no-features": (last(lambda v: v["parts"][0].update(features=None)), "refused"),
    "other-table": (last(lambda v: v["parts"][0].update(features=v["parts"][0]["samples"])), "refused"),
    "key-outside": (part_file(0, "samples", key="../part-samples.parquet"), "refused"),
    "samples-lie": (say(samples=4), "damaged"),
    "samples-lie-much": (say(samples=2**50), "refused"),
    "features-lie": (say(features=1), "damaged"),
    "features-lie-much": (say(features=2**50), "refused"),
    "rows-lie": (part_file(0, "samples", rows=2), "damaged"),
    "rows-absurd": (part_file(2, "samples", rows=2**50), "damaged"),
    "size-lies": (part_file(0, "samples", bytes=2**50), "damaged"),
    "sha-lies": (part_file(0, "features", sha256="0" * 64), "damaged"),
    "file-missing": (lambda s: (s / parts_of(s)[1]["removed"]["key"]).unlink(), "damaged"),
    "no-removed": (last(lambda v: v["parts"][1].update(removed=None)), "damaged"),
    "reversed": (last(lambda v: v["parts"].reverse()), "any"),
    "first-twice": (last(lambda v: v["parts"].insert(0, v["parts"][0])), "any"),
    "position-negative": (part_table(0, "samples", at(-1)), "damaged"),
    "position-beyond": (part_table(0, "samples", at(7)), "damaged"),
    "position-huge": (part_table(2, "samples", at(2**62)), "damaged"),
    "position-gap": (part_table(2, "samples", at(6)), "damaged"),
    "position-twice": (part_table(0, "samples", at(1, 1)), "damaged"),
    "position-back": (part_table(0, "samples", at(1, 0)), "damaged"),
    "position-of-removed": (part_table(2, "samples", at(3)), "any"),
    "id-of-another": (part_table(0, "samples", at(2)), "damaged"),
    "features-beyond": (part_table(2, "features", at(6)), "damaged"),
    "features-of-others": (part_table(2, "features", at(0)), "damaged"),
    "removed-unknown": (part_table(1, "removed", at(5)), "damaged"),
    "removed-negative": (part_table(1, "removed", at(-1)), "damaged"),
    "removed-twice": (part_table(1, "removed", at(3, 3)), "damaged"),
    "removed-all": (lambda s: (part_table(2, "samples", lambda f: f[:0])(s), say(samples=0, features=0)(s),
                               part_table(1, "removed", at(*range(5)))(s)), "any"),
    "column-missing": (part_table(0, "samples", lambda found: found.drop_columns(["crs"])), "damaged"),
    "column-added": (part_table(0, "samples", added(ndvi=[1.5])), "damaged"),
    "row-beyond": (part_table(2, "samples", lambda f: f.set_column(f.column_names.index("row"), "row", pa.array([1]))),
                   "damaged"),
    "bucket-2**53-rows": (twin(rows=2**53), "refused"),
    "bucket-2**52-rows": (twin(rows=2**52), "damaged"),
    "bucket-no-rows": (twin(rows=0), "damaged"),
    "bucket-other-shape": (twin(bands=4), "refused"),
    "bucket-other-codec": (twin(codec="compact"), "damaged"),
    "findings-odd": (say(findings=[{"a": 1}, {}]), "refused"),
    "findings-unknown": (say(findings=[{"rule": "\x1b", "message": "", "more": ["\n"]}]), "any"),
    "skipped-odd": (say(skipped=[{}]), "any"),
}  # fmt: skip


def test_versions_in_parts_are_checked(parted, tmp_path):
    """Only opening and verifying is tried here."""
    for name, (change, expected) in VERSION_PARTS.items():
        shutil.copytree(parted, tmp_path / name)
        change(tmp_path / name)
        if expected == "refused":
            with pytest.raises(vs.errors.StoreError):
                vs.open(tmp_path / name)
        elif expected != "any":
            assert vs.open(tmp_path / name).verify().ok == (expected == "fine"), name


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_versions_in_parts(parted, tmp_path, part):
    check(parted, tmp_path, dict(list(VERSION_PARTS.items())[part::4]))
