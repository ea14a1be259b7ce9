"""Whole releases with any defects, and what has to become of them: all of it in the store, or a refusal by name."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import tempfile
import zlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st

import vedastore as vs
from tests.builders import assert_store_ok, make_release
from tests.mutators import mutate
from tests.test_archive import END, header, padded, pax
from vedastore.errors import ReleaseError
from vedastore.io import tiff

if TYPE_CHECKING:
    from collections.abc import Callable

TOP = "ts_104-1.0.1"


@dataclass
class Entry:
    """One member on its way into a tar: what stands in front of it, its header's fields, its data."""

    name: str | bytes
    data: bytes = b""
    kind: bytes = b"0"
    before: bytes = b""

    def dump(self) -> bytes:
        name = self.name.encode() if isinstance(self.name, str) else self.name
        return self.before + header(name, self.kind, len(self.data)) + padded(self.data)


@dataclass(frozen=True)
class Case:
    """One release: its bytes, how it is converted, its ids, and what it has to come to.

    ``spoilt`` are the ids that cannot be stored; what ``odd`` ones are, may be good or bad.
    """

    data: bytes = field(repr=False)
    options: dict
    ids: frozenset
    spoilt: frozenset
    odd: frozenset
    defects: tuple
    must_be_refused: bool


@cache
def _release(samples: int, task: str, coords: str, order: str, how: str):
    profiles = {"plain": {}, "deflate": {"compress": "deflate"}, "lzw": {"compress": "lzw", "predictor": 2}}
    meta = order != "labels_first"
    return make_release(
        samples, task=task, coords=coords, order=order, meta=meta, shape=(1, 16, 16), seed=samples, **profiles[how]
    )


# --------------------------------------------------------------------------------------- defects of a sample, by name

LABEL = {"type": "Feature", "geometry": {}, "properties": {"label": {"car": []}}}
RING = [[1, 1], [5, 1], [5, 5], [1, 5], [1, 1]]


def _label(value: object) -> bytes:
    return json.dumps(LABEL | {"properties": {"label": value}}).encode()


def _polygon(ring: object) -> bytes:
    return _label({"car": [{"type": "Polygon", "coordinates": [ring]}]})


BAD_LABELS = {
    "empty": b"",
    "no JSON": b"{",
    "two documents": b"{}{}",
    "Latin-1": b'{"caf\xe9": 1}',
    "UTF-16": json.dumps(LABEL).encode("utf-16"),
    "NaN": _polygon([[1, 1], [5, float("nan")], [5, 5], [1, 1]]),
    "infinity by digits": b'{"properties": {"label": {"car": 1}}, "n": 1e999}',
    "key twice": b'{"properties": {"label": {"car": 1, "car": 0}}}',
    "deeply nested": b"[" * 100_000,
    "a list": b"[]",
    "a collection": json.dumps({"type": "FeatureCollection", "features": [LABEL]}).encode(),
    "both spellings": b'{"properties": {"label": 1}, "Properties": {"label": 1}}',
    "no label": json.dumps(LABEL | {"properties": {}}).encode(),
    "a list of classes": _label(["car"]),
    "a flag of 2": _label({"car": 2}),
    "flags and objects": _label({"car": 1, "boat": [[1, 2, 3, 4]]}),
    "an empty class": _label({"": 1}),
    "a lone surrogate": b'{"properties": {"label": {"\\ud800": 1}}}',
    "a point": _label({"car": [{"type": "Point", "coordinates": [1, 2]}]}),
    "three positions": _polygon(RING[:2]),
    "text for numbers": _polygon([["1", "2"]] * 5),
    "a box inside out": _label({"car": [[5, 5, 1, 1]]}),
    "a box of three": _label({"car": [[1, 2, 3]]}),
    "a footprint of text": json.dumps(LABEL | {"geometry": "here"}).encode(),
}


