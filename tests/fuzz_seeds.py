"""Where fuzzing begins: small valid inputs for each target, and the words of each format."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zlib

import tifffile

from tests import builders
from tests.fuzz_targets import LABEL_OPTIONS, envelope_fixtures
from tests.test_archive import END, extension, header, padded, pax, written
from tests.test_root import DATA as ROOT

SQUARE = [[0, 0], [8, 0], [8, 6], [0, 6], [0, 0]]
FOOTPRINT = {"type": "Polygon", "coordinates": [[[-84.5, 33.5], [-84.4, 33.5], [-84.4, 33.6], [-84.5, 33.6]]]}


def _archives() -> list[bytes]:
    release = builders.Release(
        {"ts/meta.json": b"{}", "ts/images/1.tif": b"II*\0", "ts/labels/1.json": b"{}", "ts/images/" + "n" * 120: b"x"}
    )
    return [
        *(release.tar_bytes(form) for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)),
        written(("./", None), ("./images/", None), ("./images/1.tif", b"x" * 600), ("e", b"")),
        header(b"plain", size=3) + padded(b"abc") + END,
        header(b"old", b"\0", 3, magic=bytes(8)) + padded(b"abc") + header(b"dir/", b"\0", magic=bytes(8)) + END,
        header(b"f", prefix=b"a/b") + header(b"f", b"7", 1, signed=True) + padded(b"x") + END,
        pax(b"path=other/name", b"size=3", b"mtime=1.5") + header(b"p", size=9) + padded(b"abc") + END,
        pax(b"comment=x", kind=b"g") + header(b"p") + END,
        extension(b"L", b"l" * 200 + b"\0") + header(b"short", size=2) + padded(b"ab") + END,
        extension(b"K", b"target\0") + header(b"k") + END,
        header(b"big", size=b"\x80" + (5).to_bytes(11, "big"), magic=b"ustar  \0") + padded(b"12345") + END,
    ]


def _gzips() -> list[bytes]:
    text = b"label " * 100
    named = b"\x1f\x8b\x08\x1c" + bytes(4) + b"\0\xff" + b"\4\0abcd" + b"name\0" + b"comment\0"
    deflate = zlib.compressobj(6, wbits=-15)
    raw = deflate.compress(text) + deflate.flush()
    streams = [
        gzip.compress(text, 9, mtime=0),
        gzip.compress(text, 0, mtime=0),
        gzip.compress(b"one", mtime=0) + gzip.compress(b"", mtime=0) + gzip.compress(text, 1, mtime=0),
        gzip.compress(b"padded", mtime=0) + bytes(40),
        named + raw + struct.pack("<II", zlib.crc32(text), len(text)),
    ]
    return [sizes + s for s in streams for sizes in (b"\xff\xff", b"\0\1")]


def tiffs() -> list[bytes]:
    """TIFFs of many layouts, each below a few kilobytes."""
    byte, short, real = (builders.pixels_of((1, 9, 11), d) for d in ("uint8", "uint16", "float32"))
    rgb = builders.pixels_of((3, 20, 18))
    files = [
        builders.geotiff(byte),
        builders.geotiff(short, compress="deflate", predictor=2, nodata=0),
        builders.geotiff(real, compress="lzw", predictor=3, BIGTIFF="YES"),
        builders.geotiff(rgb, compress="zstd", tiled=True, blockxsize=16, blockysize=16),
        builders.geotiff(rgb, compress="packbits", interleave="band", blockysize=7),
        builders.geotiff(rgb, compress="lzma", ENDIANNESS="BIG"),
        builders.geotiff(rgb, compress="jpeg", photometric="ycbcr"),
        builders.geotiff(byte, compress="lerc"),
        builders.geotiff(rgb, compress="webp", WEBP_LOSSLESS=True),
        builders.geotiff(byte * 0, SPARSE_OK=True, compress="deflate", tiled=True, blockxsize=16, blockysize=16),
        builders.plain_tiff(short, byteorder=">", rowsperstrip=4),
        builders.plain_tiff(builders.pixels_of((1, 20, 20)), tile=(16, 16)),
    ]
    pages = io.BytesIO()
    with tifffile.TiffWriter(pages) as writer:
        writer.write(byte[0], subifds=1, metadata=None)
        writer.write(byte[0, ::2, ::2], subfiletype=1, metadata=None)
        writer.write(byte[0], metadata=None)
    return [*files, pages.getvalue()]


def _labels() -> list[bytes]:
    hole = [[1, 1], [2, 1], [2, 2], [1, 1]]
    values = [
        {"boat": 1, "car": 0, "dog": True},
        {"boat": [{"type": "Polygon", "coordinates": [SQUARE, hole]}, [1, 2, 3, 4]], "car": []},
        {"boat": [{"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [[SQUARE], [hole]]}}]},
        {"a": [{"type": "Polygon", "coordinates": [[[*p, 5.5] for p in SQUARE]]}]},
        {},
        "car",
        3,
    ]
    documents = [
        {"type": "Feature", "geometry": geometry, "properties": {"label": value, "class": "tree", "big": 2**70}}
        for value, geometry in zip(values, [FOOTPRINT, {}, None, FOOTPRINT, FOOTPRINT, {}, {}], strict=True)
    ]
    documents += [{"geometry": FOOTPRINT, "Properties": {"label": {"caf\u00e9": 1}}}, {"properties": None}]
    texts = [json.dumps(d, ensure_ascii=n % 2 == 0).encode() for n, d in enumerate(documents)]
    return [bytes([n]) + t for n in range(len(LABEL_OPTIONS)) for t in (*texts, b"\xef\xbb\xbf" + texts[0])]


def _metas() -> list[bytes]:
    classes = (["boat", "car"], {"boat": 1}, [{"name": "car"}, {"id": 3}], [1, 2.5, None], "car", None)
    tasks = ("classification", "Object Detection", None, "segmentation", "segmentation", "segmentation")
    return [
        json.dumps({"name": "Harbours", "version": 1.5, "mlType": t, "classes": c, "nclasses": 2}).encode()
        for t, c in zip(tasks, classes, strict=True)
    ]


def _bounds() -> list[bytes]:
    feature = {"type": "Feature", "geometry": FOOTPRINT}
    return [json.dumps({"type": "FeatureCollection", "features": [feature] * n}).encode() for n in range(4)]


def seeds(target: str) -> list[bytes]:
    """Valid inputs of a target."""
    makers = {
        "archive": _archives,
        "gzip": _gzips,
        "tiff_structure": tiffs,
        "tiff_decode": tiffs,
        "envelope": lambda: [bytes([n]) + e for n, (_, e) in enumerate(envelope_fixtures())],
        "label": _labels,
        "root": lambda: [ROOT, ROOT.replace(b'"pixel"', b"null")],
        "meta": _metas,
        "bounds": _bounds,
    }
    return makers[target]()


JSON_WORDS = (
    *(b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\u", b"\\ud800", b"\\", b"null", b"true", b"false", b"NaN"),
    *(
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"-0.0",
        b"1e308",
        b"0.1",
        b"9" * 40,
        b"\xef\xbb\xbf",
        b"\xff",
        b"[[[[",
        b"{}",
    ),
)
LABEL_WORDS = (
    *(b'"type"', b'"Feature"', b'"geometry"', b'"properties"', b'"Properties"', b'"label"', b'"coordinates"'),
    *(b'"Polygon"', b'"MultiPolygon"', b'"Point"', b'"class"', b'{"type":"Polygon","coordinates":[[]]}', b"[1,2,3,4]"),
)
TIFF_TAGS = (
    *(254, 255, 256, 257, 258, 259, 262, 266, 269, 273, 274, 277, 278, 279, 284, 290, 305, 317, 320, 322, 323, 324),
    *(325, 330, 338, 339, 347, 512, 529, 530, 532, 32997, 33550, 33922, 34264, 34665, 34735, 34736, 34737, 34853),
    *(42112, 42113, 50674),
)
TIFF_NUMBERS = (0, 1, 2, 3, 5, 6, 7, 8, 16, 42, 43, 255, 32773, 32946, 34887, 34925, 50000, 50001, 65535)
WORDS = {
    "archive": (
        *(b"ustar\x0000", b"ustar  \0", b"path=", b"linkpath=", b"size=", b"GNU.sparse.major=1", b"hdrcharset=BINARY"),
        *(b"../", b"/", b"./", b"\\", b"C:", b"././@LongLink", b"\x80" + bytes(10) + b"\1", b"\xff" * 12, bytes(512)),
        *(b"00000000010\0", b"77777777777\0", b"12 path=abc\n", b"10 size=3\n", b"charset="),
    ),
    "gzip": (b"\x1f\x8b\x08", b"\x1f\x8b\x08\x02", b"\x1f\x8b\x08\xe0", b"\x03\0", bytes(8), b"\1\0\0\xff\xff"),
    "tiff": tuple(
        struct.pack(order + code, number)
        for order in "<>"
        for code, numbers in (("H", TIFF_TAGS + TIFF_NUMBERS), ("I", (*TIFF_NUMBERS, 2**31, 2**32 - 1)))
        for number in numbers
    ),
    "envelope": (b'"regions":', b'"size":', b'"residue":', b'"fidelity":', b'"encoder":', b'"v":', b'"decoded"',
                 b'"exact"', b'"equivalent"', b'"copy"', b'"gdal"', b"[[", b"]]", b"-1", b"1e999"),
    "label": JSON_WORDS + LABEL_WORDS,
    "root": (*JSON_WORDS, b'"vedastore"', b'"attributes"', b'"versions"', b'"index"', b'"buckets"', b'"rows"',
             b'"checksum"', b'"uint8-3x256x256"', b'"dtype"', b'"bands"', b'"bounds"', b'"classes"', b'"source"'),
    "meta": (*JSON_WORDS, b'"classes"', b'"mlType"', b'"nclasses"', b'"name"', b'"version"', b'"object detection"'),
    "bounds": (*JSON_WORDS, b'"features"'),
}  # fmt: skip


def words(target: str) -> tuple[bytes, ...]:
    """The words of a target's format."""
    return WORDS["tiff" if target.startswith("tiff") else target]
