"""A store against a plain dictionary: whatever is done in whatever order, every version stays what it was."""

import json
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import vedastore as vs
from tests.builders import Release, footprint_of, geotiff, gnu_tar_members, make_release, pixels_of, read_tiff
from tests.figures import count
from vedastore.errors import ConflictError
from vedastore.io.local import LocalObjects

TOP = "ts_104-1.0.1"
BASE = make_release(12, shape=(1, 16, 16))
TRANSFORM = (0.5, 0, 733_600, 0, -0.5, 3_725_150)
IDS = st.sampled_from([str(number) for number in range(16)])
SEEDS = st.integers(0, 5)
SPLITS = st.sampled_from(["train", "test", None])
WHICH = st.integers(0, 1)
"""One of two handles."""
CHANGING = ("write", "swap", "replace", "delete")


@dataclass(frozen=True)
class Row:
    """What the model has of a sample."""

    image: bytes
    label: bytes
    split: str | None = None
    score: float | None = None

    @property
    def told(self):
        """What another writer may not have changed."""
        return self.image, self.label, self.split


@dataclass(frozen=True)
class State:
    """What the model has of a version: its samples in order, what ``meta.json`` is, and all members where they are
    those of a release.
    """

    rows: dict = field(default_factory=dict)
    meta: tuple = ()
    members: dict | None = None


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def killed_at(at, *, after):
    """Every operation that changes something fails from number ``at`` on, as if there were no process any more."""
    done = 0

    def spoil(original):
        def operation(self, *arguments, **options):
            nonlocal done
            done += 1
            if done > at or (done == at and not after):
                raise Killed
            result = original(self, *arguments, **options)
            if done == at:
                raise Killed
            return result

        return operation

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGING:
            patch.setattr(LocalObjects, name, spoil(getattr(LocalObjects, name)))
        yield


def image_of(seed, *, wide=False):
    return geotiff(pixels_of((1, 16, 24 if wide else 16), seed=900 + seed), TRANSFORM)


def label_of(seed):
    box = [[[x + seed, y] for x, y in ((1, 1), (5, 1), (5, 4), (1, 4), (1, 1))]]
    objects = [{"type": "Polygon", "coordinates": box}] * (seed % 3)
    pixel = {"type": "Feature", "geometry": footprint_of(TRANSFORM, 16, 16), "properties": {"label": {"car": objects}}}
    for item in objects[:1]:
        item["coordinates"] = footprint_of((0.5, 0, 733_600 + seed, 0, -0.5, 3_725_150), 8, 8)["coordinates"]
    return json.dumps(pixel | {"seed": seed}).encode()


def rows_of(release):
    names = [n.rpartition("/")[2].removesuffix(".tif") for n in release.members if "/images/" in n]
    members = release.members
    return {i: Row(members[f"{TOP}/images/{i}.tif"], members[f"{TOP}/labels/{i}.json"]) for i in names}


def release_of(rows, version):
    """A release of some samples; its other members are those of the first."""
    meta = f"{TOP}/meta.json"
    document = {**json.loads(BASE.members[meta]), "version": version}
    members = {meta: json.dumps(document).encode()}
    for sample_id, row in rows.items():
        members |= {f"{TOP}/images/{sample_id}.tif": row.image, f"{TOP}/labels/{sample_id}.json": row.label}
    bounds = f"{TOP}/bounds.geojson"
    return Release(members | {bounds: BASE.members[bounds]}, TOP)


