"""Releases from strangers: every one with what must become of it.

Bombs are made of one compressed block that is repeated, so that none of them takes long or much room to make.
"""

import bz2
import gzip
import json
import lzma
import os
import socket
import struct
import unicodedata
import zlib
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import zstandard

from tests.builders import pixels_of, plain_tiff

MIB, GIB = 2**20, 2**30
END = bytes(1024)
TIFF = plain_tiff(pixels_of((3, 16, 16)))
LABEL = b'{"geometry": {}, "properties": {"label": {"car": [[1, 2, 8, 9]]}}}'


@dataclass(frozen=True)
class Case:
    """One release.

    ``build`` writes it into a folder and returns its path. ``rule`` is a pattern for the rule that refuses it; None
    where it is to be accepted. ``words`` are in the message, and so is ``member``, as messages show it.
    """

    name: str
    build: Callable[[Path], Path]
    rule: str | None
    words: str = ""
    member: str = ""
    slow: bool = False


# ------------------------------------------------------------------------------------------------------- tar and gzip


def header(name, size=0, kind=b"0", *, magic=b"ustar\x0000", link=b""):
    """A tar header made by hand; ``size`` is a number, or the bytes of the field."""
    size = b"%011o" % size if isinstance(size, int) else size
    fields = [(name, 100), (b"0000644", 8), (b"", 8), (b"", 8), (size, 12), (b"0" * 11, 12), (b" " * 8, 8), (kind, 1)]
    fields += [(link, 100), (magic, 8), (b"", 247)]
    block = b"".join(value.ljust(length, b"\0") for value, length in fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def member(name, data=b"", **fields):
    return header(name, len(data), **fields) + data + bytes(-len(data) % 512)


def record(key, value):
    rest = b" " + key + b"=" + value + b"\n"
    length = next(n for n in range(len(rest), len(rest) + 9) if n == len(rest) + len(str(n)))
    return str(length).encode() + rest


def pax(*records, kind=b"x"):
    return member(b"././@PaxHeader", b"".join(records), kind=kind)


def long_name(name, kind=b"L"):
    return member(b"././@LongLink", name + b"\0", kind=kind, magic=b"ustar  \0")


GOOD = member(b"t/images/1.tif", TIFF) + member(b"t/labels/1.json", LABEL)


def repeated(block, count, front=b""):
    """A gzip stream of something in front and a block that comes so many times. Its trailer does not fit."""
    deflate = zlib.compressobj(9, wbits=-15)
    begin = deflate.compress(front) + deflate.flush(zlib.Z_FULL_FLUSH)
    once = deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + begin + once * count + b"\x03\0" + bytes(8)


def write(folder, data, name="r.tar.gz"):
    (folder / name).write_bytes(data)
    return folder / name


def file(name, data, rule, words="", **more):
    """A case of a file; ``data`` may be a function that makes it."""
    return Case(name, lambda folder: write(folder, data() if callable(data) else data), rule, words, **more)


def tar(name, data, rule, words="", **more):
    """A case of a tar stream in gzip."""
    return file(name, gzip.compress(data, 1), rule, words, **more)


def pair(name, image=TIFF, label=LABEL, *, rule=None, words="", **more):
    """A case of one image and one label."""
    shown = {} if rule is None else {"member": "t/images/1.tif" if image is not TIFF else "t/labels/1.json"}

    def build(folder):
        data = member(b"t/images/1.tif", image() if callable(image) else image)
        return write(folder, gzip.compress(data + member(b"t/labels/1.json", label) + END, 1))

    return Case(name, build, rule, words, **(shown | more))


WHOLE = gzip.compress(GOOD + END, mtime=0)
DAMAGED, MEMBER, LIMIT = "archive-damaged", "archive-member", "archive-limit"

GZIP = [
    file("sound", WHOLE, None),
    file("crc-wrong", WHOLE[:-8] + b"abcd" + WHOLE[-4:], DAMAGED, "damaged"),
    file("size-wrong", WHOLE[:-4] + b"abcd", DAMAGED, "damaged"),
    file("no-trailer", WHOLE[:-8], DAMAGED, "cut short"),
    file("half-trailer", WHOLE[:-3], DAMAGED, "cut short"),
    file("cut-in-the-middle", WHOLE[: len(WHOLE) // 2], DAMAGED, "cut short"),
    file("only-a-header", WHOLE[:10], DAMAGED, "cut short"),
    file("trailing-garbage", WHOLE + b"garbage", DAMAGED, "follows"),
    file("trailing-zeros", WHOLE + bytes(100_000), None),
    file("zeros-then-garbage", WHOLE + bytes(100_000) + b"x", DAMAGED, "follows"),
    file("second-member-is-a-tar", WHOLE + WHOLE, DAMAGED, "second archive"),
    file("second-member-is-garbage", WHOLE + gzip.compress(b"x" * 1000), DAMAGED, "second archive"),
    file("several-members", b"".join(gzip.compress((GOOD + END)[i : i + 700]) for i in range(0, len(GOOD) + 1024, 700)),
         None),
    file("member-cut-at-a-block", gzip.compress(GOOD[:1024]), DAMAGED, "cut short"),
    file("method-unknown", b"\x1f\x8b\x07" + WHOLE[3:], DAMAGED, ""),
    file("flags-reserved", b"\x1f\x8b\x08\xe0" + WHOLE[4:], DAMAGED, ""),
    file("name-without-end", b"\x1f\x8b\x08\x08" + WHOLE[4:10] + b"n" * 4 * MIB, f"{DAMAGED}|{LIMIT}", ""),
    file("nested", gzip.compress(WHOLE), DAMAGED, ""),
    file("empty", b"", DAMAGED, ""),
    file("one-byte", b"\x1f", DAMAGED, ""),
    file("empty-gzip", gzip.compress(b""), DAMAGED, ""),
    file("zip", b"PK\x03\x04" + bytes(600), DAMAGED, "neither"),
    file("7z", b"7z\xbc\xaf\x27\x1c" + bytes(600), DAMAGED, "neither"),
    file("bz2", bz2.compress(GOOD + END), DAMAGED, "neither"),
    file("xz", lzma.compress(GOOD + END), DAMAGED, "neither"),
    file("zstd", zstandard.compress(GOOD + END), DAMAGED, "neither"),
    file("plain-tar", GOOD + END, None),
    file("text", b"hello " * 200, DAMAGED, "neither"),
]  # fmt: skip

TAR = [
    tar("garbage-behind-the-end", GOOD + END + b"x" * 512, DAMAGED, "follows"),
    tar("archive-behind-the-end", GOOD + END + GOOD + END, DAMAGED, "second archive"),
    tar("no-end", GOOD, DAMAGED, "cut short"),
    tar("half-an-end", GOOD + bytes(512), DAMAGED, ""),
    tar("half-an-end-then-a-member", GOOD + bytes(512) + GOOD, DAMAGED, "half of an end marker"),
    tar("only-an-end", END, "release-empty"),
    tar("checksum-wrong", GOOD + b"X" + header(b"b")[1:] + END, DAMAGED, "no tar header"),
    tar("cut-in-a-member", GOOD[:700], DAMAGED, "cut short"),
    tar("cut-between-members", member(b"t/images/1.tif", TIFF), DAMAGED, "cut short"),
    tar("no-magic", member(b"t/images/1.tif", TIFF, magic=b"rustar\0\0") + END, DAMAGED, "no tar header"),
    *(
        tar(name, GOOD + member(b"t/bait", kind=kind, link=b"/etc/passwd") + END, MEMBER, words, member="t/bait")
        for name, kind, words in (
            ("hard-link", b"1", "hard link"),
            ("symbolic-link", b"2", "symbolic link"),
            ("character-device", b"3", "character device"),
            ("block-device", b"4", "block device"),
            ("fifo", b"6", "FIFO"),
            ("directory-dump", b"D", "directory dump"),
            ("multi-volume", b"M", "multi-volume"),
            ("sparse-old", b"S", "sparse"),
            ("volume-label", b"V", "volume label"),
            ("unknown-kind", b"Z", "unknown kind"),
            ("unknown-byte", b"\xff", "unknown kind"),
        )
    ),
    tar("contiguous", GOOD + member(b"t/plain", b"data", kind=b"7") + END, None),
    *(
        tar(f"sparse-{form}", GOOD + pax(*records) + member(b"t/bait", b"data") + END, MEMBER, "sparse")
        for form, records in (
            ("0.0", (record(b"GNU.sparse.size", b"9"), record(b"GNU.sparse.numblocks", b"1"))),
            ("0.1", (record(b"GNU.sparse.map", b"0,4"),)),
            ("1.0", (record(b"GNU.sparse.major", b"1"), record(b"GNU.sparse.realsize", b"99999999999"))),
        )
    ),
    *(
        tar(name, GOOD + member(bait) + END, MEMBER, words, member=shown)
        for name, bait, words, shown in (
            ("absolute", b"/tmp/bait", "absolute", "/tmp/bait"),
            ("dots", b"../bait", "'..'", "../bait"),
            ("dots-inside", b"t/images/../../../bait", "'..'", "../../../bait"),
            ("dots-at-the-end", b"t/..", "'..'", "t/.."),
            ("drive", b"C:bait", "drive letter", "C:bait"),
            ("backslash", b"t\\bait", "backslash", "t\\bait"),
            ("newline", b"t/a\nb", "control character", "t/a\\nb"),
            ("escape", b"t/\x1b[31mred", "control character", "t/\\x1b[31mred"),
            ("c1", b"t/\xc2\x9b31m", "control character", "t/\\x9b31m"),
            ("no-name", b"", "empty", ""),
            ("no-utf-8", b"t/\xff\xfe", "UTF-8", "t/\\xff\\xfe"),
            ("surrogate", b"t/\xed\xa0\x80", "UTF-8", "t/"),
            ("slash-at-a-file", b"t/bait/", "directory", "t/bait/"),
        )
    ),
    tar("nul-in-a-pax-name", GOOD + pax(record(b"path", b"t/a\0b")) + member(b"x") + END, MEMBER, "control"),
    tar("long-gnu-name", GOOD + long_name(b"t/" + b"x" * 10_000) + member(b"x") + END, f"{LIMIT}|{MEMBER}", "name"),
    tar("long-pax-name", GOOD + pax(record(b"path", b"t/" + b"x" * 10_000)) + member(b"x") + END, f"{LIMIT}|{MEMBER}",
        "name"),
    tar("dot-slash", member(b"./t/images/1.tif", TIFF) + member(b"./t/labels/1.json", LABEL) + END, None),
    tar("directory-with-data", GOOD + member(b"t/d/", b"data", kind=b"5") + END, MEMBER, "directory"),
    tar("pax-size-smaller", GOOD + pax(record(b"size", b"0")) + member(b"t/x", b"y" * 512) + END, DAMAGED, ""),
    tar("pax-size-larger", GOOD + pax(record(b"size", b"99999")) + member(b"t/x", b"y" * 512) + END, DAMAGED, ""),
    tar("pax-size-huge", GOOD + pax(record(b"size", b"9" * 18)) + member(b"t/x") + END, LIMIT, "limit"),
    tar("pax-size-too-long", GOOD + pax(record(b"size", b"9" * 5000)) + member(b"t/x") + END, DAMAGED, "size"),
    tar("pax-size-negative", GOOD + pax(record(b"size", b"-1")) + member(b"t/x") + END, DAMAGED, "size"),
    tar("pax-path-outside", GOOD + pax(record(b"path", b"../bait")) + member(b"t/x") + END, MEMBER, "'..'"),
    tar("pax-global-path", GOOD + pax(record(b"path", b"x"), kind=b"g") + member(b"t/x") + END, MEMBER, "all members"),
    tar("pax-global-size", GOOD + pax(record(b"size", b"1"), kind=b"g") + member(b"t/x") + END, MEMBER, "all members"),
    tar("pax-of-1-GiB", GOOD + header(b"p", GIB, b"x") + END, LIMIT, "limit"),
    tar("long-name-of-8-GiB", GOOD + header(b"p", b"\x80" + (8 * GIB).to_bytes(11, "big"), b"L") + END, LIMIT, "limit"),
    tar("pax-malformed", GOOD + pax(b"9999 path=x\n") + member(b"t/x") + END, DAMAGED, "malformed"),
    tar("pax-length-0", GOOD + pax(b"0 path=x\n") + member(b"t/x") + END, DAMAGED, "malformed"),
    tar("pax-length-lies", GOOD + pax(b"7 path=x\n") + member(b"t/x") + END, DAMAGED, "malformed"),
    tar("pax-no-equals", GOOD + pax(b"7 path\n") + member(b"t/x") + END, DAMAGED, "malformed"),
    tar("pax-binary", GOOD + pax(bytes(range(256))) + member(b"t/x") + END, DAMAGED, "malformed"),
    tar("pax-twice", GOOD + pax(record(b"mtime", b"1")) * 2 + member(b"t/x") + END, MEMBER, "pax header"),
    tar("pax-and-gnu-name", GOOD + long_name(b"t/a") + pax(record(b"path", b"t/b")) + member(b"t/x") + END, MEMBER,
        "two long names"),
    tar("pax-before-the-end", GOOD + pax(record(b"path", b"t/x")) + END, DAMAGED, "one more member"),
    tar("size-of-8-GiB", GOOD + header(b"t/x", b"\x80" + (8 * GIB).to_bytes(11, "big")) + END, LIMIT, "limit"),
    tar("size-of-2**88", GOOD + header(b"t/x", b"\x80" + b"\xff" * 11) + END, LIMIT, "limit"),
    tar("size-negative", GOOD + header(b"t/x", b"\xff" * 12) + END, DAMAGED, "number"),
    tar("size-no-number", GOOD + header(b"t/x", b"0000000009x") + END, DAMAGED, "number"),
    tar("size-without-data", GOOD + header(b"t/x", 200 * MIB) + END, DAMAGED, "cut short"),
]  # fmt: skip

CAFE = "café"
PAIRS = [
    tar("same-member-twice", GOOD + member(b"t/images/1.tif", TIFF) + END, "pair-twice", "1"),
    tar("same-label-twice", GOOD + member(b"t/labels/1.geojson", LABEL) + END, "pair-twice", "1"),
    tar("tif-and-tiff", GOOD + member(b"t/images/1.tiff", TIFF) + END, "pair-twice", "1"),
    tar("case-differs", GOOD + b"".join(member(f"t/images/{i}.tif".encode(), TIFF) +
                                        member(f"t/labels/{i}.json".encode(), LABEL) for i in "aA") + END, None),
    tar("normal-form-differs", GOOD + b"".join(
        member(f"t/images/{i}.tif".encode(), TIFF) + member(f"t/labels/{i}.json".encode(), LABEL)
        for i in (unicodedata.normalize("NFC", CAFE), unicodedata.normalize("NFD", CAFE))) + END, None),
    tar("slashes", GOOD + member(b"t//images//2.tif", TIFF) + END, None),
    tar("no-label", member(b"t/images/1.tif", TIFF) + END, "pair-incomplete|release-empty", ""),
    tar("two-releases", GOOD + member(b"u/images/2.tif", TIFF) +
        member(b"u/labels/2.json", LABEL) + END, "release-two|release-refused"),
    tar("sidecars", GOOD + b"".join(member(f"t/images/1{suffix}".encode(), b"/etc/passwd") for suffix in (
        ".tif.aux.xml", ".tfw", ".tif.ovr", ".tif.msk", ".prj", ".tab", "_rpc.txt", ".IMD")) + END, None),
]  # fmt: skip

# --------------------------------------------------------------------------------------------------------------- TIFF


def tiff(tags, data=b"", following=0, entries=None):
    """A classic TIFF: a directory at 8, then the data. A tag is (type, count, value or offset)."""
    listed = b"".join(struct.pack("<HHII", tag, *value) for tag, value in sorted(tags.items()))
    count = len(tags) if entries is None else entries
    return b"II*\0" + struct.pack("<IH", 8, count) + listed + struct.pack("<I", following) + data


def chip(width, height, data=b"", compression=1, **more):
    """One band of bytes in one strip that begins behind the directory."""
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, compression), 262: (3, 1, 1),
            277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, more.pop("stored", len(data)))}  # fmt: skip
    tags |= {int(tag[1:]): value for tag, value in more.items()}
    tags[273] = (4, 1, 8 + 2 + 12 * (len(tags) + 1) + 4)
    return tiff(tags, data)


