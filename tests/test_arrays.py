import asyncio
import json
from contextlib import closing
from itertools import pairwise, product

import numpy as np
import pytest
import zarr
import zstandard
from google_crc32c import value as crc32c
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zarr.codecs.numcodecs import Delta
from zarr.storage import MemoryStore

from vedastore.errors import StoreError
from vedastore.io.objects import LocalObjects
from vedastore.spec import keys
from vedastore.spec.arrays import (
    CHUNK_LIMIT_BYTES,
    CODECS,
    DIMENSIONS,
    DTYPES,
    SHARD_TARGET_BYTES,
    ChipSpec,
    array_metadata,
    bucket_documents,
    group_metadata,
)
from vedastore.store import shards
from vedastore.store.chips import ShardReader, decode_chip, read_shard_index
from vedastore.store.shards import ShardDraft, Spill, encode_chip

WHERE = "store: shard"
RGB = ChipSpec("uint8", 3, 128, 128)
WIDE = ChipSpec("uint16", 2, 16, 16)
TILED = ChipSpec("uint8", 3, 2304, 2400)  # 15.8 MiB of pixels and a little: not above the limit
HUGE = [ChipSpec("uint8", 3, 2400, 2400), ChipSpec("float32", 4, 1100, 1500), ChipSpec("complex128", 200, 80, 90)]
SPECS = st.builds(
    ChipSpec, st.sampled_from(DTYPES), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.sampled_from(CODECS)
)


def chip_of(spec, seed=0):
    """Return reproducible pixels: smooth in part, rough in part, negative and complex where the type is."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 120, spec.shape) + np.arange(spec.width) % 7
    if np.dtype(spec.dtype).kind in "ifc":
        values = values - 60
    pixels = values.astype(spec.dtype)
    return pixels * (1 + 0.5j) if spec.dtype.startswith("complex") else pixels


# ----------------------------------------------------------------------------------------------- metadata as zarr's own


def zarrs_own(spec, rows):
    """Return the zarr.json that zarr-python writes for a bucket's array."""
    store = MemoryStore()
    codec = spec.compressor["configuration"]
    compressor = (
        zarr.codecs.ZstdCodec(level=codec["level"])
        if spec.compressor["name"] == "zstd"
        else zarr.codecs.BloscCodec(**codec)
    )
    filters = [zarr.codecs.TransposeCodec(order=(0, 2, 3, 1))] if spec.interleaved else []
    if spec.delta:
        with pytest.warns(match="Numcodecs codecs are not in the Zarr version 3 specification"):
            filters = [Delta(dtype=np.dtype(spec.dtype).str)]
    zarr.create_array(
        store,
        filters=filters,
        shape=(rows, *spec.shape),
        chunks=spec.chunk_shape,
        shards=spec.shard_shape,
        dtype=spec.dtype,
        compressors=[compressor, zarr.codecs.Crc32cCodec()],
        dimension_names=DIMENSIONS,
        fill_value=0,
    )
    data = asyncio.run(store.get("zarr.json", zarr.core.buffer.default_buffer_prototype()))
    return json.loads(data.to_bytes())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_metadata_is_zarrs_own_for_every_type(dtype, codec):
    spec = ChipSpec(dtype, 3, 256, 256, codec)
    assert array_metadata(spec, 1000) == zarrs_own(spec, 1000)


@pytest.mark.parametrize("spec", [*HUGE, TILED, ChipSpec("uint8", 1, 1, 1), ChipSpec("uint16", 8, 5000, 7000)])
@pytest.mark.parametrize("rows", [1, 70_000])
def test_metadata_is_zarrs_own_for_every_size(spec, rows):
    assert array_metadata(spec, rows) == zarrs_own(spec, rows)


def test_group_metadata_is_zarrs_own():
    store = MemoryStore()
    zarr.create_group(store, attributes={"a": 1})
    data = asyncio.run(store.get("zarr.json", zarr.core.buffer.default_buffer_prototype()))
    assert group_metadata(None, {"a": 1}) == json.loads(data.to_bytes())