class Machine(RuleBasedStateMachine):
    """Two handles on one store, of which each may be behind; a crash may strike any change."""

    steps = commits = conflicts = crashes = 0

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.store = self.folder / "s.zarr"
        self.fault = None
        collection = vs.convert(BASE.tar(self.folder / "r.tar"), self.store)
        self.states = {"1.0.1": State(rows_of(BASE), ("1.0.1",), BASE.members)}
        self.handles = [collection, vs.open(self.store)]

    def teardown(self):
        if hasattr(self, "folder"):
            for version in self.states:
                assert vs.open(self.store, version).verify().ok
            shutil.rmtree(self.folder)

    # -------------------------------------------------------------------------------------------------- what is done

    def change(self, which, action, expected):
        """Do something with a handle; ``expected`` makes a state of one, or is a refusal."""
        type(self).steps += 1
        fault, self.fault = self.fault, None
        try:
            if fault is None:
                found = action(self.handles[which])
            else:
                with killed_at(fault[0], after=fault[1]):
                    found = action(self.handles[which])
        except ConflictError:
            assert expected is ConflictError
            type(self).conflicts += 1
            self.handles[which] = vs.open(self.store)
            return
        except Killed:
            assert expected is not ConflictError
            type(self).crashes += 1
            found = vs.open(self.store)
            if found.versions == tuple(self.states):
                self.handles[which] = found
                return
        assert expected is not ConflictError
        type(self).commits += 1
        assert found.versions == (*self.states, found.version)
        self.states[found.version] = expected
        self.handles[which] = found

    def state(self, which):
        return self.states[self.handles[which].version]

    def base(self, which, touched, *, meta=False):
        """The state that an edit of some samples is made to; a refusal where another writer was first with them."""
        own, last = self.state(which), list(self.states)[-1]
        handle = self.handles[which]
        if handle.versions == tuple(self.states):
            return own
        if handle.version != handle.versions[-1] or (meta and own.meta != self.states[last].meta):
            return ConflictError
        rows, latest = own.rows, self.states[last].rows
        told = ((rows.get(i), latest.get(i)) for i in touched)
        same = all((a and a.told) == (b and b.told) for a, b in told)
        return self.states[last] if same else ConflictError

    def edit(self, which, *, labels=None, removed=(), added=None, splits=None, meta=None):
        """Edits of samples that a handle has, as far as they make sense for it."""
        own = self.state(which).rows
        removed = [i for i in dict.fromkeys(removed) if i in own]
        labels, splits = (
            {i: v for i, v in (given or {}).items() if i in own and i not in removed} for given in (labels, splits)
        )
        added = {i: v for i, v in (added or {}).items() if i not in own or i in removed}
        if not (labels or removed or added or splits or meta is not None) or len(removed) == len(own):
            return

        def action(collection):
            with collection.edit() as e:
                e.update_labels(labels)
                e.remove(removed)
                e.add(added)
                e.set_split(splits)
                if meta is not None:
                    e.update_meta({"note": meta})
            return e.collection

        base = self.base(which, [*labels, *removed, *splits, *added], meta=meta is not None)
        if base is not ConflictError:
            rows = {i: row for i, row in base.rows.items() if i not in removed}
            rows |= {i: replace(rows[i], label=label) for i, label in labels.items()}
            rows |= {i: replace(rows[i], split=split) for i, split in splits.items()}
            rows |= {i: Row(*pair) for i, pair in added.items()}
            base = State(rows, base.meta if meta is None else (base.meta[0], meta))
        self.change(which, action, base)

    @rule(which=WHICH, labels=st.dictionaries(IDS, SEEDS.map(label_of), max_size=3))
    def update_labels(self, which, labels):
        self.edit(which, labels=labels)

    @rule(which=WHICH, removed=st.lists(IDS, max_size=3))
    def remove(self, which, removed):
        self.edit(which, removed=removed)

    @rule(which=WHICH, ids=st.lists(IDS, max_size=3), seed=SEEDS, wide=st.booleans())
    def add(self, which, ids, seed, wide):
        self.edit(which, added={i: (image_of(seed, wide=wide), label_of(seed)) for i in ids})

    @rule(which=WHICH, data=st.data())
    def many(self, which, data):
        """Several edits in one commit; a sample may be removed and added again."""
        labels = data.draw(st.dictionaries(IDS, SEEDS.map(label_of), max_size=2))
        removed = data.draw(st.lists(IDS, max_size=2))
        added = {i: (image_of(seed), label_of(seed)) for i, seed in data.draw(st.dictionaries(IDS, SEEDS)).items()}
        splits, meta = data.draw(st.dictionaries(IDS, SPLITS, max_size=2)), data.draw(st.none() | SEEDS)
        self.edit(which, labels=labels, removed=removed, added=added, splits=splits, meta=meta)

    @rule(which=WHICH, splits=st.dictionaries(IDS, SPLITS, max_size=3), meta=st.none() | SEEDS)
    def edit_splits(self, which, splits, meta):
        self.edit(which, splits=splits, meta=meta)

    @rule(which=WHICH, ids=st.lists(IDS, min_size=1, max_size=4), value=SEEDS)
    def assign(self, which, ids, value):
        own = self.state(which).rows
        chosen = [i for i in dict.fromkeys(ids) if i in own]
        if chosen:
            values = {i: row.score for i, row in own.items()} | dict.fromkeys(chosen, value / 2)
            rows = {i: replace(row, score=values[i]) for i, row in own.items()}
            current = self.handles[which].versions == tuple(self.states)
            expected = State(rows, self.state(which).meta) if current else ConflictError
            column = [float("nan") if v is None else v for v in values.values()]
            given = {"score": [None if np.isnan(v) else v for v in column]}
            self.change(which, lambda c: c.assign(given), expected)

    @rule(which=WHICH, data=st.data())
    def append(self, which, data):
        """The next release: some samples are gone, other, or new, and perhaps in another order."""
        last = self.states[list(self.states)[-1]]
        gone = data.draw(st.sets(IDS, max_size=3))
        changed = {i: Row(image_of(seed), label_of(seed)) for i, seed in data.draw(st.dictionaries(IDS, SEEDS)).items()}
        rows = {i: row for i, row in last.rows.items() if i not in gone} | changed
        if data.draw(st.booleans()):
            rows = dict(data.draw(st.permutations(list(rows.items()))))
        if rows:
            version = f"2.{len(self.states)}"
            release = release_of(rows, version)
            kept = {i: last.rows.get(i, Row(b"", b"")) for i in rows}
            rows = {i: replace(row, split=kept[i].split, score=kept[i].score) for i, row in rows.items()}
            source = release.tar(self.folder / "next.tar")
            expected = State(rows, (version,), release.members)
            self.change(which, lambda _: vs.convert(source, self.store, mode="append"), expected)

    @rule(at=st.integers(1, 12), after=st.booleans(), kind=st.sampled_from(["many", "append", "add"]), data=st.data())
    def crash(self, at, after, kind, data):
        """A change is the last thing that its process does."""
        self.fault, which = (at, after), data.draw(WHICH)
        if kind == "add":
            unused = next(str(n) for n in range(100, 1_000) if str(n) not in self.state(which).rows)
            self.edit(which, added={unused: (image_of(at), label_of(at))})
        else:
            getattr(self, kind)(which, data)
        self.fault = None

    @rule(which=WHICH, data=st.data())
    def reopen(self, which, data):
        """The latest version, or an old one."""
        version = data.draw(st.none() | st.sampled_from(list(self.states)))
        self.handles[which] = vs.open(self.store, version)

    @rule()
    def clean(self):
        vs.clean(self.store, grace_days=0)
        assert vs.clean(self.store, grace_days=0).removed == 0

    @rule(data=st.data())
    def export(self, data):
        """A version comes back: a release whole, an edited one but for what follows from its samples."""
        version = data.draw(st.sampled_from(list(self.states)))
        state, path = self.states[version], self.folder / "back.tar"
        vs.open(self.store, version).export(path, overwrite=True)
        found = gnu_tar_members(path, self.folder / "back")
        if state.members is not None:
            assert list(found.items()) == list(state.members.items())
        rows = {i: (found.pop(f"{TOP}/images/{i}.tif"), found.pop(f"{TOP}/labels/{i}.json")) for i in state.rows}
        assert rows == {i: (row.image, row.label) for i, row in state.rows.items()}
        assert set(found) == {f"{TOP}/meta.json", f"{TOP}/bounds.geojson"}
        meta = json.loads(found[f"{TOP}/meta.json"])
        assert meta["version"] == version or len(state.meta) == 1
        assert meta.get("note") == (state.meta[1] if len(state.meta) > 1 else None)

    # ------------------------------------------------------------------------------------------------ what must hold

    @invariant()
    def every_version_is_what_it_was(self):
        if hasattr(self, "folder"):
            assert vs.open(self.store).versions == tuple(self.states)
            for version, state in self.states.items():
                check_rows(vs.open(self.store, version), state)
            last = list(self.states)[-1]
            check_pixels(vs.open(self.store), self.states[last])
            for handle in self.handles:
                check_rows(handle, self.states[handle.version])


