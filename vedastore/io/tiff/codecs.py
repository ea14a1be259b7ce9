"""Lossless schemes: decode one segment with a hard size limit, and find the encoder that wrote a file.

A file whose writer is found is given back byte for byte. The trial order is fixed, so the answer is a pure
function of the file (and of the library versions: whoever encodes later compares lengths).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from vedastore.io.tiff.gdal import decode_with_gdal, encode_with_gdal
from vedastore.io.tiff.layout import DEFLATE, DEFLATE_OLD, LZMA, LZW, PACKBITS, SCHEMES, ZSTD, Layout
from vedastore.io.tiff.segments import Segments, gather
from vedastore.io.tiff.structure import damaged, unsupported

Bytes = npt.NDArray[np.uint8]
Encoder = Callable[[Sequence[Bytes], Layout], Iterable[bytes]]  # lazy where it can be: a trial stops early

DECODER_NAMES = {
    DEFLATE: "deflate_decode", DEFLATE_OLD: "deflate_decode", PACKBITS: "packbits_decode",
    ZSTD: "zstd_decode", LZMA: "lzma_decode",
}  # fmt: skip


def decode_segments(data: Bytes, segments: Segments, layout: Layout) -> Bytes:
    """Decode all segments that are in the file; the bytes of sparse ones are left to the caller.

    Returns
    -------
    array of uint8
        ``layout.raw_bytes`` long, the predictor still applied.

    Raises
    ------
    ImageError
        For a segment that does not decode, or decodes to another length than its pixels need.
    """
    raw = np.empty(layout.raw_bytes + 1, np.uint8)
    decode = _decode_lzw if layout.scheme == LZW else _decode_each
    decode(raw, data, segments, layout)
    return raw[:-1]


def _decode_lzw(raw: Bytes, data: Bytes, segments: Segments, layout: Layout) -> None:
    """Decode with GDAL: imagecodecs 2026.3 reads wild memory where a code is used before its table entry is made.

    A segment that is too long cannot be told from a sound one here; it comes back as ``equivalent``.
    """
    present = np.flatnonzero(segments.stored).tolist()
    sizes = segments.sizes[present].tolist()
    decoded = decode_with_gdal([gather(data, segments, i) for i in present], sizes, layout.row_bytes, LZW)
    for part, segment in zip(cut(raw[:-1], segments), decoded, strict=True):
        part[:] = segment


def _decode_each(raw: Bytes, data: Bytes, segments: Segments, layout: Layout) -> None:
    import imagecodecs

    decode = getattr(imagecodecs, DECODER_NAMES[layout.scheme])
    # One byte of room behind each segment shows a segment that is too long (some codecs stop silently at the end
    # of their output); the next segment, decoded later, overwrites it.
    begin = 0
    for index, size in enumerate(segments.sizes.tolist()):
        if segments.stored[index]:
            try:
                decoded = decode(gather(data, segments, index), out=raw[begin : begin + size + 1]).size
            except (RuntimeError, ValueError) as error:
                _refuse_whole_strip(gather(data, segments, index), size, layout)
                raise damaged(f"segment {index} does not decode as {SCHEMES[layout.scheme]} ({error})") from None
            if decoded != size:
                _refuse_whole_strip(gather(data, segments, index), size, layout)
                raise damaged(f"segment {index} decodes to more or fewer bytes than its {size} bytes of pixels")
        begin += size


def _refuse_whole_strip(stored: Bytes, size: int, layout: Layout) -> None:
    """Leave it to GDAL where a last strip has all rows of a strip, as GDAL writes those that nobody filled."""
    import imagecodecs

    whole = layout.segment_height * layout.row_bytes
    if size < whole:
        try:
            decoded = getattr(imagecodecs, DECODER_NAMES[layout.scheme])(stored, out=np.empty(whole + 1, np.uint8)).size
        except (RuntimeError, ValueError):
            return
        if decoded == whole:
            raise unsupported("a last strip with more rows than the image")


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
    for name, encode in encoders(layout.scheme).items():
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
    def encode(raw: Bytes) -> bytes:
        import zstandard

        compressor = zstandard.ZstdCompressor(level=level, write_content_size=sized)
        if sized:
            return compressor.compress(raw.data)
        stream = compressor.compressobj()  # what libtiff does: a frame that does not know its length
        return stream.compress(raw.data) + stream.flush()

    return _each(encode)


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


ENCODERS: dict[int, dict[str, Encoder]] = {
    DEFLATE: {
        "libdeflate-6": _libdeflate(6), "zlib-6": _zlib(6), "gdal": _gdal("DEFLATE"), "zlib-9": _zlib(9),
        "zlib-1": _zlib(1), "libdeflate-1": _libdeflate(1), "libdeflate-9": _libdeflate(9),
        "libdeflate-12": _libdeflate(12),
    },
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
