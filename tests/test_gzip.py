import gzip
import io
import shutil
import subprocess
import tarfile
import weakref
import zlib
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedastore.errors import ArchiveError
from vedastore.io.deflate import DEFAULT_LEVEL, LEVELS, ParallelGzipWriter
from vedastore.io.gzip import GzipReader
from vedastore.model import DEFAULT_LIMITS, Limits

TEXT = b"".join(b"%d %d\n" % (number, number * number) for number in range(3000))


class Trickle(io.BytesIO):
    """A pipe that gives one byte at a time."""

    def read(self, size=-1):
        return super().read(min(size, 1))


def drain(compressed, *, size=1 << 20, chunk_bytes=1 << 20, source=io.BytesIO, limits=DEFAULT_LIMITS):
    reader = GzipReader(source(compressed), "r.tar.gz", limits, chunk_bytes=chunk_bytes)
    data = b"".join(iter(lambda: reader.read(size), b""))
    assert reader.compressed_bytes == len(compressed)
    assert reader.read(size) == b""
    return data


def compress(data, *, workers=2, **options):
    sink = io.BytesIO()
    with ThreadPoolExecutor(workers) as pool, ParallelGzipWriter(sink, pool, **options) as writer:
        writer.write(data)
    return sink.getvalue()


# ------------------------------------------------------------------------------------------------------------- reader