def zeros_deflated(size):
    return zlib_stream(bytes(MIB), size // MIB)


def zlib_stream(block, count):
    deflate = zlib.compressobj(9)
    begin = deflate.compress(b"") + deflate.flush(zlib.Z_FULL_FLUSH)
    once = deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)
    return begin + once * count + b"\x03\0" + bytes(4)


def zeros_zstd(size):
    part = zstandard.ZstdCompressor(level=1, write_content_size=False)
    frame = part.compressobj()
    return b"".join(frame.compress(bytes(16 * MIB)) for _ in range(size // (16 * MIB))) + frame.flush()


def vast(encode, old, new, **options):
    """A small encoded image whose header is made to say something vast."""
    data = encode(np.zeros((16, 16), "u1"), **options)
    assert data.count(old) >= 1
    return data.replace(old, new, 1)


def vrt(source):
    return (f'<VRTDataset rasterXSize="16" rasterYSize="16"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
            f'<SourceFilename relativeToVRT="0">{source}</SourceFilename><SourceBand>1</SourceBand>'
            f"</SimpleSource></VRTRasterBand></VRTDataset>").encode()  # fmt: skip


ANY_IMAGE = "image-(damaged|limit|unsupported|crash)"
IMAGES = [
    pair("tiff-of-terabytes", chip(2**20, 2**21, stored=4), rule=ANY_IMAGE),
    pair("tiff-of-4-GiB-squared", chip(2**32 - 1, 2**32 - 1), rule=ANY_IMAGE),
    pair("tiff-of-zero", chip(0, 0), rule=ANY_IMAGE),
    pair("tiff-loop", tiff({256: (4, 1, 1), 257: (4, 1, 1)}, following=8), rule=ANY_IMAGE),
    pair("tiff-good-then-loop", TIFF[:4] + TIFF[4:], rule=None),
    pair("tiff-subifd-loop", chip(4, 4, bytes(16), t330=(4, 1, 8)), rule=f"{ANY_IMAGE}|"),
    pair("tiff-65535-entries", tiff({256: (4, 1, 4)}, entries=65535), rule=ANY_IMAGE),
    pair("tiff-65535-real-entries", tiff(dict.fromkeys(range(65535), (4, 1, 4))), rule=ANY_IMAGE),
    pair("tiff-strips-upon-each-other", lambda: tiff(
        {256: (4, 1, 4096), 257: (4, 1, 60_000), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1),
         278: (4, 1, 1), 273: (4, 60_000, 200), 279: (4, 60_000, 200 + 240_000)},
        bytes(66) + struct.pack("<I", 200) * 60_000 + struct.pack("<I", 4096) * 60_000), rule=ANY_IMAGE),
    pair("tiff-count-huge", tiff({256: (4, 2**32 - 1, 8), 257: (4, 1, 4)}), rule=ANY_IMAGE),
    pair("tiff-offset-outside", chip(4, 4, b"")[:30], rule=ANY_IMAGE),
    pair("bigtiff-of-nothing", b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**63), rule=ANY_IMAGE),
    pair("bigtiff-offset-huge", b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**64 - 1), rule=ANY_IMAGE),
    pair("tiff-deflate-bomb", lambda: chip(1000, 1000, zeros_deflated(10 * GIB), 8), rule=f"{ANY_IMAGE}|"),
    pair("tiff-deflate-vast", lambda: chip(100_000, 100_000, zeros_deflated(GIB), 8), rule=ANY_IMAGE),
    pair("tiff-zstd-bomb", lambda: chip(1000, 1000, zeros_zstd(2 * GIB), 50000), rule=f"{ANY_IMAGE}|"),
    pair("tiff-zstd-lies", chip(1000, 1000, b"\x28\xb5\x2f\xfd\xc0\0" + struct.pack("<Q", 2**50) + b"\x01\0\0", 50000),
         rule=ANY_IMAGE),
    pair("tiff-lzma-bomb", lambda: chip(1000, 1000, lzma.compress(bytes(256 * MIB), preset=0), 34925),
         rule=f"{ANY_IMAGE}|", slow=True),
    pair("tiff-jpeg-vast", lambda: chip(16, 16, vast(
        imagecodecs.jpeg_encode, b"\x08\0\x10\0\x10", b"\x08\xff\xff\xff\xff"), 7), rule=ANY_IMAGE),
    pair("tiff-jpeg-vast-told", lambda: chip(65535, 65535, vast(
        imagecodecs.jpeg_encode, b"\x08\0\x10\0\x10", b"\x08\xff\xff\xff\xff"), 7), rule=ANY_IMAGE),
    pair("tiff-webp-garbage", chip(16, 16, b"RIFF\xff\xff\xff\x7fWEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 60, 50001),
         rule=ANY_IMAGE),
    pair("tiff-lerc-garbage", chip(16, 16, b"Lerc2 \x04\0\0\0" + b"\xff" * 200, 34887), rule=ANY_IMAGE),
    pair("tiff-lzw-garbage", chip(1000, 1000, b"\x80" + b"\xff" * 200, 5), rule=ANY_IMAGE),
    pair("tiff-packbits-bomb", lambda: chip(60_000, 60_000, b"\x81\0" * MIB, 32773), rule=ANY_IMAGE),
    pair("tiff-unknown-codec", chip(4, 4, bytes(16), 54321), rule=ANY_IMAGE),
    pair("tiff-empty", b"", rule=ANY_IMAGE),
    pair("vrt", vrt("BAIT"), rule=ANY_IMAGE),
    pair("vrt-passwd", vrt("/etc/passwd"), rule=ANY_IMAGE),
    pair("vrt-url", vrt("/vsicurl/http://127.0.0.1:9/x.tif"), rule=ANY_IMAGE),
    pair("wms", b"<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service></GDAL_WMS>",
         rule=ANY_IMAGE),
    pair("path-as-an-image", b"/etc/passwd", rule=ANY_IMAGE),
    pair("png", imagecodecs.png_encode(np.zeros((4, 4), "u1")), rule=ANY_IMAGE),
]  # fmt: skip


