"""One TIFF file <-> pixels and envelope: the two verbs of this package, and the proof that they are inverses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vedastore.errors import ImageError
from vedastore.io.tiff.codecs import cut, decode_segments, encoders, find_encoder
from vedastore.io.tiff.envelope import DECODED, EQUIVALENT, EXACT, Envelope, cut_frame, parse_envelope
from vedastore.io.tiff.gdal import read_lossy
from vedastore.io.tiff.georeference import Affine, read_crs, read_transform
from vedastore.io.tiff.layout import (
    DEFLATE,
    LOSSY,
    NODATA,
    NONE,
    SCHEMES,
    Layout,
    parse_layout,
)
from vedastore.io.tiff.rewrite import rewrite
from vedastore.io.tiff.samples import arrange, disarrange, fill_value, predict, unpredict
from vedastore.io.tiff.segments import Region, Segments, check_apart, gather, parse_segments
from vedastore.io.tiff.structure import Buffer, Directory, damaged, read_first_directory, unsupported
from vedastore.model import DEFAULT_LIMITS

if TYPE_CHECKING:
    from vedastore.model import Fidelity, Limits

Bytes = npt.NDArray[np.uint8]
Pixels = npt.NDArray[Any]

COPY = "copy"  # the encoder of uncompressed files


@dataclass(frozen=True, slots=True)
class DecodedTiff:
    """What a TIFF file is.

    Parameters
    ----------
    pixels : array
        First image, (band, y, x), C-contiguous, little-endian; may be read-only.
    envelope : bytes
        Everything that the file is besides those pixels.
    fidelity : {"exact", "equivalent", "decoded"}
        What `encode` gives back: the same bytes; the same pixels, tags, scheme and layout; or, for a lossy file,
        the decoded pixels stored losslessly.
    crs : str or None
        ``EPSG:n`` or WKT2, as rasterio reports it.
    transform : tuple of six floats or None
        a, b, c, d, e, f in the order of `affine.Affine`, as rasterio reports them.
    nodata : str or None
        Text of the GDAL_NODATA tag.
    compressed : bool
        Whether the bytes that come back depend on a codec.
    """

    pixels: Pixels
    envelope: bytes
    fidelity: Fidelity
    crs: str | None
    transform: Affine | None
    nodata: str | None
    compressed: bool


@dataclass(frozen=True, slots=True)
class EnvelopeInfo:
    """What an envelope says about its file, for reports."""

    fidelity: Fidelity
    encoder: str
    compression: str


@dataclass(frozen=True, slots=True)
class Image:
    """The parsed first image of a file."""

    directory: Directory
    layout: Layout
    segments: Segments

    @property
    def nodata(self) -> str | None:
        """Text of the GDAL_NODATA tag."""
        return self.directory.text(NODATA)


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS) -> DecodedTiff:
    """Take a TIFF file apart, and prove that `encode` puts it together again.

    Parameters
    ----------
    data : bytes
        The whole file.
    limits : Limits, optional

    Raises
    ------
    ImageError
        Where the file is damaged, too large, or of a layout that could not be given back.
    """
    try:
        image = parse_image(data, limits)
        regions = tuple(image.segments.regions())
        check_apart(list(regions), image.directory, image.layout)
        pixels, envelope = _take_apart(data, image, regions, limits)
        crs, transform = read_crs(image.directory), read_transform(image.directory)
    except MemoryError:
        raise unsupported("an image larger than the memory") from None
    return DecodedTiff(
        pixels=pixels,
        envelope=envelope.dump(),
        fidelity=envelope.fidelity,
        crs=crs,
        transform=transform,
        nodata=image.nodata,
        compressed=envelope.encoder != COPY,
    )


def encode(pixels: Pixels, envelope: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Put a TIFF file together again.

    Parameters
    ----------
    pixels : array
        (band, y, x), as `decode` gave them.
    envelope : bytes
        As `decode` gave it.
    limits : Limits, optional
        As `decode` had them.

    Returns
    -------
    bytes
        The file, as its fidelity promises. An ``exact`` compressed file comes back as ``equivalent`` where another
        version of a library compresses otherwise: compare digests where it matters.

    Raises
    ------
    ImageError
        Where the envelope is damaged or the pixels do not fit it.
    """
    try:
        return put_together(pixels, parse_envelope(envelope), limits)
    except MemoryError:
        raise unsupported("an image larger than the memory") from None


