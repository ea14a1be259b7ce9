"""What changes a store or a file beside it, one operation a line: the table that the tests of faults sweep over.

A new verb is tested for faults, kills, power cuts and readers by one more entry of `OPERATIONS`.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import vedastore as vs
from tests.builders import make_release
from vedastore.errors import StoreError

RELEASES = {"old": make_release(4, seed=1), "new": make_release(3, seed=2, top="ts_104-1.0.2")}
_IDS = re.compile(r"[0-9a-f]{32}|(?<=~)[0-9a-f]{8}")


@dataclass(frozen=True)
class Operation:
    """One command.

    ``command`` names places of the scene in braces; it may be ``-c``, Python code and its arguments instead. Before it,
    ``before`` has been done. ``release`` names the release that the last version then gives back. ``durable`` says
    that what it has written must survive a power cut once it has ended. ``again`` is the exit code of doing it twice.
    """

    name: str
    command: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    release: str = "old"
    durable: bool = True
    again: int = 0

    def __str__(self):
        return self.name


_CONVERTED = ("convert", "{old}", "{store}")
_EDIT = """
import sys, vedastore as vs
collection = vs.open(sys.argv[2])
image, label = collection["2"].read_files()
with collection.edit(version="1.0.1+1", author="Ada", message="several at once") as edits:
    edits.update_labels({"1": {"car": []}})
    edits.remove("3")
    edits.add({"new": (collection["2"].pixels + 1, {"boat": []}), "same": (image, label)})
    edits.update_meta({"description": "edited"})