def label_with(coordinates):
    return json.dumps({"geometry": {}, "properties": {"label": {"car": [
        {"type": "Polygon", "coordinates": [coordinates]}]}}}).encode()  # fmt: skip


ROUND = [[8 + 7 * np.cos(a), 8 + 7 * np.sin(a)] for a in np.linspace(0, 2 * np.pi, 200_000, endpoint=False)]
ANY_JSON = "json-.*|label-.*|geometry-.*"
LABELS = [
    pair("json-deep", label=b"[" * 100_000 + b"]" * 100_000, rule="json-limit", words="deep"),
    pair("json-deep-objects", label=b'{"a":' * 100_000 + b"1" + b"}" * 100_000, rule="json-limit", words="deep"),
    pair(
        "json-30-MB-of-lists",
        label=b"[" + b"[],[]," * 5 * 10**6 + b"0]",
        rule="json-limit",
        slow=True,
    ),
    pair("json-30-MB-open", label=b"[[]," * 7_500_000, rule="json-limit", slow=True),
    pair("json-40-MB", label=b'{"a": "' + b"x" * 40 * MIB + b'"}', rule="json-limit", slow=True),
    pair("json-1e999", label=LABEL.replace(b"8", b"1e999"), rule=ANY_JSON),
    pair("json-nan", label=LABEL.replace(b"8", b"NaN"), rule=ANY_JSON),
    pair("json-long-number", label=LABEL.replace(b"8", b"9" * 10_000), rule=ANY_JSON),
    pair("json-nothing", label=b"", rule=ANY_JSON),
    pair("json-nul", label=bytes(100), rule=ANY_JSON),
    pair("json-utf-16", label=LABEL.decode().encode("utf-16"), rule=ANY_JSON),
    pair("label-of-10-MB", label=LABEL[:-1] + b', "more": "' + b"x" * 10 * MIB + b'"}'),
    pair("label-of-200,000-corners", label=label_with([*ROUND, ROUND[0]])),
    tar("meta-deep", GOOD + member(b"t/meta.json", b"[" * 100_000) + END, "meta-json|json-.*", "meta.json"),
    tar(
        "meta-garbage",
        GOOD + member(b"t/meta.json", b"\xff") + END,
        "meta-json|json-.*",
        "meta.json",
    ),
    tar(
        "meta-list",
        GOOD + member(b"t/meta.json", b"[]") + END,
        "meta-json|release-refused",
        "meta.json",
    ),
    tar("bounds-of-quotes", GOOD + member(b"t/bounds.geojson", b'"' + b'\\"' * 500_000) + END, None),
    tar(
        "bounds-of-commas",
        GOOD + member(b"t/bounds.geojson", b'{"type":"FeatureCollection","features":[' + b"," * 15_000_000) + END,
        None,
    ),
    tar(
        "bounds-of-nothing",
        GOOD + member(b"t/bounds.geojson", b'{"type":"FeatureCollection","features":[' + b"{}," * 5_000_000) + END,
        None,
    ),
    tar("bounds-deep", GOOD + member(b"t/bounds.geojson", b"[" * 100_000) + END, None),
]

