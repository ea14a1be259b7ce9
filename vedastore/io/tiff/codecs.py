"""Lossless schemes: decode one segment with a hard size limit, and find the encoder that wrote a file.

A file whose writer is found is given back byte for byte. The trial order is fixed, so the answer is a pure
function of the file (and of the library versions: whoever encodes later compares lengths).
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from vedastore.io.tiff.gdal import decode_with_gdal, encode_with_gdal
from vedastore.io.tiff.layout import DEFLATE, DEFLATE_OLD, LZMA, LZW, PACKBITS, SCHEMES, ZSTD, Layout
from vedastore.io.tiff.segments import Segments, gather
from vedastore.io.tiff.structure import damaged, unsupported

Bytes = npt.NDArray[np.uint8]
Encoder = Callable[[Sequence[Bytes], Layout], Iterable[bytes]]  # lazy where it can be: a trial stops early
Decoder = Callable[[Bytes, int], bytes]  # a segment, and how many bytes may come out of it at most

#: Schemes whose decoders meet strangers' bytes in this process anyway: those of archives and of stores.
TRUSTED_SCHEMES = frozenset({DEFLATE, DEFLATE_OLD, ZSTD})
ZLIB_HEADER_BYTES = 2
_kept = threading.local()


def decode_segments(data: Bytes, segments: Segments, layout: Layout) -> Bytes:
    """Decode all segments that are in the file; those that are not are zeros.

    Returns
    -------
    array of uint8
        ``layout.raw_bytes`` long, the predictor still applied; read-only.

    Raises
    ------
    ImageError
        For a segment that does not decode, or decodes to another length than its pixels need.
    """
    there = np.flatnonzero(segments.stored).tolist()
    stored, sizes = [gather(data, segments, index) for index in there], segments.sizes[there].tolist()
    if layout.scheme == LZW:
        decoded = _decode_lzw(stored, sizes, layout)
    else:
        decoded = [_decode(*segment, layout) for segment in zip(there, stored, sizes, strict=True)]
    if segments.sparse:
        known = dict(zip(there, decoded, strict=True))
        decoded = [known.get(index) or bytes(size) for index, size in enumerate(segments.sizes.tolist())]
    return np.frombuffer(b"".join(decoded), np.uint8)


def _decode_lzw(stored: list[Bytes], sizes: list[int], layout: Layout) -> list[bytes]:
    """Decode with GDAL: imagecodecs 2026.3 reads wild memory where a code is used before its table entry is made.

    A segment that is too long cannot be told from a sound one here; it comes back as ``equivalent``.
    """
    return [part.tobytes() for part in decode_with_gdal(stored, sizes, layout.row_bytes, LZW)]


def _decode(index: int, stored: Bytes, size: int, layout: Layout) -> bytes:
    """Decode one segment; one byte of room shows that it is too long (some codecs stop silently where room ends)."""
    decode, errors = DECODERS[layout.scheme], _errors()
    try:
        decoded = decode(stored, size + 1)
    except errors as error:
        _refuse_whole_strip(stored, size, layout)
        raise damaged(f"segment {index} does not decode as {SCHEMES[layout.scheme]} ({error})") from None
    if len(decoded) != size:
        _refuse_whole_strip(stored, size, layout)
        raise damaged(f"segment {index} decodes to more or fewer bytes than its {size} bytes of pixels")
    return decoded


def _refuse_whole_strip(stored: Bytes, size: int, layout: Layout) -> None:
    """Leave it to GDAL where a last strip has all rows of a strip, as GDAL writes those that nobody filled."""
    whole = layout.segment_height * layout.row_bytes
    if size < whole:
        try:
            decoded = len(DECODERS[layout.scheme](stored, whole + 1))
        except _errors():
            return
        if decoded == whole:
            raise unsupported("a last strip with more rows than the image")


@lru_cache(maxsize=1)
def _errors() -> tuple[type[Exception], ...]:
    """List what decoders raise."""
    import zstandard
    from isal import isal_zlib

    return RuntimeError, ValueError, isal_zlib.error, zstandard.ZstdError  # type: ignore[return-value]  # isal's stub


def _inflate(stored: Bytes, limit_bytes: int) -> bytes:
    from isal import isal_zlib

    inflater = isal_zlib.decompressobj()
    decoded: bytes = inflater.decompress(stored.data, limit_bytes)
    if not inflater.eof and len(decoded) < limit_bytes:
        raise ValueError("it is cut short")
    return decoded


def _unpack_zstd(stored: Bytes, limit_bytes: int) -> bytes:
    import zstandard

    if zstandard.frame_content_size(stored.data) > limit_bytes:  # it would be allocated; -1 where the frame is silent
        raise ValueError("it is too long")
    if not hasattr(_kept, "zstd"):
        _kept.zstd = zstandard.ZstdDecompressor()
    return bytes(_kept.zstd.decompress(stored.data, max_output_size=limit_bytes))


def _imagecodecs(name: str) -> Decoder:
    def decode(stored: Bytes, limit_bytes: int) -> bytes:
        import imagecodecs

        return bytes(getattr(imagecodecs, name)(stored, out=np.empty(limit_bytes, np.uint8)))

    return decode


DECODERS: dict[int, Decoder] = {
    DEFLATE: _inflate, DEFLATE_OLD: _inflate, ZSTD: _unpack_zstd, PACKBITS: _imagecodecs("packbits_decode"),
    LZMA: _imagecodecs("lzma_decode"),
}  # fmt: skip


def cut(raw: Bytes, segments: Segments) -> list[Bytes]:
    """Cut decoded bytes into those segments that are in the file."""
    ends = np.cumsum(segments.sizes)
    present = np.flatnonzero(segments.stored).tolist()
    return [raw[int(ends[i] - segments.sizes[i]) : int(ends[i])] for i in present]


def encoders(scheme: int) -> dict[str, Encoder]:
    """List the encoders of a scheme by name, in the order in which they are tried; the first one is the default."""
    return ENCODERS[DEFLATE if scheme == DEFLATE_OLD else scheme]


def find_encoder(raws: Sequence[Bytes], stored: Sequence[Bytes], layout: Layout) -> str | None:
    """Name the first encoder that turns decoded segments into exactly the stored ones, or None."""
    if not raws:
        return next(iter(encoders(layout.scheme)))
    known = encoders(layout.scheme)
    header = stored[0][:ZLIB_HEADER_BYTES].tobytes()
    for name in DEFLATERS.get(header, ()) if known is ENCODERS[DEFLATE] else known:
        encode = known[name]
        if _same(encode(raws[:1], layout), stored[:1]) and _same(encode(raws[1:], layout), stored[1:]):
            return name
    return None


def _same(encoded: Iterable[bytes], stored: Sequence[Bytes]) -> bool:
    return all(a == b.tobytes() for a, b in zip(encoded, stored, strict=True))


def _each(encode: Callable[[Bytes], bytes]) -> Encoder:
    return lambda raws, _layout: (encode(raw) for raw in raws)


def _zlib(level: int) -> Encoder:
    return _each(lambda raw: zlib.compress(raw.data, level))


def _libdeflate(level: int) -> Encoder:
    def encode(raw: Bytes) -> bytes:
        import imagecodecs

        return bytes(imagecodecs.deflate_encode(raw.tobytes(), level=level))

    return _each(encode)


def _lzw(raw: Bytes) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.lzw_encode(raw.tobytes()))


def _packbits(raws: Sequence[Bytes], layout: Layout) -> Iterator[bytes]:
    """Encode row by row, as TIFF 6.0 (section 9) asks for."""
    import imagecodecs

    return (b"".join(map(imagecodecs.packbits_encode, raw.reshape(-1, layout.row_bytes))) for raw in raws)


def _zstd(level: int, *, sized: bool) -> Encoder:
    def encode(raws: Sequence[Bytes], _layout: Layout) -> Iterator[bytes]:
        import zstandard

        compressor = zstandard.ZstdCompressor(level=level, write_content_size=sized)  # one: its tables cost as much
        for raw in raws:
            if sized:
                yield compressor.compress(raw.data)
            else:  # what libtiff does: a frame that does not know its length
                stream = compressor.compressobj()
                yield stream.compress(raw.data) + stream.flush()

    return encode


def _lzma(delta: str | None) -> Encoder:
    def encode(raws: Sequence[Bytes], layout: Layout) -> Iterator[bytes]:
        import lzma

        filters: list[dict[str, int]] = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
        if delta:
            # libtiff puts a delta filter in front. Its distance is meant to be one sample, but is one byte where
            # the compression was set before the sample size, as GDAL does.
            distance = 1 if delta == "byte" else layout.dtype.itemsize
            filters.insert(0, {"id": lzma.FILTER_DELTA, "dist": distance})
        return (lzma.compress(raw.data, lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=filters) for raw in raws)

    return encode


def _lzma_imagecodecs(raw: Bytes) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.lzma_encode(raw.tobytes()))


def _gdal(name: str) -> Encoder:
    return lambda raws, layout: encode_with_gdal(raws, layout.row_bytes, name)


def _deflaters() -> dict[str, Encoder]:
    kinds = {"libdeflate": _libdeflate, "zlib": _zlib}
    levels = ((name, name.partition("-")) for names in DEFLATERS.values() for name in names)
    return {name: kinds[kind](int(level)) if level else _gdal("DEFLATE") for name, (kind, _, level) in levels}


#: Encoders by what their streams begin with: window and level (RFC 1950, 2.2). libtiff calls level 6 of zlib level 7
#: of libdeflate, and so on up to 10.
DEFLATERS = {
    b"\x78\x9c": ("libdeflate-7", "zlib-6", "libdeflate-6", "gdal"),
    b"\x78\xda": ("libdeflate-10", "zlib-9", "libdeflate-9", "libdeflate-12", "libdeflate-8", "libdeflate-11"),
    b"\x78\x01": ("libdeflate-1", "zlib-1"),
    b"\x78\x5e": (
        "libdeflate-5",
        "libdeflate-4",
        "libdeflate-3",
        "libdeflate-2",
        "zlib-5",
        "zlib-4",
        "zlib-3",
        "zlib-2",
    ),
}
ENCODERS: dict[int, dict[str, Encoder]] = {
    DEFLATE: _deflaters(),
    LZW: {"imagecodecs": _each(_lzw), "gdal": _gdal("LZW")},
    PACKBITS: {"imagecodecs": _packbits, "gdal": _gdal("PACKBITS")},
    ZSTD: {
        "zstd-9": _zstd(9, sized=False), "zstd-9-sized": _zstd(9, sized=True), "zstd-3-sized": _zstd(3, sized=True),
        "zstd-3": _zstd(3, sized=False), "zstd-1-sized": _zstd(1, sized=True), "zstd-1": _zstd(1, sized=False),
        "gdal": _gdal("ZSTD"),
    },
    LZMA: {
        "xz-delta-byte": _lzma("byte"), "xz-delta-sample": _lzma("sample"), "imagecodecs": _each(_lzma_imagecodecs),
        "xz": _lzma(None),
    },
}  # fmt: skip