"""
_BY_PROCESSES = """
import sys, vedastore as vs
from vedastore.io.peers import Peer
from vedastore.ops import convert, process_crew
process_crew.WORTH_BYTES, convert.BATCH_BYTES, Peer.is_ready = 0, 1, True
vs.convert(*sys.argv[2:], workers=2)
"""
_OVERWRITE = ("convert", "{new}", "{store}", "--overwrite")
OPERATIONS = (
    Operation("create", ("convert", "{new}", "{store}"), release="new", again=4),
    Operation("create-by-processes", ("-c", _BY_PROCESSES, "{files}", "{store}"), release="", again=4),
    Operation("overwrite", _OVERWRITE, (_CONVERTED,), "new"),
    Operation(
        "append", ("convert", "{new}", "{store}", "--append", "--version", "1.0.2"), (_CONVERTED,), "new", again=4
    ),
    Operation("edit", ("-c", _EDIT, "{store}"), (_CONVERTED,), release="", again=2),
    Operation("assign", ("assign", "{store}", "{scores}"), (_CONVERTED,)),
    Operation("split", ("split", "{store}"), (_CONVERTED, ("assign", "{store}", "{scores}"))),
    Operation("export", ("export", "{store}", "{archive}"), (_CONVERTED,), again=4),
    Operation(
        "export-over",
        ("export", "{store}", "{archive}", "--overwrite"),
        (_CONVERTED, ("export", "{store}", "{archive}"), _OVERWRITE),
        "new",
    ),
    Operation("stats", ("stats", "{store}"), (_CONVERTED,), durable=False),
    Operation(
        "clean",
        ("clean", "{store}", "--grace", "0"),
        (_CONVERTED, ("stats", "{store}"), _OVERWRITE),
        "new",
        durable=False,
    ),
)


class Scene:
    """The places of one operation: a folder that is changed, with the store and the archive, beside what is only read.

    What is seen is a text that differs where anything differs that a user could see.
    """

    def __init__(self, folder):
        self.folder, self.place = folder, folder / "place"
        self.store, self.archive = self.place / "r.zarr", self.place / "out.tar.gz"
        self.inputs = folder / "inputs"

    def arguments(self, command):
        places = {"store": self.store, "archive": self.archive}
        places |= {name: self.inputs / f"{name}.tar.gz" for name in RELEASES}
        places |= {"scores": self.inputs / "scores.csv", "files": self.inputs / RELEASES["new"].top}
        return [word.format(**places) if word.startswith("{") else word for word in command]

    def prepare(self, runner, operation):
        """Make the folder as it is before an operation."""
        self.place.mkdir(parents=True)
        self.fill()
        for command in operation.before:
            ran = runner.run(self.arguments(command))
            assert ran.code == 0, ran.said
        return self

    def fill(self):
        """Make what is only read."""
        self.inputs.mkdir()
        for name, release in RELEASES.items():
            release.tar_gz(self.inputs / f"{name}.tar.gz")
        RELEASES["new"].directory(self.inputs)
        (self.inputs / "scores.csv").write_text("id,score\n0,0.5\n2,1.5\n")

    def copy(self, folder):
        """A scene like this one, to be spoiled."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder, folder)
        return Scene(folder)

    def inputs_seen(self):
        return {p.relative_to(self.inputs): digest(p.read_bytes()) for p in self.inputs.rglob("*") if p.is_file()}

    def seen(self):
        """What readers see of the store, and the archive."""
        return f"{seen(self.store)} {self.archive_seen()}"

    def archive_seen(self):
        return digest(self.archive.read_bytes()) if self.archive.exists() else "none"

    def files(self, *, folders=True):
        """How many there are of every file and directory of the place, whichever write they are of."""
        paths = (p for p in self.place.rglob("*") if folders or p.is_file())
        return Counter(_IDS.sub("*", p.relative_to(self.place).as_posix()) for p in paths)

    def named(self):
        """The files of the store that its root document names, by the words of the format and by no code of ours."""
        document = json.loads((self.store / "zarr.json").read_bytes())["attributes"]["vedastore"]
        found = {"zarr.json", "chips/zarr.json", *_keys(document["versions"])}
        for name, bucket in ((n, b) for version in document["versions"] for n, b in version["buckets"].items()):
            array = json.loads((self.store / f"chips/{name}/image/zarr.json").read_bytes())
            shards = -(-bucket["rows"] // array["chunk_grid"]["configuration"]["chunk_shape"][0])
            found |= {f"chips/{name}/zarr.json", f"chips/{name}/image/zarr.json"}
            found |= {f"chips/{name}/image/c/{number}/0/0/0" for number in range(shards)}
        return found

    def verify(self, told="", *, notes=True):
        """Every version is sound; so are statistics that are kept, where ``notes`` asks for it."""
        if seen(self.store) != "no store":
            for version in vs.open(self.store).versions:
                report = vs.open(self.store, version=version).verify()
                assert report.ok, f"{report.problems}: {told}"
                assert not (notes and report.notes), f"{report.notes}: {told}"

    def check_clean(self):
        """`clean` without grace leaves what versions name, what is kept beside that, and nothing else."""
        vs.clean(self.store, grace_days=0)
        left = {p.relative_to(self.store).as_posix() for p in self.store.rglob("*") if p.is_file()}
        named = self.named()
        assert named <= left
        kept = {f"{Path(key).parent}/stats.json" for key in named if key.endswith("samples.parquet")}
        write_id = json.loads((self.store / "zarr.json").read_bytes())["attributes"]["vedastore"]["write_id"]
        assert left - named <= kept | {f"index/{write_id}/root.json"}
        assert vs.clean(self.store, grace_days=0).waiting == 0


def _keys(document):
    """The keys of all files that a part of the root document has."""
    if isinstance(document, list):
        return {key for part in document for key in _keys(part)}
    if isinstance(document, dict):
        own = {document["key"]} if "sha256" in document and "key" in document else set()
        return own.union(*map(_keys, document.values()))
    return set()


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def seen(store):
    """What a reader sees of a store: every version whole, or that there is none."""
    try:
        versions = vs.open(store).versions
    except StoreError as error:
        if "there is no store" in str(error) or "has not finished" in str(error):
            return "no store"
        raise
    return " ".join(f"{version}={seen_of(vs.open(store, version=version))}" for version in versions)


def seen_of(collection):
    """A digest of everything that a version holds: samples, labels, columns, objects, pixels."""
    whole = hashlib.sha256()
    samples = collection.samples.drop(columns=["bucket", "row"])
    for frame in (samples, collection.features):
        whole.update(frame.to_wkb().to_csv().encode())
    for sample in collection:
        whole.update(json.dumps(sample.label, sort_keys=True).encode())
        whole.update(sample.pixels.tobytes())
    return whole.hexdigest()[:16]
