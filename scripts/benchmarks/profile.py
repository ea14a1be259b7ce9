"""The stages of a conversion, of reading and of an export, each measured by itself on real members.

Functions are called in a loop on one core, and their CPU time is taken, the best of some rounds: what threads overlap
and what waits for the disk is not in it.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import zstandard
from isal import igzip, isal_zlib

import vedastore
from scripts.benchmarks.stopwatch import READ_BYTES, ROUNDS, Stage, cpu, drain, each, exhaust
from vedastore.exchange.release import look, pixel_digest, read_image, read_label
from vedastore.io import archive, tiff
from vedastore.io.deflate import ParallelGzipWriter
from vedastore.io.geojson import parse_json
from vedastore.io.gzip import GzipReader
from vedastore.io.member import Member
from vedastore.io.objects import LocalObjects
from vedastore.io.tar import TarWriter
from vedastore.model import LabelOptions
from vedastore.spec import release as rules
from vedastore.spec.arrays import ChipSpec
from vedastore.spec.labels import parse_label
from vedastore.store.commit import Write
from vedastore.store.ledger import LabelRow, Ledger
from vedastore.store.rows import plan_rows
from vedastore.store.shards import encode_chip
from vedastore.store.tables import TableWriter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scripts.benchmarks.data import Places
    from vedastore.model import ImageHalf, LabelHalf

WHERE = "profile"


def convert_stages(at: Places) -> list[Stage]:
    """Measure what a conversion does with a tar.gz."""
    packed, tar = Path(at.release).read_bytes(), Path(at.tar).read_bytes()
    members = _members(tar)
    images, labels = ([m for m in members if rules.classify(m.name).kind == kind] for kind in ("image", "label"))
    decoded = [tiff.decode(m.data) for m in images]
    pixels, spec = [d.pixels for d in decoded], ChipSpec.of(decoded[0].pixels)
    chunks = [encode_chip(p, spec).chunks[0] for p in pixels]
    shard = b"".join(chunks)
    raw = [np.frombuffer(m.data, "u1", p.nbytes) for m, p in zip(images, pixels, strict=True)]
    parsed = [parse_json(m.data, WHERE) for m in labels]
    zstd = zstandard.ZstdCompressor(level=1)
    gunzip = cpu(lambda: drain(igzip.open(io.BytesIO(packed)).read))
    sha = cpu(each(lambda m: hashlib.sha256(m.data).digest(), images))
    return [
        Stage(
            "gunzip", cpu(lambda: drain(GzipReader(io.BytesIO(packed), WHERE).read)), gunzip, "`igzip`, 1 MiB at a time"
        ),
        Stage("SHA-256 of the archive", cpu(lambda: hashlib.sha256(packed).digest())),
        Stage("tar", cpu(lambda: [None for _ in archive.iter_members(io.BytesIO(tar).read, WHERE)])),
        Stage("TIFF: decode", cpu(each(lambda m: tiff.decode(m.data), images))),
        Stage("TIFF: count pages", cpu(each(lambda m: tiff.count_pages(m.data), images))),
        Stage("SHA-256 of the image file", sha, sha, "`hashlib.sha256`"),
        Stage("XXH3 of the pixels", cpu(each(pixel_digest, pixels))),
        Stage("black or constant?", cpu(each(lambda p: look(p, None), pixels))),
        Stage(
            "encode the chip",
            cpu(each(lambda p: encode_chip(p, spec), pixels)),
            cpu(each(zstd.compress, raw)),
            "`zstandard`, level 1",
        ),
        Stage("of that: crc32c", cpu(each(google_crc32c.value, chunks))),
        Stage("label: JSON", cpu(each(lambda m: parse_json(m.data, WHERE), labels))),
        Stage("label: forms and geometries", cpu(each(lambda j: parse_label(j, LabelOptions(), WHERE), parsed))),
        *_index_stages(images, labels),
        Stage(
            "write and sync",
            cpu(lambda: _write(chunks)),
            cpu(lambda: _write([shard])),
            "one `write`, one `fsync`",
        ),
    ]


def _members(tar: bytes) -> list[Member]:
    return [m for m in archive.iter_members(io.BytesIO(tar).read, WHERE) if isinstance(m, Member)]


def _index_stages(images: list[Member], labels: list[Member]) -> list[Stage]:
    """Measure the way of the rows, each stage with what the one before it made."""
    halves = [read_image(m, rules.classify(m.name), WHERE)[0] for m in images]
    named = [read_label(m, rules.classify(m.name), LabelOptions(), WHERE) for m in labels]
    rounds = [_index_round(halves, named) for _ in range(ROUNDS)]
    names = ("ledger: halves in", "ledger: pairs out", "rows", "tables")
    return [Stage(name, min(found)) for name, found in zip(names, zip(*rounds, strict=True), strict=True)]


def _index_round(halves: list[ImageHalf], named: list[LabelHalf]) -> list[float]:
    clock = [time.process_time()]
    with ExitStack() as stack:
        write = stack.enter_context(Write(LocalObjects(Path(stack.enter_context(TemporaryDirectory())) / "store")))
        tables = [stack.enter_context(TableWriter(name)) for name in ("samples", "features")]
        ledger = stack.enter_context(Ledger())
        for row, half in enumerate(halves):
            ledger.add_image(half, "bucket", row)
        for label in named:
            ledger.add_label(LabelRow.of(label))
        clock.append(time.process_time())
        ledger.count()  # settles which halves are pairs, and their positions
        pairs = list(ledger.iter_pairs())
        clock.append(time.process_time())
        planned = [plan_rows(batch, "geographic") for batch in pairs]
        clock.append(time.process_time())
        for batch in planned:
            for writer, rows in zip(tables, batch, strict=True):
                writer.append(rows.columns, rows.shapes)
        for writer in tables:
            writer.finish(write)
        clock.append(time.process_time())
    return [end - start for start, end in pairwise(clock)]


def _write(parts: list[bytes]) -> None:
    with TemporaryFile() as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def read_stages(at: Places) -> list[Stage]:
    """Measure the ways to read chips beside the bare calls for the same chunks."""
    import dask

    places = list(_chunks(Path(at.store)))
    bodies = [os.pread(file, length, start)[:-4] for file, start, length in places]
    decompress = zstandard.ZstdDecompressor().decompress
    bare = [
        Stage("bare: ranged read", cpu(each(lambda p: os.pread(p[0], p[2], p[1]), places))),
        Stage("bare: crc32c", cpu(each(google_crc32c.value, bodies))),
        Stage("bare: decompress", cpu(each(decompress, bodies))),
    ]
    limit, call = sum(stage.seconds for stage in bare), "the three above"

    def read_all() -> None:
        with dask.config.set(scheduler="synchronous"):
            vedastore.open(at.store).to_xarray(labels=False).image.max().compute()

    collection = vedastore.open(at.store)
    order = np.random.default_rng(0).permutation(len(collection)).tolist()
    doors = {
        "`to_xarray().image.max()`": read_all,
        "`batches(32)`": lambda: exhaust(collection.batches(32, workers=1)),
        "`batches(32, shuffle=True)`": lambda: exhaust(collection.batches(32, shuffle=True, workers=1)),
        "`collection[i].image`, random": each(lambda i: collection[i].image.to_numpy(), order),
    }
    return bare + [Stage(name, cpu(work), limit, call) for name, work in doors.items()]


def _chunks(store: Path) -> Iterable[tuple[int, int, int]]:
    """Yield file, offset and length of every inner chunk, as the index at each shard's end has them."""
    for path in sorted(store.glob("chips/*/image/c/**/*")):
        if path.is_file():
            data = path.read_bytes()
            file = os.open(path, os.O_RDONLY)
            slots = _slots(path)
            index = np.frombuffer(data[-slots * 16 - 4 : -4], "<u8").reshape(-1, 2)
            yield from ((file, int(start), int(length)) for start, length in index if length != 2**64 - 1)


