"""One function for each parser of foreign bytes: any input is accepted in full, or refused by name.

A target takes bytes and returns whether they were accepted. It raises for nothing that the parser refuses, and for
everything else: an exception that is no `VedastoreError`, or an answer that an independent reader contradicts.
`tests/test_fuzz.py` and `scripts/fuzz` call them.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import subprocess
import tarfile
import tempfile
import traceback
import zlib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from tests import builders
from vedastore.errors import ArchiveError, ImageError, LabelError, ReleaseError, StoreError
from vedastore.io import tiff
from vedastore.io.archive import iter_members, sniff
from vedastore.io.geojson import iter_features, parse_json
from vedastore.io.gzip import GzipReader
from vedastore.io.tiff.layout import parse_layout
from vedastore.io.tiff.segments import check_apart, parse_segments
from vedastore.io.tiff.structure import iter_later_directories, iter_sub_directories, read_first_directory
from vedastore.model import LabelOptions, Limits
from vedastore.spec.labels import parse_label
from vedastore.spec.release import check_meta, parse_bounds, parse_meta
from vedastore.spec.root import ATTRIBUTE, dump_root, parse_root

if TYPE_CHECKING:
    from collections.abc import Callable

#: Small enough that a short input reaches each of them.
LIMITS = Limits(
    members=50, member_bytes=1 << 20, header_bytes=1 << 14, name_chars=300, padding_bytes=1 << 16,
    archive_trusted_bytes=1 << 20, image_bytes=1 << 22, image_trusted_bytes=1 << 18, image_expansion=100,
    json_bytes=1 << 16, json_memory_bytes=1 << 22, json_depth=40,
)  # fmt: skip
OUTPUT_BYTES = 4 << 20  # of a gzip stream; what follows is another run's business


def archive(data: bytes) -> bool:
    """A tar stream: what is read is what tarfile reads, or at least what GNU tar does."""
    sniff(data[:512])
    try:
        found = list(iter_members(io.BytesIO(data).read, "fuzz.tar", LIMITS))
    except ArchiveError:
        return False
    ours = [(m.name.rstrip("/") if m.is_dir else m.name, m.is_dir, m.data) for m in found]
    assert [m.ordinal for m in found] == list(range(len(found)))
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errors="strict") as tar:
            theirs = [(i.name.rstrip("/"), i.isdir(), b"" if i.isdir() else tar.extractfile(i).read()) for i in tar]
    except (tarfile.TarError, ValueError, UnicodeError, KeyError, AttributeError, OverflowError) as error:
        theirs = error
    if ours != theirs:  # tarfile has errors of its own (it reads a prefix also in GNU headers): GNU tar decides
        assert _gnu_tar(data) == ([m.name for m in found], b"".join(m.data for m in found)), theirs
    return True


def _gnu_tar(data: bytes) -> tuple[list[str], bytes]:
    """Return the names and the joined contents of all files; nothing is extracted to disk."""
    if not shutil.which("tar"):
        return [], b""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        run = ["tar", "--quoting-style=literal", "--no-auto-compress", "-f", file.name]
        names = subprocess.run([*run, "-P", "-t", "--null"], capture_output=True, check=False)
        content = subprocess.run([*run, "-P", "-x", "-O"], capture_output=True, check=False)
    assert names.returncode == content.returncode == 0, names.stderr + content.stderr
    return names.stdout.decode().splitlines(), content.stdout


def gzip(data: bytes) -> bool:
    """A gzip stream, read in pieces that its first two bytes choose: what comes out is what zlib makes of it."""
    sizes, data = data[:2].ljust(2, b"\0"), data[2:]
    reader = GzipReader(io.BytesIO(data), "fuzz.gz", chunk_bytes=1 + sizes[0] * 16)
    out = bytearray()
    try:
        while piece := reader.read(1 + sizes[1] * 64):
            assert len(piece) <= 1 + sizes[1] * 64
            out += piece
            if len(out) > OUTPUT_BYTES:
                return False
    except ArchiveError:
        return False
    assert reader.compressed_bytes <= len(data)
    expected, rest = bytearray(), data
    while rest.strip(b"\0"):
        member = zlib.decompressobj(31)
        expected += member.decompress(rest) + member.flush()
        assert member.eof
        rest = member.unused_data
    assert out == expected
    return True


def tiff_structure(data: bytes) -> bool:
    """Directories and segments of a TIFF: nothing that is accepted lies outside of the file."""
    try:
        first = read_first_directory(data)
        pages = [first, *iter_later_directories(first)]
        for directory in [*pages, *iter_sub_directories(pages)]:
            assert all(0 < begin <= end <= len(data) for begin, end in directory.ranges())
            for tag in directory.entries:
                assert len(directory.raw(tag)) == directory.entries[tag].size_bytes
                directory.text(tag)
        layout = parse_layout(first, LIMITS)
        segments = parse_segments(first, layout, LIMITS)
        regions = segments.regions()
        check_apart(regions, first, layout)
    except ImageError:
        return False
    assert layout.raw_bytes <= LIMITS.image_bytes
    assert all(size > 0 and offset + size <= len(data) for offset, size in regions)
    assert all(a + n < b for (a, n), (b, _) in pairwise(regions))
    assert sum(size for _, size in regions) == segments.stored.sum()
    return True


def tiff_decode(data: bytes) -> bool:
    """A whole TIFF: what is accepted comes back as promised."""
    try:
        taken = tiff.decode(data, LIMITS)
    except ImageError as error:
        if error.rule == "image-crash":
            raise AssertionError(str(error)) from error
        return False
    assert taken.pixels.flags.aligned
    assert taken.pixels.nbytes <= LIMITS.image_bytes
    again = tiff.encode(taken.pixels, taken.envelope, LIMITS)
    if taken.fidelity == "exact":
        assert again == data
    elif taken.fidelity == "equivalent":
        assert _differences(data, again) == []
    else:
        assert _same(tiff.decode(again, LIMITS).pixels, taken.pixels)
    assert _differences(data, data) == []
    assert tiff.describe(taken.envelope).fidelity == taken.fidelity
    _check_pixels(data, taken.pixels)
    return True


def _check_pixels(data: bytes, pixels: np.ndarray) -> None:
    """Compare with rasterio, where it reads the file at all and does not convert samples (float16, CIELab)."""
    try:
        expected = builders.read_tiff(data)
    except (RasterioError, CPLE_BaseError, ValueError, TypeError):
        return
    if (expected.shape, expected.dtype) == (pixels.shape, pixels.dtype):
        assert _same(expected, pixels)


def _differences(a: bytes, b: bytes) -> list[str]:
    """Compare; where that fails, the failure is the difference."""
    try:
        return tiff.differences(a, b)
    except ImageError as error:
        return [str(error)]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@cache
def envelope_fixtures() -> tuple[tuple[np.ndarray, bytes], ...]:
    """Pixels that envelopes are tried on, each with its own envelope."""
    plain = builders.pixels_of((1, 9, 9))
    files = (
        builders.geotiff(plain),
        builders.geotiff(plain, compress="deflate"),
        builders.geotiff(builders.pixels_of((3, 20, 20)), tiled=True, blockxsize=16, blockysize=16, compress="lzw"),
        builders.geotiff(builders.pixels_of((3, 16, 16)), compress="jpeg"),
        builders.plain_tiff(builders.pixels_of((1, 20, 20), "uint16"), tile=(16, 16)),
    )
    return tuple((d.pixels, d.envelope) for d in map(tiff.decode, files))


def envelope(data: bytes) -> bool:
    """An envelope against pixels that its first byte chooses: a file with no other pixels, or a refusal."""
    pixels, _ = envelope_fixtures()[data[0] % len(envelope_fixtures()) if data else 0]
    try:
        tiff.describe(data[1:])
        file = tiff.encode(pixels, data[1:], LIMITS)
    except ImageError:
        return False
    try:
        again = tiff.decode(file, LIMITS)
    except ImageError:  # the frame of an envelope that somebody made may be any bytes
        return True
    assert _same(again.pixels, pixels)
    return True


LABEL_OPTIONS = (LabelOptions(), LabelOptions(label_field="class"), LabelOptions(default_label="car"))


def label(data: bytes) -> bool:
    """A label file, its options chosen by the first byte: what is read is what json and shapely read."""
    options = LABEL_OPTIONS[data[0] % len(LABEL_OPTIONS) if data else 0]
    data = data[1:]
    try:
        document = parse_json(data, "fuzz.json", LIMITS)
        found = parse_label(document, options, "fuzz.json")
    except LabelError:
        return False
    expected = json.loads(data.decode("utf-8-sig"), parse_constant=_no_constant)
    assert document == expected
    assert json.dumps(document) == json.dumps(expected)  # 1 == 1.0 == True
    _check_geometry(found.footprint, found.footprint_bounds, expected.get("geometry"))
    properties = expected.get("properties", expected.get("Properties")) or {}
    value = properties.get(options.label_field or "label")
    value = options.default_label if value is None else value
    if not isinstance(value, dict):
        text = value if isinstance(value, str) else json.dumps(value)
        assert (found.kind, found.present, found.objects) == ("name", (text,), ())
        return True
    given = [(n, o) for n, items in value.items() if isinstance(items, list) for o in items if _shape_of(o) is not None]
    assert set(found.declared) == set(value)
    flagged = {n for n, v in value.items() if not isinstance(v, list) and v}
    assert set(found.present) == {n for n, _ in given} | flagged
    assert len(found.objects) == len(given)
    for one, (name, item) in zip(found.objects, given, strict=True):
        assert one.class_name == name
        _check_geometry(one.geometry, one.bounds, item)
    return True


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} was accepted")


def _shape_of(item: object) -> shapely.Geometry | None:
    """What shapely makes of a geometry, a Feature or a box, in two dimensions and with closed rings."""
    if isinstance(item, list):
        minx, miny, maxx, maxy = item
        return shapely.Polygon([(minx, miny), (maxx, miny), (maxx, maxy), (minx, maxy), (minx, miny)])
    if isinstance(item, dict) and item.get("type") == "Feature":
        item = item.get("geometry")
    if not item or not item["coordinates"]:
        return None
    polygons = [item["coordinates"]] if item["type"] == "Polygon" else item["coordinates"]
    if not any(ring for rings in polygons for ring in rings):
        return None
    parts = []
    for rings in polygons:
        closed = [[p[:2] for p in (ring if ring[0] == ring[-1] else [*ring, ring[0]])] for ring in rings]
        parts.append(shapely.Polygon(closed[0], closed[1:]))
    return parts[0] if item["type"] == "Polygon" else shapely.MultiPolygon(parts)


def _check_geometry(wkb: bytes | None, bounds: tuple | None, item: object) -> None:
    expected = _shape_of(item)
    if expected is None:
        assert wkb is bounds is None
        return
    found = shapely.force_2d(shapely.from_wkb(wkb))
    assert found.geom_type == expected.geom_type
    assert found.equals_exact(expected, 0)
    points = np.concatenate([shapely.get_coordinates(p.exterior) for p in shapely.get_parts(expected)])
    assert bounds == (*points.min(0), *points.max(0))
    assert all(map(math.isfinite, bounds))


def root(data: bytes) -> bool:
    """A root document, its checksum mended where there is one: what is read can be written, and is then the same."""
    try:
        found = parse_root(_mended(data), "fuzz.zarr")
    except StoreError:
        return False
    again = dump_root(found)
    assert parse_root(again, "fuzz.zarr") == found
    assert dump_root(parse_root(again, "fuzz.zarr")) == again
    return True


def _mended(data: bytes) -> bytes:
    """Give a root document the checksum that it should have, so that what stands behind the checksum is reached."""
    try:
        document = json.loads(data)
        body = document["attributes"][ATTRIBUTE]
        if "checksum" not in body:
            return data
        body.pop("checksum")
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        body["checksum"] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return json.dumps(document).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return data


def meta(data: bytes) -> bool:
    """A ``meta.json``: it is read, and compared with classes that labels name."""
    try:
        found = parse_meta(parse_json(data, "meta.json", LIMITS), "meta.json")
    except ReleaseError:
        return False
    assert list(found.classes) == sorted(set(found.classes))
    assert all(isinstance(c, str) and c for c in found.classes)
    for finding in check_meta(found, {"car", "boat"}, "meta.json"):
        assert finding.message
    return True


def bounds(data: bytes) -> bool:
    """A ``bounds.geojson``: its features are those that a plain parser finds, and have boxes or are no GeoJSON."""
    try:
        features = list(iter_features(data, "bounds.geojson", LIMITS))
        boxes = [parse_bounds(feature, "bounds.geojson") for feature in features]
    except ReleaseError:
        return False
    document = json.loads(data.removeprefix(b"\xef\xbb\xbf"))
    collected = isinstance(document, dict) and document.get("type") == "FeatureCollection"
    assert features == (document["features"] if collected else [document])
    assert all(box is None or (box[0] <= box[2] and box[1] <= box[3]) for box in boxes)
    return True


TARGETS: dict[str, Callable[[bytes], bool]] = {
    f.__name__: f for f in (archive, gzip, tiff_structure, tiff_decode, envelope, label, root, meta, bounds)
}


def verdict(target: str, data: bytes) -> str:
    """Return ``accepted``, ``refused``, or which error came out, where from, and in brackets what it says."""
    try:
        return "accepted" if TARGETS[target](data) else "refused"
    except Exception as error:  # noqa: BLE001 - whatever it is: that it came out is the finding
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if {"vedastore", Path(__file__).name} & set(Path(f.filename).parts)][-1]
        return f"{type(error).__name__} at {Path(own.filename).name}:{own.lineno} ({error!s:.200})"
