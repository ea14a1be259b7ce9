"""One TIFF file <-> pixels and envelope: the verbs of this package, and the proof that they are inverses.

A file is taken apart where its layout is known here: pixels out, frame kept. A file of any other layout that GDAL reads
is kept whole beside its pixels. Both ways end in the same envelope.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from vedastore.errors import ImageError
from vedastore.io.isolation import fill_new_memory, with_codecs
from vedastore.io.tiff.codecs import TRUSTED_SCHEMES, cut, encoders, find_encoder
from vedastore.io.tiff.envelope import DECODED, EQUIVALENT, EXACT, Envelope, cut_frame, pack_padding, parse_envelope
from vedastore.io.tiff.georeference import Affine, read_crs, read_transform
from vedastore.io.tiff.image import Bytes, Image, Pixels, check_sparse, pack, parse_image, read_pixels
from vedastore.io.tiff.layout import COMPRESSION, DEFLATE, LOSSY, NODATA, NONE, name_scheme
from vedastore.io.tiff.rewrite import rewrite
from vedastore.io.tiff.segments import Segments, gather
from vedastore.io.tiff.structure import (
    UNSUPPORTED,
    Buffer,
    Directory,
    damaged,
    over_limit,
    read_first_directory,
    unsupported,
)
from vedastore.io.tiff.verbatim import read_verbatim
from vedastore.model import DEFAULT_LIMITS

if TYPE_CHECKING:
    from vedastore.model import Fidelity, Limits

COPY, VERBATIM = "copy", "verbatim"  # the "encoders" of uncompressed files, and of those that are kept whole
TRUSTED_BYTES = 4 * 2**20  # of pixels that may be decoded in this process: larger ones may take their time elsewhere
ROOM = 4  # a file's pixels may fill so many times the bytes that they have in memory: badly compressed, padded


@dataclass(frozen=True, slots=True)
class DecodedTiff:
    """What a TIFF file is.

    Parameters
    ----------
    pixels : array
        First image, (band, y, x), little-endian; may be read-only, and a view of the file's bytes in any order.
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
        directory = read_first_directory(data)
        pixels, envelope = _take_apart(data, directory, limits)
        crs, transform = read_crs(directory), read_transform(directory)
    except MemoryError:
        raise _too_large_for_memory() from None
    return DecodedTiff(
        pixels=pixels,
        envelope=envelope.dump(),
        fidelity=envelope.fidelity,
        crs=crs,
        transform=transform,
        nodata=directory.text(NODATA),
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
        An image above them is put together too where its pixels, which are there already, account for its size.

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
        return _put_together(pixels, parse_envelope(envelope), limits)
    except MemoryError:
        raise _too_large_for_memory() from None


def describe(envelope: bytes, limits: Limits = DEFAULT_LIMITS) -> EnvelopeInfo:
    """Say what an envelope promises."""
    parsed = parse_envelope(envelope)
    directory = read_first_directory(parsed.skeleton(limits.member_bytes).data)
    return EnvelopeInfo(parsed.fidelity, parsed.encoder, name_scheme(directory.integer(COMPRESSION, NONE)))


def read_first_image(data: bytes, limits: Limits = DEFAULT_LIMITS) -> tuple[Directory, Pixels]:
    """Read tags and pixels (band, y, x) of the first image, whatever its layout."""
    directory = read_first_directory(data)
    try:
        return directory, read_pixels(data, parse_image(directory, limits))[0]
    except ImageError as error:
        if error.rule != UNSUPPORTED:
            raise
    return directory, read_verbatim(data, directory, limits)


def _too_large_for_memory() -> ImageError:
    return over_limit("an image larger than the memory", "image_bytes")


def _take_apart(data: bytes, directory: Directory, limits: Limits) -> tuple[Pixels, Envelope]:
    """Cut the file into pixels and frame; where that is not possible, keep it whole.

    NumPy alone touches the pixels of an uncompressed file, decoders that are trusted those of a small one; other codecs
    run in a process that may crash.
    """
    left = None  # what the other process is to take apart; it keeps the file whole else
    try:
        image = parse_image(directory, limits)
        layout = image.layout
        if layout.scheme == NONE or (layout.scheme in TRUSTED_SCHEMES and layout.raw_bytes <= TRUSTED_BYTES):
            return _cut(data, image, limits)
        left = image
    except ImageError as error:
        if error.rule != UNSUPPORTED:
            raise
    return with_codecs(limits, _decode_apart, data, directory, left, limits)


def _decode_apart(data: bytes, directory: Directory, image: Image | None, limits: Limits) -> tuple[Pixels, Envelope]:
    if image is not None:
        try:
            return _cut(data, image, limits)
        except ImageError as error:
            if error.rule != UNSUPPORTED:
                raise
    # A decoder that is not sure gives what was in memory before: other bytes each time.
    fill_new_memory(0x55)
    try:
        pixels = read_verbatim(data, directory, limits)
        envelope = Envelope(EXACT, VERBATIM, len(data), (), data, b"")
        fill_new_memory(0xAA)
        if not _holds(data, pixels, limits):
            raise damaged("GDAL reads other pixels each time")
    finally:
        fill_new_memory(0)
    return pixels, envelope


def _cut(data: bytes, image: Image, limits: Limits) -> tuple[Pixels, Envelope]:
    layout = image.layout
    pixels, padding, raw = read_pixels(data, image)
    frame = cut_frame(data, image.regions)
    envelope = Envelope(EXACT, COPY, len(data), image.regions, frame, pack_padding(padding))
    if layout.scheme in LOSSY:
        envelope = replace(envelope, fidelity=DECODED, encoder=next(iter(encoders(DEFLATE))))
    elif _comes_back(pixels, padding, raw, image):
        encoder = COPY if layout.scheme == NONE else _find_encoder(data, raw, image)
        if encoder:
            return pixels, envelope if encoder == COPY else replace(envelope, encoder=encoder)
        envelope = replace(envelope, fidelity=EQUIVALENT, encoder=next(iter(encoders(layout.scheme))))
    else:
        raise unsupported("samples that do not come back byte for byte")
    _prove_equivalent(pixels, envelope, limits)
    return pixels, envelope


def _comes_back(pixels: Pixels, padding: bytes, raw: Bytes, image: Image) -> bool:
    """Prove that the pixels give the decoded segments again."""
    layout = image.layout
    if not layout.tiled and layout.predictor == 1 and layout.dtype == layout.native:
        return True  # by construction: they are all these samples, as they are, in an order that `pack` undoes
    again = pack(pixels, padding, layout)
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
    rebuilt = _put_together(pixels, envelope, limits)
    again, _, _ = read_pixels(rebuilt, parse_image(read_first_directory(rebuilt), limits))
    if again.dtype != pixels.dtype or again.tobytes() != pixels.tobytes():
        raise unsupported("a compressed layout whose pixels do not come back")


def _put_together(pixels: Pixels, envelope: Envelope, limits: Limits) -> bytes:
    limits = _roomy(limits, pixels.nbytes)
    if envelope.encoder == VERBATIM:
        return _give_whole(pixels, envelope, limits)
    memory = _as_in_memory(pixels)
    if memory is not None and envelope.encoder == COPY and [size for _, size in envelope.regions] == [memory.size]:
        file = envelope.fill(memory)
        image = _parse_fitting(file, pixels, envelope, limits)
        if image.solid and image.layout.scheme == NONE:
            raw = pack(pixels, envelope.padding(image.layout.raw_bytes - pixels.nbytes), image.layout)
            # Where nothing was moved, the file has the pixels already, as they lie in memory.
            return file if np.may_share_memory(raw, memory) else envelope.fill(raw)
    skeleton = envelope.skeleton(max(limits.member_bytes, ROOM * pixels.nbytes))
    image = _parse_fitting(skeleton.data, pixels, envelope, limits)
    layout, segments = image.layout, image.segments
    if layout.scheme in LOSSY:
        layout = replace(layout, scheme=DEFLATE)
    raw = pack(pixels, envelope.padding(layout.raw_bytes - pixels.nbytes), layout)
    if segments.sparse:
        check_sparse(pixels, image)
    if layout.scheme == NONE:
        return _place(skeleton, cut(raw, segments), segments)
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


def _as_in_memory(pixels: Pixels) -> Bytes | None:
    """View the bytes of pixels that lie in one piece, chunky or in planes."""
    for ordered in (pixels, pixels.transpose(1, 2, 0)):
        if ordered.flags.c_contiguous:
            return ordered.reshape(-1).view(np.uint8)
    return None


def _parse_fitting(file: Buffer, pixels: Pixels, envelope: Envelope, limits: Limits) -> Image:
    """Parse a file that is laid out; refuse where its image is not one of these pixels."""
    image = parse_image(read_first_directory(file), limits)
    layout = image.layout
    shape = layout.bands, layout.height, layout.width
    if pixels.shape != shape or pixels.dtype.newbyteorder("<") != layout.native:
        raise ImageError(f"pixels {pixels.shape} {pixels.dtype} in an envelope of {shape} {layout.native}")
    if image.regions != envelope.regions:
        raise ImageError("damaged envelope of an image (its regions are not those of its tags)")
    return image


@lru_cache(maxsize=64)
def _roomy(limits: Limits, pixel_bytes: int) -> Limits:
    """Allow what pixels that were let in need: the limits are for those that only a file speaks of."""
    image_bytes = max(limits.image_bytes, ROOM * pixel_bytes)
    return replace(limits, image_bytes=image_bytes, image_trusted_bytes=image_bytes)


def _give_whole(pixels: Pixels, envelope: Envelope, limits: Limits) -> bytes:
    """Give a file that was kept whole, once it is proved that it still holds these pixels."""
    if envelope.regions or envelope.residue:
        raise ImageError("damaged envelope of an image (a file that is kept whole has no room for pixels)")
    if not _holds(envelope.frame, pixels, limits):
        raise ImageError(f"the pixels {pixels.shape} {pixels.dtype} are not those of the file that is kept with them")
    return envelope.frame


def _holds(data: bytes, pixels: Pixels, limits: Limits) -> bool:
    """Tell whether GDAL reads these pixels from a file."""
    again = with_codecs(limits, read_verbatim, data, read_first_directory(data), limits)
    same = again.dtype == pixels.dtype.newbyteorder("<") and again.shape == pixels.shape
    return same and again.tobytes() == pixels.tobytes()


def _place(skeleton: Bytes, stored: list[Bytes], segments: Segments) -> bytes:
    for begin, segment in zip(segments.offsets[segments.stored > 0].tolist(), stored, strict=True):
        skeleton[begin : begin + segment.size] = segment
    return skeleton.tobytes()