def describe(envelope: bytes) -> EnvelopeInfo:
    """Say what an envelope promises."""
    parsed = parse_envelope(envelope)
    layout = parse_layout(read_first_directory(parsed.skeleton().data))
    return EnvelopeInfo(parsed.fidelity, parsed.encoder, SCHEMES[layout.scheme])


def parse_image(data: Buffer, limits: Limits = DEFAULT_LIMITS) -> Image:
    """Read the structure of the first image, checked against the bytes that are there."""
    directory = read_first_directory(data)
    layout = parse_layout(directory, limits)
    return Image(directory, layout, parse_segments(directory, layout, limits))


def read_pixels(data: bytes, image: Image) -> tuple[Pixels, bytes, Bytes]:
    """Read the first image.

    Returns
    -------
    pixels : array
        (band, y, x).
    padding : bytes
        Tile padding that is not zero.
    raw : array of uint8
        The segments, decoded, with their predictor.
    """
    layout = image.layout
    if layout.scheme in LOSSY:
        return read_lossy(data, image.directory, layout), b"", np.empty(0, np.uint8)
    raw = _read_raw(np.frombuffer(data, np.uint8), image)
    plain = raw if layout.predictor == 1 else unpredict(raw.copy(), layout)
    if image.segments.sparse:
        plain = plain if plain.flags.writeable else plain.copy()
        _fill_sparse(plain, image)
    return *arrange(plain, layout), raw


def _read_raw(data: Bytes, image: Image) -> Bytes:
    layout, segments = image.layout, image.segments
    if layout.scheme != NONE:
        return decode_segments(data, segments, layout)
    if not segments.sparse and segments.contiguous():
        begin = int(segments.offsets[0])
        return data[begin : begin + layout.raw_bytes]
    raw = np.zeros(layout.raw_bytes, np.uint8)
    begin = 0
    for index, size in enumerate(segments.sizes.tolist()):
        if segments.stored[index]:
            raw[begin : begin + size] = gather(data, segments, index)
        begin += size
    return raw


def _fill_sparse(plain: Bytes, image: Image) -> None:
    value = fill_value(image.nodata, image.layout)
    ends = np.cumsum(image.segments.sizes)
    for index in np.flatnonzero(image.segments.stored == 0).tolist():
        begin, end = int(ends[index] - image.segments.sizes[index]), int(ends[index])
        plain[begin:end].view(image.layout.dtype)[...] = value


def _take_apart(data: bytes, image: Image, regions: tuple[Region, ...], limits: Limits) -> tuple[Pixels, Envelope]:
    layout, _segments = image.layout, image.segments
    pixels, padding, raw = read_pixels(data, image)
    envelope = Envelope(EXACT, COPY, len(data), regions, cut_frame(data, regions), padding)
    if layout.scheme in LOSSY:
        envelope = replace(envelope, fidelity=DECODED, encoder=next(iter(encoders(DEFLATE))))
    elif _comes_back(pixels, padding, raw, image):
        encoder = COPY if layout.scheme == NONE else _find_encoder(data, raw, image)
        if encoder:
            return pixels, replace(envelope, encoder=encoder)
        envelope = replace(envelope, fidelity=EQUIVALENT, encoder=next(iter(encoders(layout.scheme))))
    else:
        raise unsupported("samples that do not come back byte for byte")
    _prove_equivalent(pixels, envelope, limits)
    return pixels, envelope