BOMBS = [
    file("padding-bomb", lambda: repeated(bytes(16 * MIB), 1280, GOOD + END), LIMIT, "limit"),
    file("member-bomb", lambda: repeated(bytes(16 * MIB), 1280, GOOD + header(b"t/x", b"\x80" + (20 * GIB).to_bytes(
        11, "big"))), LIMIT, "limit"),
    file("pax-bomb", lambda: repeated(bytes(16 * MIB), 64, GOOD + header(b"p", GIB, b"x")), LIMIT, "limit"),
    file("constant-tiff-of-2-GiB", lambda: repeated(bytes(16 * MIB), 128, header(b"t/images/1.tif", 2 * GIB)), LIMIT,
         "limit"),
    file("zeros", lambda: repeated(bytes(16 * MIB), 1280), f"{DAMAGED}|{LIMIT}", ""),
    file("members-by-the-million", lambda: repeated(header(b"t/e") * 2048, 1030), LIMIT, "", slow=True),
    file("tiny-gzip-members", lambda: WHOLE + gzip.compress(b"") * 200_000, None),
]  # fmt: skip


# -------------------------------------------------------------------------------------------------------- directories


def folder(name, change, rule=MEMBER, words="", member="", **more):
    """A case of an extracted release with something more in it."""

    def build(parent):
        top = parent / "t"
        for path, data in (("images/1.tif", TIFF), ("labels/1.json", LABEL)):
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            (top / path).write_bytes(data)
        change(top)
        return top

    return Case(name, build, rule, words, member, **more)