def _slots(shard: Path) -> int:
    import zarr

    image = next(parent for parent in shard.parents if parent.name == "image")
    array: Any = zarr.open_array(str(image), mode="r")
    return int(np.prod(np.array(array.shards) // np.array(array.chunks)))


def export_stages(at: Places, limit_read: float) -> list[Stage]:
    """Measure what an export does besides reading chips."""
    tar = Path(at.tar).read_bytes()
    images = [m for m in _members(tar) if rules.classify(m.name).kind == "image"]
    decoded = [tiff.decode(m.data) for m in images]

    def compress() -> None:
        with ThreadPoolExecutor(1) as pool, ParallelGzipWriter(io.BytesIO(), pool) as writer:
            for start in range(0, len(tar), READ_BYTES):
                writer.write(tar[start : start + READ_BYTES])

    def pack() -> None:
        written = TarWriter(len)
        for member in images:
            written.add(member.name, member.data, mtime=0, is_dir=False)

    deflater = isal_zlib.compressobj(1)
    return [
        Stage("chips: read, check, decompress", limit_read),
        Stage("XXH3 of the pixels", cpu(each(lambda d: pixel_digest(d.pixels), decoded))),
        Stage("TIFF: encode", cpu(each(lambda d: tiff.encode(d.pixels, d.envelope), decoded))),
        Stage("SHA-256 of the image file", cpu(each(lambda m: hashlib.sha256(m.data).digest(), images))),
        Stage("tar", cpu(pack)),
        Stage("gzip", cpu(compress), cpu(lambda: deflater.compress(tar)), "`isal`, level 1"),
    ]