@pytest.mark.parametrize("program", ["gzip", "pigz", "bgzip"])
def test_reads_what_the_programs_write(program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    assert drain(subprocess.run([program, "-c"], input=TEXT, stdout=subprocess.PIPE, check=True).stdout) == TEXT


@given(
    members=st.lists(st.binary(max_size=3000) | st.builds(bytes, st.integers(0, 50_000)), min_size=1, max_size=5),
    padding=st.integers(0, 40),
    size=st.integers(1, 70_000),
    chunk_bytes=st.integers(1, 5000),
    level=st.integers(0, 9),
)
def test_members_and_padding_in_any_sizes(members, padding, size, chunk_bytes, level):
    size = max(size, sum(map(len, members)) // 500)
    compressed = b"".join(gzip.compress(member, level) for member in members) + bytes(padding)
    assert drain(compressed, size=size, chunk_bytes=chunk_bytes) == b"".join(members)


def test_long_fields_of_a_header():
    name = b"n" * 300_000
    member = b"\x1f\x8b\x08\x08" + bytes(6) + name + b"\0" + gzip.compress(TEXT)[10:]
    assert drain(member * 2) == TEXT * 2
    extra = b"\x1f\x8b\x08\x04" + bytes(6) + b"\xff\xff" + bytes(65535) + gzip.compress(TEXT)[10:]
    assert drain(extra * 2, chunk_bytes=1000) == TEXT * 2
    with pytest.raises(ArchiveError, match="longer than the limit"):
        drain(b"\x1f\x8b\x08\x08" + b"n" * (3 << 20))
    with pytest.raises(ArchiveError, match="cut short"):
        drain(b"\x1f\x8b\x08\x08" + b"n" * 5000)


def test_expansion_has_a_limit():
    bomb, limits = gzip.compress(bytes(8 << 20)), Limits(archive_trusted_bytes=2 << 20, archive_expansion=100)
    assert len(drain(bomb)) == 8 << 20
    assert drain(gzip.compress(TEXT), limits=limits) == TEXT
    with pytest.raises(ArchiveError, match="decompression bomb") as caught:
        drain(bomb, limits=limits)
    assert caught.value.rule == "archive-limit"
    assert "archive_expansion" in caught.value.hint


def test_a_source_that_trickles():
    compressed = gzip.compress(TEXT) + gzip.compress(b"") + gzip.compress(TEXT) + bytes(7)
    assert drain(compressed, source=Trickle) == TEXT * 2


def test_headers_with_every_field():
    """Time, text flag, extra field (as bgzip has it), name, comment, header CRC."""
    header = b"\x1f\x8b\x08\x1f\1\2\3\4\0\3" + b"\6\0BC\2\0\x1b\0" + b"a name\0" + b"a comment\0"
    header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    member = header + gzip.compress(TEXT)[10:]
    for chunk_bytes in range(1, 70):
        assert drain(member * 2, chunk_bytes=chunk_bytes) == TEXT * 2
    for cut in range(2, len(header)):
        with pytest.raises(ArchiveError, match="cut short"):
            drain(member + member[:cut])
    for place, words in ((2, "no known kind"), (3, "no known kind"), (5, "checksum does not fit")):
        damaged = bytearray(member)
        damaged[place] ^= 0x80
        with pytest.raises(ArchiveError, match=words):
            drain(bytes(damaged))
    assert gzip.decompress(member * 2) == drain(member * 2) == TEXT * 2


def test_a_read_gives_at_most_what_was_asked():
    reader = GzipReader(io.BytesIO(gzip.compress(bytes(50_000_000))), "bomb.gz")
    assert len(reader.read(1000)) <= 1000


@pytest.mark.parametrize("size", [0, -1])
def test_a_read_asks_for_something(size):
    with pytest.raises(ValueError, match="at least 1"):
        GzipReader(io.BytesIO(gzip.compress(TEXT)), "r.gz").read(size)


def test_many_tiny_members():
    assert drain(gzip.compress(b"") * 100_000 + gzip.compress(b"end")) == b"end"


def test_every_cut_is_noticed():
    first = gzip.compress(b"one")
    compressed = first + gzip.compress(b"two")
    assert drain(first) == b"one"
    for length in set(range(len(compressed))) - {len(first)}:
        with pytest.raises(ArchiveError, match=r"r\.tar\.gz: .*(empty|not gzip|ends early|other data)"):
            drain(compressed[:length])


def test_a_cut_is_told_again_by_the_next_read():
    reader = GzipReader(io.BytesIO(gzip.compress(TEXT)[:-1]), "r.tar.gz")
    assert reader.read(len(TEXT)) != b""
    for _ in range(2):
        with pytest.raises(ArchiveError, match="ends early"):
            list(iter(lambda: reader.read(len(TEXT)), b""))


@pytest.mark.parametrize("bit", range(64))
def test_every_bit_of_the_trailer_counts(bit):
    compressed = bytearray(gzip.compress(TEXT))
    compressed[-1 - bit // 8] ^= 1 << bit % 8
    with pytest.raises(ArchiveError, match=f"damaged before its byte {len(compressed)}"):
        drain(bytes(compressed))


def test_damaged_data_and_method():
    compressed = bytearray(gzip.compress(TEXT))
    compressed[len(compressed) // 2] ^= 0x10
    for damaged in (bytes(compressed), b"\x1f\x8b\x07" + bytes(30)):
        with pytest.raises(ArchiveError, match="is damaged"):
            drain(damaged)


@pytest.mark.parametrize(
    "tail", [b"x", b"\0x", bytes(50) + b"x", b"\x1f", b"\0" + gzip.compress(b"", mtime=0), b"\x1fx"]
)
@pytest.mark.parametrize("chunk_bytes", [1, 17, 1 << 20])
def test_data_after_the_end_is_refused(tail, chunk_bytes):
    with pytest.raises(ArchiveError, match="other data follows"):
        drain(gzip.compress(TEXT) + tail, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize(("compressed", "reason"), [(b"", "is empty"), (b"\0" * 9, "not gzip"), (b"PK", "not gzip")])
def test_what_is_not_gzip(compressed, reason):
    with pytest.raises(ArchiveError, match=reason):
        drain(compressed)


def test_an_error_of_the_source_passes_through(tmp_path):
    with (tmp_path / "written").open("wb") as file, pytest.raises(OSError, match="read"):
        GzipReader(file, "w.gz").read(1)


# ------------------------------------------------------------------------------------------------------------- writer


@given(
    writes=st.lists(st.binary(max_size=300), max_size=8),
    level=st.sampled_from(LEVELS),
    block_bytes=st.integers(1, 400),
    max_pending=st.integers(1, 4),
)
def test_what_is_written_is_read_back(writes, level, block_bytes, max_pending):
    sink = io.BytesIO()
    with (
        ThreadPoolExecutor(2) as pool,
        ParallelGzipWriter(sink, pool, level=level, block_bytes=block_bytes, max_pending=max_pending) as writer,
    ):
        for data in writes:
            writer.write(data)
    whole = b"".join(writes)
    assert gzip.decompress(sink.getvalue()) == drain(sink.getvalue()) == whole
    assert compress(whole, workers=1, level=level, block_bytes=block_bytes) == sink.getvalue()


def test_it_is_one_member_without_time_or_name():
    compressed = compress(TEXT, block_bytes=1000)
    member = zlib.decompressobj(wbits=31)
    assert member.decompress(compressed) == TEXT
    assert member.eof
    assert member.unused_data == b""
    assert compressed[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


def test_the_programs_read_it():
    compressed = compress(TEXT * 50, block_bytes=100_000)
    assert subprocess.run(["gzip", "-dc"], input=compressed, stdout=subprocess.PIPE, check=True).stdout == TEXT * 50


def test_a_reader_of_one_member_sees_the_whole_archive():
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for number in range(20):
            info = tarfile.TarInfo(str(number))
            info.size = len(TEXT)
            archive.addfile(info, io.BytesIO(TEXT))
    with tarfile.open(fileobj=io.BytesIO(compress(tar.getvalue(), block_bytes=10_000)), mode="r|gz") as archive:
        assert [member.name for member in archive] == [str(number) for number in range(20)]


def test_processes_write_the_same_bytes():
    sink = io.BytesIO()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, ParallelGzipWriter(sink, pool) as writer:
        writer.write(memoryview(TEXT))
        writer.write(bytearray(TEXT))
    assert sink.getvalue() == compress(TEXT * 2)


@pytest.mark.parametrize("level", LEVELS)
def test_neither_workers_nor_the_sizes_of_writes_matter(level):
    whole = compress(TEXT * 9, workers=1, level=level, block_bytes=50_000)
    for workers, step in ((2, 7_001), (4, 123_457)):
        sink = io.BytesIO()
        with (
            ThreadPoolExecutor(workers) as pool,
            ParallelGzipWriter(sink, pool, level=level, block_bytes=50_000) as writer,
        ):
            for start in range(0, len(TEXT) * 9, step):
                writer.write((TEXT * 9)[start : start + step])
        assert sink.getvalue() == whole


def test_a_buffer_that_changes_after_it_was_written():
    sink, buffer = io.BytesIO(), bytearray(TEXT)
    with ThreadPoolExecutor(1) as pool, ParallelGzipWriter(sink, pool) as writer:
        writer.write(buffer)
        buffer[:] = bytes(len(buffer))
    assert gzip.decompress(sink.getvalue()) == TEXT


def test_imagery_is_nearly_as_small_as_gzip_makes_it():
    """Chips (y, x, band) of 8 bits: ground that bands share, and noise of the sensor."""
    rng = np.random.default_rng(0)
    chips = []
    for _ in range(16):
        ground = rng.normal(0, 1, (32, 32)).cumsum(0).cumsum(1).repeat(8, 0).repeat(8, 1)
        chip = 90 + 40 * ground / np.abs(ground).max() + np.array([0, 9, -7])[:, None, None]
        chips.append((chip + rng.normal(0, 2, (3, 256, 256))).clip(0, 255).astype("u1").transpose(1, 2, 0).tobytes())
    data = b"".join(chips)
    sizes = {level: len(compress(data, level=level)) for level in (1, DEFAULT_LEVEL, 3)}
    reference = len(zlib.compress(data, 6))
    assert max(sizes.values()) < 1.06 * reference, (sizes, reference)
    assert sizes[DEFAULT_LEVEL] < 1.03 * reference, (sizes, reference)


def test_blocks_in_flight_are_bounded():
    class Counting(Executor):
        def __init__(self):
            self.alive = weakref.WeakSet()
            self.most = 0

        def submit(self, function, /, *arguments):
            future = Future()
            future.set_result(function(*arguments))
            self.alive.add(future)
            self.most = max(self.most, len(self.alive))
            return future

    executor, sink = Counting(), io.BytesIO()
    with ParallelGzipWriter(sink, executor, block_bytes=10, max_pending=3) as writer:
        writer.write(TEXT)
    assert executor.most == 3
    assert gzip.decompress(sink.getvalue()) == TEXT


def test_after_an_exception_the_stream_stays_without_its_end():
    sink = io.BytesIO()

    def fail():
        with ThreadPoolExecutor(1) as pool, ParallelGzipWriter(sink, pool, block_bytes=100, max_pending=1) as writer:
            writer.write(TEXT)
            writer.write("no bytes")

    with pytest.raises(TypeError):
        fail()
    assert len(sink.getvalue()) > 100
    with pytest.raises(ArchiveError, match="ends early"):
        drain(sink.getvalue())


def test_close_twice_and_the_sink_stays_open():
    sink = io.BytesIO()
    with ThreadPoolExecutor(1) as pool:
        writer = ParallelGzipWriter(sink, pool)
        writer.close()
        writer.close()
        with pytest.raises(ValueError, match="closed"):
            writer.write(b"more")
    assert drain(sink.getvalue()) == b""
    assert not sink.closed


def test_an_error_of_a_block_is_raised():
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="initialization"):
        ParallelGzipWriter(io.BytesIO(), pool, level=99).write(TEXT * 300)