def bind(path):
    with chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


def odd_name(top):
    os.close(os.open(os.fsencode(top) + b"/\xff\xfe", os.O_CREAT, 0o644))


FOLDERS = [
    folder("folder", lambda top: (top / "README").write_bytes(b"hello"), None),
    folder("folder-link", lambda top: (top / "bait").symlink_to("/etc/passwd"), words="symbolic link", member="bait"),
    folder("folder-link-as-an-image", lambda top: (top / "images/2.tif").symlink_to("1.tif"), words="symbolic link",
           member="images/2.tif"),
    folder("folder-link-to-a-folder", lambda top: (top / "more").symlink_to("/etc"), words="symbolic link"),
    folder("folder-loop", lambda top: (top / "more").symlink_to(top), words="symbolic link"),
    folder("folder-loop-of-links", lambda top: (top / "more").symlink_to("more"), words="symbolic link"),
    folder("folder-dangling", lambda top: (top / "more").symlink_to("nowhere"), words="symbolic link"),
    folder("folder-fifo", lambda top: os.mkfifo(top / "pipe"), words="FIFO", member="pipe"),
    folder("folder-fifo-as-a-label", lambda top: os.mkfifo(top / "labels/2.json"), words="FIFO"),
    folder("folder-socket", lambda top: bind(top / "s"), words="socket"),
    folder("folder-no-utf-8", odd_name, words="UTF-8", member="\\udcff\\udcfe"),
    folder("folder-control", lambda top: (top / "a\nb").write_bytes(b""), words="control character", member="a\\nb"),
    folder("folder-backslash", lambda top: (top / "a\\b").write_bytes(b""), words="backslash"),
    folder("folder-sparse", lambda top: os.truncate(top / "images/1.tif", 2**40), LIMIT, words="limit"),
]  # fmt: skip
if os.geteuid():  # nothing is unreadable to the superuser
    FOLDERS.append(folder("unreadable", lambda top: (top / "images/1.tif").chmod(0), DAMAGED, "cannot be read"))


CORPUS = [*GZIP, *TAR, *PAIRS, *IMAGES, *LABELS, *BOMBS, *FOLDERS]