@given(
    st.sampled_from(DTYPES),
    st.integers(1, 300),
    st.integers(1, 60_000),
    st.integers(1, 60_000),
)
def test_chunks_and_shards_of_any_chip(dtype, bands, height, width):
    spec = ChipSpec(dtype, bands, height, width)
    _, _, tile_height, tile_width = spec.chunk_shape
    chunk_bytes = np.prod(spec.chunk_shape, dtype=object) * spec.itemsize
    assert chunk_bytes <= CHUNK_LIMIT_BYTES or max(spec.tile) <= 16
    assert spec.tile == (height, width) or tile_height == tile_width or (tile_height, tile_width) in {
        *((height, tile_width), (tile_height, width)),
    }  # fmt: skip
    assert (spec.tiles[0] - 1) * tile_height < height <= spec.tiles[0] * tile_height
    assert (spec.tiles[1] - 1) * tile_width < width <= spec.tiles[1] * tile_width
    assert all(s % c == 0 for s, c in zip(spec.shard_shape, spec.chunk_shape, strict=True))
    shard_bytes = np.prod(spec.shard_shape, dtype=object) * spec.itemsize
    assert spec.samples_per_shard == 1 or shard_bytes <= SHARD_TARGET_BYTES


@pytest.mark.parametrize("arguments", [("bool", 1, 1, 1), ("uint8", 0, 1, 1), ("uint8", 1, -1, 1), ([], 1, 1, 1)])
def test_no_bucket_of_other_chips(arguments):
    with pytest.raises(ValueError, match="no bucket holds chips"):
        ChipSpec(*arguments)


# ------------------------------------------------------------------------------------------------------- one chip alone


@given(st.data(), SPECS)
def test_a_chip_comes_back(data, spec):
    pixels = data.draw(hnp.arrays(spec.dtype, spec.shape))
    back = decode_chip(encode_chip(pixels, spec).chunks, spec, WHERE)
    assert (back.dtype, back.shape) == (np.dtype(spec.dtype), spec.shape)
    assert back.tobytes() == pixels.tobytes()
    assert not back.flags.writeable


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "complex64"])
def test_the_layout_in_memory_does_not_matter(dtype):
    spec = ChipSpec(dtype, 3, 9, 7)
    pixels = chip_of(spec)
    layouts = (pixels.astype(pixels.dtype.newbyteorder(">")), np.asfortranarray(pixels), pixels[:, ::-1][:, ::-1])
    assert {encode_chip(p, spec) for p in layouts} == {encode_chip(pixels, spec)}


@pytest.mark.parametrize("spec", HUGE)
def test_a_tiled_chip_comes_back(spec):
    pixels = chip_of(spec)
    chunks = encode_chip(pixels, spec).chunks
    assert len(chunks) == spec.chunks_per_sample > 1
    assert np.array_equal(decode_chip(chunks, spec, WHERE), pixels)


SPECIMENS = {spec: encode_chip(chip_of(spec), spec).chunks[0] for spec in (RGB, WIDE)}


@given(st.sampled_from(list(SPECIMENS)), st.integers(0), st.integers(0, 7))
def test_every_flipped_bit_is_found(spec, place, bit):
    chunk = bytearray(SPECIMENS[spec])
    chunk[place % len(chunk)] ^= 1 << bit
    with pytest.raises(StoreError, match="pixels are damaged") as caught:
        decode_chip([bytes(chunk)], spec, WHERE)
    assert caught.value.where == WHERE


@given(st.sampled_from(list(SPECIMENS)), st.integers(0))
def test_every_cut_is_found(spec, length):
    chunk = SPECIMENS[spec]
    with pytest.raises(StoreError, match="pixels are damaged"):
        decode_chip([chunk[: length % len(chunk)]], spec, WHERE)


def sealed(body):
    return body + crc32c(body).to_bytes(4, "little")


@given(st.sampled_from(list(SPECIMENS)), st.binary(max_size=200))
def test_a_forged_chunk_is_refused(spec, body):
    with pytest.raises(StoreError, match="pixels are damaged"):
        decode_chip([sealed(body)], spec, WHERE)