def check_rows(collection, state):
    columns = ["id", "label", "split"]
    samples = collection._snapshot.table("samples")
    columns += ["score"] if "score" in samples.schema.names else []
    found = [tuple(row.values()) for row in samples.read(columns).to_pylist()]
    expected = [(i, row.label, row.split, row.score)[: len(columns)] for i, row in state.rows.items()]
    assert found == expected


def check_pixels(collection, state):
    """Pixels, objects and selections are what files and labels say."""
    for sample in collection:
        np.testing.assert_array_equal(sample.pixels, read_tiff(state.rows[sample.id].image))
    counted = {}
    for i, row in state.rows.items():
        label = json.loads(row.label)["properties"]["label"]
        counted[i] = {name: len(objects) for name, objects in label.items() if objects}
    features = collection.features
    assert features.groupby("id").size().to_dict() == {i: sum(c.values()) for i, c in counted.items() if c}
    chosen = [s.id for s in collection.select(classes=["car"])]
    assert chosen == [i for i, c in counted.items() if c.get("car")]
    chosen = [s.id for s in collection.select(where="split = 'train'")]
    assert chosen == [i for i, row in state.rows.items() if row.split == "train"]
    assert len(collection.select(where="objects = 0")) == sum(not c for c in counted.values())


def run(examples, steps):
    Machine.steps = Machine.commits = Machine.conflicts = Machine.crashes = 0
    options = {"max_examples": examples, "stateful_step_count": steps, "suppress_health_check": list(HealthCheck)}
    run_state_machine_as_test(Machine, settings=settings(deadline=None, derandomize=True, **options))
    names = ("steps", "commits", "conflicts", "crashes")
    count("P1", **{f"{name} of the machine": getattr(Machine, name) for name in names})


def test_a_store_is_as_a_dictionary():
    run(3, 8)


@pytest.mark.slow
def test_a_store_stays_as_a_dictionary():
    run(60, 30)