def _comes_back(pixels: Pixels, padding: bytes, raw: Bytes, image: Image) -> bool:
    """Prove that the pixels give the decoded segments again."""
    again = pack(pixels, padding, image.layout)
    if not image.segments.sparse:
        return np.array_equal(again, raw)
    pairs = zip(cut(again, image.segments), cut(raw, image.segments), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def _find_encoder(data: bytes, raw: Bytes, image: Image) -> str | None:
    segments = image.segments
    present = np.flatnonzero(segments.stored).tolist()
    stored = [gather(np.frombuffer(data, np.uint8), segments, index) for index in present]
    return find_encoder(cut(raw, segments), stored, image.layout)


def _prove_equivalent(pixels: Pixels, envelope: Envelope, limits: Limits) -> None:
    rebuilt = put_together(pixels, envelope, limits)
    again, _, _ = read_pixels(rebuilt, parse_image(rebuilt, limits))
    if again.dtype != pixels.dtype or again.tobytes() != pixels.tobytes():
        raise unsupported("a compressed layout whose pixels do not come back")


def pack(pixels: Pixels, padding: bytes, layout: Layout) -> Bytes:
    """Turn pixels into decoded segments, predictor applied."""
    return predict(disarrange(pixels, padding, layout), layout)


def put_together(pixels: Pixels, envelope: Envelope, limits: Limits) -> bytes:
    """Build the file of a parsed envelope."""
    skeleton = envelope.skeleton()
    image = parse_image(skeleton.data, limits)
    layout, segments = image.layout, image.segments
    shape = layout.bands, layout.height, layout.width
    if pixels.shape != shape or pixels.dtype.newbyteorder("<") != layout.native:
        raise ImageError(f"pixels {pixels.shape} {pixels.dtype} in an envelope of {shape} {layout.native}")
    if tuple(segments.regions()) != envelope.regions:
        raise ImageError("damaged envelope of an image (its regions are not those of its tags)")
    if layout.scheme in LOSSY:
        layout = replace(layout, scheme=DEFLATE)
    raw = pack(pixels, envelope.padding, layout)
    if segments.sparse:
        _check_sparse(pixels, image)
    if layout.scheme == NONE:
        return _fill(skeleton, raw, image)
    raws = cut(raw, segments)
    encode_all = encoders(layout.scheme).get(envelope.encoder)
    if encode_all is None:
        raise ImageError(f"an envelope whose encoder is unknown here: {envelope.encoder}")
    encoded = list(encode_all(raws, layout))
    if envelope.fidelity == EXACT:
        if [len(e) for e in encoded] == segments.stored[segments.stored > 0].tolist():
            return _place(skeleton, [np.frombuffer(segment, np.uint8) for segment in encoded], segments)
        encoded = list(next(iter(encoders(layout.scheme).values()))(raws, layout))
    return rewrite(skeleton, image.directory, image.layout, segments, encoded)


def _check_sparse(pixels: Pixels, image: Image) -> None:
    """Refuse pixels that differ from the fill value where the file has no segment to hold them."""
    raw = disarrange(pixels, b"", image.layout)
    filled = raw.copy()
    _fill_sparse(filled, image)
    again, _ = arrange(filled, image.layout)
    if again.tobytes() != pixels.tobytes():
        raise damaged("pixels in strips or tiles that the file does not have")


def _fill(skeleton: Bytes, raw: Bytes, image: Image) -> bytes:
    segments = image.segments
    if not segments.sparse and segments.contiguous():
        begin = int(segments.offsets[0])
        skeleton[begin : begin + raw.size] = raw
        return skeleton.tobytes()
    return _place(skeleton, cut(raw, segments), segments)


def _place(skeleton: Bytes, stored: list[Bytes], segments: Segments) -> bytes:
    for begin, segment in zip(segments.offsets[segments.stored > 0].tolist(), stored, strict=True):
        skeleton[begin : begin + segment.size] = segment
    return skeleton.tobytes()