@pytest.mark.parametrize("spec", SPECIMENS)
def test_pixels_of_another_size_are_refused(spec):
    other = ChipSpec(spec.dtype, spec.bands, spec.height, spec.width + 1)
    with pytest.raises(StoreError, match="pixels are damaged"):
        decode_chip(encode_chip(chip_of(other), other).chunks, spec, WHERE)


def test_a_chunk_that_declares_a_terabyte_is_refused_before_allocating():
    import zstandard

    stream = zstandard.ZstdCompressor().compressobj(size=2**40)
    frame = stream.compress(b"x") + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    assert zstandard.frame_content_size(frame) == 2**40
    with pytest.raises(StoreError, match="header does not fit"):
        decode_chip([sealed(frame)], RGB, WHERE)


def test_a_blosc_chunk_that_declares_more_than_it_has_is_refused():
    body = SPECIMENS[WIDE][:-4]
    assert int.from_bytes(body[12:16], "little") == len(body)
    for forged in (body[:-1], body[:12] + (len(body) + 9).to_bytes(4, "little") + body[16:], body[:20]):
        with pytest.raises(StoreError, match="header does not fit"):
            decode_chip([sealed(forged)], WIDE, WHERE)


# --------------------------------------------------------------------------------------------------------------- shards


def write_bucket(path, spec, chips, *, spill_at=None):
    """Write chips as one bucket, the way a conversion does; return its objects and its name."""
    objects, name = LocalObjects(path), keys.bucket(spec.dtype, *spec.shape)
    with closing(Spill()) as spill:
        for first in range(0, len(chips), spec.samples_per_shard):
            draft = ShardDraft(spec, spill)
            for number, pixels in enumerate(chips[first : first + spec.samples_per_shard]):
                draft.append(encode_chip(pixels, spec))
                if number == spill_at:
                    draft.spill()
            objects.write(keys.shard(name, first // spec.samples_per_shard), draft.parts())
    for key, document in bucket_documents(name, spec, len(chips)).items():
        objects.write(key, [json.dumps(document).encode()])
    return objects, name


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_zarr_reads_a_shard(tmp_path, dtype):
    spec = ChipSpec(dtype, 2, 31, 17)
    chips = [chip_of(spec, seed) for seed in range(5)]
    _, name = write_bucket(tmp_path, spec, chips)
    array = zarr.open_group(tmp_path / "chips" / name, mode="r")["image"]
    assert (array.shape, array.dtype, array.metadata.dimension_names) == ((5, 2, 31, 17), dtype, DIMENSIONS)
    assert np.array_equal(array[:], np.stack(chips))


@pytest.mark.parametrize("spec", [HUGE[0], ChipSpec("uint16", 3, 1700, 1710), ChipSpec("uint8", 8, 2000, 2000)])
def test_plain_zarr_reads_tiled_chips_of_two_shards(tmp_path, spec):
    chips = [chip_of(spec, seed) for seed in range(spec.samples_per_shard + 1)]
    objects, name = write_bucket(tmp_path, spec, chips)
    assert spec.chunks_per_sample > 1
    assert objects.size(keys.shard(name, 1)) is not None
    array = zarr.open_array(tmp_path / "chips" / name / "image", mode="r")
    for row, pixels in enumerate(chips):
        assert np.array_equal(array[row], pixels)
        assert np.array_equal(ShardReader(objects, name, spec).read(row), pixels)


def test_we_read_what_zarr_writes(tmp_path):
    spec, chips = WIDE, [chip_of(WIDE, seed) for seed in range(9)]
    name = keys.bucket(spec.dtype, *spec.shape)
    array = zarr.create_array(
        tmp_path / "chips" / name / "image",
        shape=(9, *spec.shape),
        chunks=spec.chunk_shape,
        shards=spec.shard_shape,
        dtype=spec.dtype,
        compressors=[zarr.codecs.BloscCodec(**spec.compressor["configuration"]), zarr.codecs.Crc32cCodec()],
    )
    array[:] = np.stack(chips)
    data = (tmp_path / keys.shard(name, 0)).read_bytes()
    index = np.frombuffer(data[-4 - 16 * spec.samples_per_shard : -4], "<u8").reshape(-1, 2)
    for offset, length in index[:9].tolist():
        chunk = data[offset : offset + length]
        assert any(np.array_equal(decode_chip([chunk], spec, WHERE), c) for c in chips)


def test_a_spilled_draft_is_the_same_shard(tmp_path):
    chips = [chip_of(RGB, seed) for seed in range(6)]
    whole, name = write_bucket(tmp_path / "whole", RGB, chips)
    spilled, _ = write_bucket(tmp_path / "spilled", RGB, chips, spill_at=3)
    assert spilled.read(keys.shard(name, 0)) == whole.read(keys.shard(name, 0))


def test_a_draft_tells_its_memory():
    with closing(Spill()) as spill:
        draft = ShardDraft(RGB, spill)
        chunks = encode_chip(chip_of(RGB), RGB)
        draft.append(chunks)
        assert (draft.samples, draft.full, draft.memory_bytes) == (1, False, *chunks.lengths)
        draft.spill()
        assert draft.memory_bytes == 0
        draft.append(chunks)
        assert (draft.samples, draft.memory_bytes) == (2, *chunks.lengths)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    return write_bucket(tmp_path_factory.mktemp("bucket"), RGB, [chip_of(RGB, seed) for seed in range(4)])


def test_rows_are_read_in_any_order(bucket):
    reader = ShardReader(*bucket, RGB)
    for row in (3, 0, 2, 2, 1):
        assert np.array_equal(reader.read(row), chip_of(RGB, row))


@pytest.mark.parametrize("row", [4, RGB.samples_per_shard - 1])
def test_a_row_that_was_not_written(bucket, row):
    with pytest.raises(StoreError, match=f"row {row}: the shard has no such row"):
        ShardReader(*bucket, RGB).read(row)


def test_an_absent_shard(bucket):
    with pytest.raises(StoreError, match="image/c/1/0/0/0: the shard is absent"):
        read_shard_index(*bucket, RGB, 1)


@given(st.integers(0), st.integers(0, 7))
def test_no_flipped_bit_of_a_shard_gives_wrong_pixels(bucket, place, bit):
    objects, name = bucket
    key = keys.shard(name, 0)
    data = objects.read(key)
    index_bytes = 16 * RGB.samples_per_shard + 4
    # Chunks and index differ in length: look at both alike.
    spot = place // 2 % index_bytes + len(data) - index_bytes if place % 2 else place // 2 % (len(data) - index_bytes)
    changed = bytearray(data)
    changed[spot] ^= 1 << bit
    damaged = _Memory({key: bytes(changed)})
    failures = 0
    for row in range(4):
        try:
            assert np.array_equal(ShardReader(damaged, name, RGB).read(row), chip_of(RGB, row))
        except StoreError:
            failures += 1
    assert failures == (4 if spot >= len(data) - index_bytes else 1)


class _Memory:
    """Objects in memory, as far as a reader of shards needs them."""

    url = "memory"

    def __init__(self, objects):
        self._objects = objects

    def size(self, key):
        return len(self._objects[key]) if key in self._objects else None

    def read(self, key, start=0, length=None):
        data = self._objects[key][start : None if length is None else start + length]
        if length is not None and len(data) != length:
            raise StoreError("ends early", where=key)
        return data

    def read_parts(self, key, start, lengths):
        ends = [start, *np.cumsum(list(lengths), dtype="i8") + start]
        return [self.read(key, at, end - at) for at, end in pairwise(ends)]


def forged(entries, body_bytes=100):
    """Return a bucket whose shard has an index of our making, with a fitting checksum."""
    index = np.full((RGB.samples_per_shard, 2), shards.MISSING, "<u8")
    index[: len(entries)] = np.array(entries, "<u8").reshape(-1, 2)
    name = keys.bucket(RGB.dtype, *RGB.shape)
    return _Memory({keys.shard(name, 0): bytes(body_bytes) + sealed(index.tobytes())}), name


def test_a_sound_index_is_read():
    assert read_shard_index(*forged([(0, 40), (40, 60)]), RGB, 0).tolist() == [[0, 40], [40, 60]]
    assert len(read_shard_index(*forged([], 0), RGB, 0)) == 0


@pytest.mark.parametrize(
    "entries",
    [
        [(0, 40)],
        [(0, 40), (40, 61)],
        [(0, 40), (41, 59)],
        [(0, 40), (30, 70)],
        [(40, 60), (0, 40)],
        [(1, 99)],
        [(0, 40), (shards.MISSING, shards.MISSING), (40, 60)],
        [(0, 40), (40, shards.MISSING)],
        [(0, 40), (shards.MISSING, 60)],
        [(0, 2**63), (2**63, 2**63), (0, 100)],
        [(0, 2**64 - 2), (2**64 - 2, 102)],
        [],
    ],
)
def test_an_index_that_is_not_gapless_is_refused(entries):
    with pytest.raises(StoreError, match="the shard's index is damaged: its chunks are not one behind the other"):
        read_shard_index(*forged(entries), RGB, 0)


def test_a_chunk_longer_than_its_pixels_is_refused():
    size = RGB.bands * RGB.height * RGB.width
    assert len(read_shard_index(*forged([(0, size + 500)], size + 500), RGB, 0)) == 1
    with pytest.raises(StoreError, match="a chunk is longer than its pixels"):
        read_shard_index(*forged([(0, 2 * size)], 2 * size), RGB, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (3, 400, 500)])
def test_no_pixels_make_a_chunk_that_is_refused(tmp_path, dtype, shape):
    spec = ChipSpec(dtype, *shape)
    noise = np.random.default_rng(0).bytes(int(np.prod(shape)) * spec.itemsize)
    objects, name = write_bucket(tmp_path, spec, [np.frombuffer(noise, dtype).reshape(shape)])
    assert len(read_shard_index(objects, name, spec, 0)) == 1


@pytest.mark.parametrize("size", [0, 1, 16 * RGB.samples_per_shard + 3])
def test_a_shard_shorter_than_its_index_is_refused(size):
    name = keys.bucket(RGB.dtype, *RGB.shape)
    with pytest.raises(StoreError, match="the shard is too short"):
        read_shard_index(_Memory({keys.shard(name, 0): bytes(size)}), name, RGB, 0)


def test_bucket_names_say_the_shape():
    names = {keys.bucket(d, b, h, 9) for d, b, h in product(DTYPES, (1, 3), (8, 9))}
    assert len(names) == len(DTYPES) * 4
    assert all(keys.is_bucket(n) for n in names)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", ["imagery", "enlarged 4", "enlarged 8", "drawn", "classes"])
def test_chips_are_as_small_as_by_a_search_at_every_byte(kind, codec):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :256]
    if kind == "imagery":
        waves = [np.sin(x / 30 + band) + np.cos(y / 40) for band in range(3)]
        pixels = (110 + 30 * np.stack(waves) + rng.normal(0, 4, (3, 256, 256))).astype("u1")
    elif kind.startswith("enlarged"):
        times = int(kind[-1])
        pixels = rng.normal(110, 20, (3, 256 // times, 256 // times)).astype("u1").repeat(times, 1).repeat(times, 2)
    elif kind == "drawn":
        pixels = np.broadcast_to((x // 37 + y // 23).astype("u1") % 5, (3, 256, 256))
    else:
        pixels = np.broadcast_to(rng.integers(0, 8, (32, 32), "u1").repeat(8, 0).repeat(8, 1), (3, 256, 256))
    spec = ChipSpec("uint8", 3, 256, 256, codec)
    raw = np.ascontiguousarray(pixels.transpose(1, 2, 0) if spec.interleaved else pixels).reshape(-1)
    if spec.delta:
        raw = np.diff(raw, prepend=np.uint8(0))
    usual = len(zstandard.compress(raw, 1))
    assert usual < raw.nbytes * 0.9
    assert sum(encode_chip(pixels, spec).lengths) <= usual * 1.15
