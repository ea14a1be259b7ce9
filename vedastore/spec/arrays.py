"""The pixels of a store: data type, chunk, shard and codec of a bucket, as Zarr v3 metadata.

Sources: https://zarr-specs.readthedocs.io/en/latest/v3/core/ and .../v3/codecs/sharding-indexed/
The dictionaries made here are what zarr-python itself would write for the same array.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, Literal

import numpy as np

from vedastore.spec import keys

CHUNK_LIMIT_BYTES: Final = 16 * 2**20
SHARD_TARGET_BYTES: Final = 64 * 2**20
SHARD_LIMIT_SAMPLES: Final = 4_096
DIMENSIONS: Final = ("sample", "band", "y", "x")

DTYPES: Final = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
CODECS: Final = ("default", "compact")
_INTERLEAVED_BANDS: Final = range(2, 5)
_INTERLEAVED_ORDER: Final = (0, 2, 3, 1)
_BYTES_LITTLE: Final = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C: Final = {"name": "crc32c"}


@dataclass(frozen=True)
class ChipSpec:
    """The shape and type that all chips of one bucket share, and how they are encoded.

    ``codec`` is ``"default"``, which every Zarr v3 reader has, or ``"compact"``, which takes about a sixth less for
    imagery of 8 bits but needs a codec of numcodecs, or more time for wider types.
    """

    dtype: str
    bands: int
    height: int
    width: int
    codec: Literal["default", "compact"] = "default"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or min(self.bands, self.height, self.width) < 1:
            msg = f"no bucket holds chips of {self.dtype} {self.bands} x {self.height} x {self.width}"
            raise ValueError(msg)
        if self.codec not in CODECS:
            raise ValueError(f"no bucket has the codec {self.codec!r:.80}")

    @staticmethod
    def of(pixels: np.ndarray[Any, Any], codec: Literal["default", "compact"] = "default") -> ChipSpec:
        """Describe one chip, an array of (band, y, x)."""
        return _spec_of(pixels.dtype, pixels.shape, codec)

    @cached_property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return np.dtype(self.dtype).itemsize

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(band, y, x)."""
        return self.bands, self.height, self.width

    @cached_property
    def tile(self) -> tuple[int, int]:
        """Height and width of the inner chunk, px: the whole chip, or a square tile where a chip is above 16 MiB."""
        if self.bands * self.height * self.width * self.itemsize <= CHUNK_LIMIT_BYTES:
            return self.height, self.width
        side = math.isqrt(CHUNK_LIMIT_BYTES // (self.bands * self.itemsize))
        side = max(16, 2 ** (max(side, 1).bit_length() - 1))
        return min(side, self.height), min(side, self.width)

    @cached_property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of inner chunks in one chip."""
        height, width = self.tile
        return -(-self.height // height), -(-self.width // width)

    @cached_property
    def chunk_shape(self) -> tuple[int, int, int, int]:
        """Shape of the inner chunk: (1, band, y, x)."""
        return 1, self.bands, *self.tile

    @cached_property
    def chunks_per_sample(self) -> int:
        """How many inner chunks make one chip."""
        return math.prod(self.tiles)

    @cached_property
    def samples_per_shard(self) -> int:
        """How many chips make about 64 MiB of raw pixels."""
        chip_bytes = math.prod(self.chunk_shape) * self.chunks_per_sample * self.itemsize
        return max(1, min(SHARD_TARGET_BYTES // chip_bytes, SHARD_LIMIT_SAMPLES))

    @cached_property
    def shard_shape(self) -> tuple[int, int, int, int]:
        """Shape of a shard: a whole number of inner chunks on every axis."""
        (height, width), (rows, columns) = self.tile, self.tiles
        return self.samples_per_shard, self.bands, rows * height, columns * width

    @cached_property
    def interleaved(self) -> bool:
        """Whether a chunk's bytes are (y, x, band), as in most TIFFs: 2 to 4 bands of 8 bits by default."""
        return self.codec == "default" and self.itemsize == 1 and self.bands in _INTERLEAVED_BANDS

    @cached_property
    def delta(self) -> bool:
        """Whether a chunk's bytes are differences to the byte before, modulo 256."""
        return self.codec == "compact" and self.itemsize == 1

    @property
    def filters(self) -> list[dict[str, Any]]:
        """What happens to a chunk before it is bytes."""
        if self.interleaved:
            return [{"name": "transpose", "configuration": {"order": list(_INTERLEAVED_ORDER)}}]
        if self.delta:
            return [{"name": "numcodecs.delta", "configuration": {"dtype": np.dtype(self.dtype).str}}]
        return []

    @cached_property
    def compressor(self) -> dict[str, Any]:
        """Zstandard 1 for 8-bit values, blosc with bit shuffle for wider ones, where it shrinks imagery more."""
        if self.itemsize == 1:
            return {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
        level = 5 if self.codec == "compact" else 1
        blosc = {"cname": "zstd", "clevel": level, "shuffle": "bitshuffle", "typesize": self.itemsize, "blocksize": 0}
        return {"name": "blosc", "configuration": blosc}


@lru_cache(maxsize=64)
def _spec_of(dtype: np.dtype[Any], shape: tuple[int, int, int], codec: Literal["default", "compact"]) -> ChipSpec:
    return ChipSpec(dtype.name, *shape, codec)


def array_metadata(spec: ChipSpec, rows: int) -> dict[str, Any]:
    """Return the ``zarr.json`` of a bucket's array with so many rows."""
    to_bytes = {"name": "bytes"} if spec.itemsize == 1 else _BYTES_LITTLE
    fill: Any = [0.0, 0.0] if spec.dtype.startswith("complex") else 0.0 if spec.dtype.startswith("float") else 0
    sharding = {
        "chunk_shape": list(spec.chunk_shape),
        "codecs": [*spec.filters, to_bytes, spec.compressor, _CRC32C],
        "index_codecs": [_BYTES_LITTLE, _CRC32C],
        "index_location": "end",
    }
    return {
        "shape": [rows, *spec.shape],
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(spec.shard_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
        "dimension_names": list(DIMENSIONS),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def group_metadata(
    members: dict[str, dict[str, Any]] | None = None, attributes: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the ``zarr.json`` of a group, with the metadata of its members inline where given."""
    group: dict[str, Any] = {"attributes": attributes or {}, "zarr_format": 3, "node_type": "group"}
    if members is not None:
        consolidated = dict(sorted(members.items()))
        group["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": consolidated}
    return group


def bucket_documents(name: str, spec: ChipSpec, rows: int) -> dict[str, dict[str, Any]]:
    """Return the metadata documents of one bucket by key: its group and its array."""
    array = array_metadata(spec, rows)
    return {
        keys.bucket_metadata(name): group_metadata({keys.ARRAY: array}),
        keys.array_metadata(name): array,
    }


def hierarchy(buckets: dict[str, tuple[ChipSpec, int]]) -> dict[str, dict[str, Any]]:
    """Return what the root's consolidated metadata holds: every group and array below it by path."""
    nodes = {keys.CHIPS: group_metadata()}
    for name, (spec, rows) in buckets.items():
        nodes[f"{keys.CHIPS}/{name}"] = group_metadata()
        nodes[f"{keys.CHIPS}/{name}/{keys.ARRAY}"] = array_metadata(spec, rows)
    return nodes