def _bomb(width: int = 1_400_000, scheme: int = 8) -> bytes:
    """Make a tiny TIFF that says it is huge."""
    tags = {256: width, 257: width, 258: 8, 259: scheme, 273: 8, 277: 1, 278: width, 279: 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II" + struct.pack("<HIH", 42, 8, len(tags)) + entries + bytes(4)


def _loop(image: bytes) -> bytes:
    out = bytearray(image)
    (start,) = struct.unpack_from("<I", image, 4)
    (number,) = struct.unpack_from("<H", image, start)
    struct.pack_into("<I", out, start + 2 + 12 * number, start)
    return bytes(out)


BAD_IMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda image: b"",
    "cut": lambda image: image[: len(image) // 2],
    "last byte missing": lambda image: image[:-1],
    "wrong magic": lambda image: b"XX" + image[2:],
    "a PNG": lambda image: b"\x89PNG\r\n\x1a\n" + image,
    "a VRT": lambda image: (
        b'<VRTDataset rasterXSize="1" rasterYSize="1"><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>'
    ),
    "a bomb": lambda image: _bomb(),
    "a bomb below the limit": lambda image: _bomb(30_000),
    "pages in a loop": _loop,
    "a directory outside": lambda image: image[:4] + b"\xff\xff\xff\x7f" + image[8:],
}


def _spoil(draw: Callable, entries: list[Entry], sample: str) -> str:
    """Spoil one sample; return the name of the defect."""
    images = [e for e in entries if e.name in (f"{TOP}/images/{sample}.tif", f"{TOP}/images/{sample}.TIFF")]
    labels = [e for e in entries if e.name == f"{TOP}/labels/{sample}.json"]
    kind = draw(st.sampled_from(("image", "label", "no image", "no label", "image twice", "label twice", "renamed")))
    if kind == "image":
        how = draw(st.sampled_from(sorted(BAD_IMAGES)))
        images[0].data = BAD_IMAGES[how](images[0].data)
        return f"image: {how}"
    if kind == "label":
        how = draw(st.sampled_from(sorted(BAD_LABELS)))
        labels[0].data = BAD_LABELS[how]
        return f"label: {how}"
    if kind in {"no image", "no label"}:
        entries.remove((images if kind == "no image" else labels)[0])
    elif kind == "renamed":
        images[0].name = f"{TOP}/images/{sample}X.tif"
    else:
        twice = (images if kind == "image twice" else labels)[0]
        suffix = draw(st.sampled_from((".tiff", ".TIF") if kind == "image twice" else (".geojson", ".JSON")))
        name = f"{twice.name.rpartition('.')[0]}{suffix}"
        entries.insert(draw(st.integers(0, len(entries))), Entry(name, twice.data))
    return kind


def _mutate(draw: Callable, entries: list[Entry], sample: str) -> str:
    """Change some bytes of one sample, which may spoil it or not."""
    target, path = draw(st.sampled_from((("tiff_decode", f"images/{sample}.tif"), ("label", f"labels/{sample}.json"))))
    (entry,) = (e for e in entries if e.name == f"{TOP}/{path}")
    seed = draw(st.integers(0, 2**32))
    entry.data = mutate(target, entry.data, Random(seed))
    return f"{path} mutated by seed {seed}"


# ------------------------------------------------------------------------------ defects of the archive, all are refused

BAD_ENTRIES = {
    "a link": Entry("link", kind=b"2"),
    "a hard link": Entry("hard", kind=b"1"),
    "a FIFO": Entry("fifo", kind=b"6"),
    "a device": Entry("device", kind=b"3"),
    "a sparse file": Entry("sparse", kind=b"S"),
    "an unknown kind": Entry("other", kind=b"Z"),
    "a name above": Entry(f"{TOP}/../../outside", b"x"),
    "an absolute name": Entry("/tmp/outside", b"x"),
    "a backslash": Entry("images\\1.tif", b"x"),
    "a drive": Entry("C:/x", b"x"),
    "a control character": Entry("a\x1b[31m", b"x"),
    "no name": Entry("", b"x"),
    "no UTF-8": Entry(b"\xff\xfe", b"x"),
    "a directory with data": Entry("d/", b"x", b"5"),
    "a pax size of text": Entry("p", b"x", before=pax(b"size=x")),
    "a pax size too large": Entry("p", b"x", before=pax(b"size=99999999")),
    "a pax path above": Entry("p", b"x", before=pax(b"path=../p")),
    "a sparse pax header": Entry("p", b"x", before=pax(b"GNU.sparse.major=1")),
    "a global size": Entry("p", b"x", before=pax(b"size=1", kind=b"g")),
    "two pax headers": Entry("p", b"x", before=pax(b"a=1") + pax(b"b=2")),
    "a broken pax header": Entry("p", b"x", before=padded(header(b"x", b"x", 7)) + padded(b"99 a=1\n")),
    "a broken header": Entry("p", b"x", before=b"\1" * 512),
}
BAD_ENDS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "cut in the tar": lambda tar, _: gzip.compress(tar[: len(tar) // 2 // 512 * 512], mtime=0),
    "no end marker": lambda tar, _: gzip.compress(tar[: -len(END)], mtime=0),
    "half an end marker": lambda tar, _: gzip.compress(tar[:-512], mtime=0),
    "a second tar": lambda tar, _: gzip.compress(tar + tar, mtime=0),
    "a second archive": lambda _, packed: packed + packed,
    "cut in the gzip": lambda _, packed: packed[: len(packed) // 2],
    "no trailer": lambda _, packed: packed[:-8],
    "half a trailer": lambda _, packed: packed[:-3],
    "another CRC": lambda _, packed: packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:],
    "another size": lambda _, packed: packed[:-1] + bytes([packed[-1] ^ 1]),
    "text behind": lambda _, packed: packed + b"text",
    "nothing": lambda _tar, _packed: b"",
    "a zip": lambda _tar, packed: b"PK\3\4" + packed,
}
GOOD_ENDS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "gzip": lambda _, packed: packed,
    "plain tar": lambda tar, _: tar,
    "two gzip members": lambda tar, _: gzip.compress(tar[:700], mtime=0) + gzip.compress(tar[700:], 1, mtime=0),
    "padded gzip": lambda _, packed: packed + bytes(100),
    "padded tar": lambda tar, _: gzip.compress(tar + bytes(10_240), mtime=0),
}
GOOD_ENTRIES = (
    Entry(f"{TOP}/README.txt", b"read me"),
    Entry(f"{TOP}/empty/", kind=b"5"),
    Entry("elsewhere/notes", b""),
    Entry("p", b"x", before=pax(b"mtime=1.5", b"path=long/" + b"n" * 90)),
    Entry("old", b"x", b"\0"),
)
BAD_DOCUMENTS = (b"", b"{", b"[]", b'{"mlType": "regression"}', b'{"classes": [1e999]}', b"\xff")


def _one_in(draw: Callable, number: int) -> bool:
    return draw(st.sampled_from(range(number))) == number // 2  # integers() would prefer the ends


@st.composite
def releases_with_defects(draw: Callable, *, mutants: bool = False) -> Case:
    """Draw a valid release and spoil it: some samples, some members, the archive itself, or nothing.

    With ``mutants`` some bytes of good images and labels are changed too.
    """
    samples = draw(st.sampled_from((3, 2, 4, 1)))
    task = draw(st.sampled_from(("classification", "object_detection", "segmentation")))
    coords = draw(st.sampled_from(("pixel", "geographic")))
    order = draw(st.sampled_from(("paired", "images_first", "labels_first", "labels_reversed")))
    release = _release(samples, task, coords, order, draw(st.sampled_from(("plain", "deflate", "lzw"))))
    entries = [Entry(name, data) for name, data in release.members.items()]
    ids = frozenset(str(n) for n in range(samples))
    spoilt = draw(st.frozensets(st.sampled_from(sorted(ids)), max_size=2))
    defects = [f"{sample}: {_spoil(draw, entries, sample)}" for sample in sorted(spoilt)]
    odd = (
        draw(st.frozensets(st.sampled_from(sorted(ids - spoilt)), max_size=2))
        if mutants and ids > spoilt
        else ids - ids
    )
    defects += [f"{sample}: {_mutate(draw, entries, sample)}" for sample in sorted(odd)]
    options = {
        "on_error": draw(st.sampled_from(("skip", "skip", "raise"))),
        "label_coords": draw(st.sampled_from(("auto", coords))),
        "task": task,
    }
    refused = bool(spoilt) and options["on_error"] == "raise"
    for entry in draw(st.lists(st.sampled_from(GOOD_ENTRIES), max_size=2, unique_by=id)):
        entries.insert(draw(st.integers(0, len(entries))), entry)
    documents = [e for e in entries if e.name in (f"{TOP}/meta.json", f"{TOP}/bounds.geojson")]
    if documents and _one_in(draw, 10):
        spoilt_document = draw(st.sampled_from(documents))
        spoilt_document.data = draw(st.sampled_from(BAD_DOCUMENTS))
        defects.append(f"{spoilt_document.name}: {spoilt_document.data!r}")
    if _one_in(draw, 8):
        how = draw(st.sampled_from(sorted(BAD_ENTRIES)))
        entries.insert(draw(st.integers(0, len(entries))), BAD_ENTRIES[how])
        defects.append(how)
        refused = True
    tar = b"".join(e.dump() for e in entries) + END
    ends = BAD_ENDS if _one_in(draw, 8) else GOOD_ENDS
    end = draw(st.sampled_from(sorted(ends)))
    if ends is BAD_ENDS:
        defects.append(end)
        refused = True
    data = ends[end](tar, gzip.compress(tar, 1, mtime=0))
    if _one_in(draw, 20) and data:  # last: a bit anywhere
        bit = draw(st.integers(0, 8 * len(data) - 1))
        data = data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
        defects.append(f"bit {bit}")
        if not refused:  # where it falls decides; the store has to agree with the archive as it is now
            return Case(data, options, ids, frozenset(), ids, tuple(defects), must_be_refused=False)
    return Case(data, options, ids, spoilt, odd, tuple(defects), refused)


# ---------------------------------------------------------------------------------------------- what has to hold always


def assert_taken_or_refused(case: Case) -> str:
    """Convert, and check that nothing is lost, changed or left behind; return ``stored`` or ``refused``."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, store = folder / "r.tar.gz", folder / "r.zarr"
        source.write_bytes(case.data)
        before = hashlib.sha256(case.data).digest()
        refusal = None
        try:
            vs.convert(source, store, workers=1, **case.options)
        except ReleaseError as error:
            refusal = error
        if refusal:
            assert refusal.exit_code == 3
            assert refusal.message
            assert [p.name for p in folder.iterdir()] == ["r.tar.gz"]
            assert case.defects, str(refusal)
        else:
            assert not case.must_be_refused
            _assert_nothing_lost(case, store)
        assert hashlib.sha256(source.read_bytes()).digest() == before
    return "refused" if refusal else "stored"


def _assert_nothing_lost(case: Case, store: Path) -> None:
    exported = store.with_name(f"{store.name}-export.tar.gz")
    if case.odd:  # what the referees do not read either
        collection = vs.open(store)
        report = collection.verify()
        assert report.ok, report.problems
        collection.export(exported)
    else:
        collection = assert_store_ok(store)
    version = json.loads((store / "zarr.json").read_bytes())["attributes"]["vedastore"]["versions"][-1]
    skipped = {s["id"] for s in version["skipped"]}
    assert skipped >= case.spoilt
    stored = set(collection.samples["id"])
    assert case.ids - case.spoilt - case.odd <= stored
    assert not stored & skipped
    if case.odd != case.ids:  # a renamed image is a sample of its own, which has no label
        assert skipped <= case.spoilt | case.odd | {f"{i}X" for i in case.spoilt}
    given = _members(case.data)
    left_out = [member for s in version["skipped"] for member in s["members"]]
    back = _members(exported.read_bytes())
    assert sorted([*back, *left_out]) == sorted(given)
    images = set(collection.samples["image_member"])
    for member, data in back.items():
        if data != given[member]:
            assert member in images
            assert (tiff.decode(data).pixels == tiff.decode(given[member]).pixels).all()


def _members(data: bytes) -> dict[str, bytes | None]:
    """Read an archive with the standard library."""
    plain = data
    if data[:2] == b"\x1f\x8b":
        plain = b""
        while data.strip(b"\0"):
            part = zlib.decompressobj(31)
            plain += part.decompress(data)
            data = part.unused_data
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
        found = [(i.name + "/" * i.isdir(), None if i.isdir() else tar.extractfile(i).read()) for i in tar]
    if len(dict(found)) != len(found):
        pytest.fail("a name stands twice in an archive that was taken")
    return dict(found)
