"""Images of a batch in the form that a model takes: one size for several buckets, a type, a scale, an order of axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import UsageError
from vedastore.spec.arrays import DTYPES
from vedastore.spec.nodata import parse_nodata
from vedastore.store.chips import allocate
from vedastore.views.order import whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vedastore.spec.arrays import ChipSpec
    from vedastore.store.snapshot import Snapshot

Array = np.ndarray[Any, Any]
CHANNELS: Final = ("first", "last")
FITS: Final = ("pad", "crop")
_MOST_PX: Final = 2**20
"""The greatest height or width that images are fitted to."""


@dataclass(frozen=True, slots=True)
class ImageForm:
    """How chips become the images of a batch.

    ``dtype`` is that of the images. ``scale`` is what is taken off each band and what it is divided by then, (band, 1,
    1) each. ``size`` is (height, width) where chips are fitted.
    """

    specs: Mapping[str, ChipSpec]
    channels: str
    dtype: np.dtype[Any]
    scale: tuple[Array, Array] | None
    fit: str | None
    size: tuple[int, int]

    def corner(self, bucket: str) -> tuple[int, int]:
        """Return the row and the column of a chip that become the first ones of the image."""
        if self.fit != "crop":
            return 0, 0
        spec, (height, width) = self.specs[bucket], self.size
        return (spec.height - height) // 2, (spec.width - width) // 2

    def paste(self, out: Array, here: Array, chips: Array, bucket: str) -> None:
        """Put chips (sample, ..., y, x) of a bucket into their places among images (sample, ..., y, x)."""
        (top, left), (height, width) = self.corner(bucket), self.size
        part = chips[..., top : top + height, left : left + width]
        out[here, ..., : part.shape[-2], : part.shape[-1]] = part

    def convert(self, images: Array) -> Array:
        """Return images (sample, band, y, x) of a bucket's type in the type, scale and order of axes of a batch."""
        with np.errstate(over="ignore", invalid="ignore"):  # what the type does not hold is infinite in it
            if self.scale is not None:
                (offset, divisor), kind = self.scale, _wide(self.dtype)
                if offset.any():
                    images = np.subtract(images, offset, dtype=kind, casting="same_kind")
                images = np.divide(images, divisor, dtype=kind, casting="same_kind")
            images = images.astype(self.dtype, copy=False)
        return images if self.channels == "first" else images.transpose(0, 2, 3, 1)


def plan_images(
    specs: Mapping[str, ChipSpec], *, channels: Any, dtype: Any, scale: Any, fit: Any, size_px: Any
) -> ImageForm:
    """Say how chips of some buckets become images; see ``Collection.batches``.

    Raises
    ------
    UsageError
        When the buckets do not fit together, or an argument makes no sense for them.
    """
    first = next(iter(specs.values()))
    if channels not in CHANNELS:
        raise UsageError(f"channels is {channels!r:.80}", hint=f"give one of {', '.join(CHANNELS)}")
    kind, factors = _plan_values(first, dtype, scale)
    size = _plan_size(specs, fit, size_px) if fit is not None or size_px is not None else (first.height, first.width)
    return ImageForm(specs, channels, kind, factors, fit, size)


def _plan_size(specs: Mapping[str, ChipSpec], fit: Any, size_px: Any) -> tuple[int, int]:
    if fit not in FITS:
        raise UsageError(f"fit is {fit!r:.80}", hint=f"give one of {', '.join(FITS)}, and size_px=")
    if not isinstance(size_px, list | tuple) or len(size_px) != 2:  # noqa: PLR2004
        raise UsageError(f"size_px is {size_px!r:.80}", hint="give the (height, width) that images are to have")
    height, width = (whole(side, "a side of size_px", least=1, most=_MOST_PX) for side in size_px)
    if len({(spec.dtype, spec.bands) for spec in specs.values()}) > 1:
        hint = f"name one with bucket=: {', '.join(specs)}"
        raise UsageError("the samples are of several types or numbers of bands, which no fit makes one", hint=hint)
    for name, spec in specs.items():
        beyond = (height - spec.height, width - spec.width)
        if (min(beyond) < 0) if fit == "pad" else (max(beyond) > 0):
            told = "larger" if fit == "pad" else "smaller"
            hint = f'give another size_px=, take fit="{"crop" if fit == "pad" else "pad"}", or name a bucket'
            raise UsageError(f"chips of the bucket {name} are {told} than {height} x {width}", hint=hint)
    return height, width


def _plan_values(spec: ChipSpec, dtype: Any, scale: Any) -> tuple[np.dtype[Any], tuple[Array, Array] | None]:
    """Return the type of images, and what is taken off and divided by."""
    source = np.dtype(spec.dtype)
    name = ("float32" if scale is not None else spec.dtype) if dtype is None else _name_of(dtype)
    if name not in DTYPES:
        raise UsageError(f"dtype is {dtype!r:.80}", hint=f"give one of {', '.join(DTYPES)}")
    kind = np.dtype(name)
    if scale is None:
        if not np.can_cast(source, kind, "safe"):
            hint = "take a wider one; with scale=(0, 1) values are rounded to a type of floats"
            raise UsageError(f"{name} does not hold every value of {spec.dtype}", hint=hint)
        return kind, None
    if kind.kind not in "fc" or not np.can_cast(source, kind, "same_kind"):
        raise UsageError(f"scaled {spec.dtype} is no {name}", hint="give a type of floats")
    if isinstance(scale, str) and scale == "max":
        if source.kind not in "iu":
            raise UsageError(f"{spec.dtype} has no greatest value to divide by", hint="give (offset, divisor)")
        scale = (0, np.iinfo(source).max)
    real = _wide(kind).type(0).real.dtype
    try:
        with np.errstate(over="ignore"):
            offset, divisor = (np.asarray(part, "f8").astype(real) for part in scale)
    except (TypeError, ValueError, OverflowError):
        offset = divisor = np.zeros(0)
    sound = all(part.shape in {(), (spec.bands,)} and np.isfinite(part).all() for part in (offset, divisor))
    if not sound or not divisor.all():
        hint = f'give "max", or (offset, divisor): numbers, or {spec.bands} of them, one for each band; no divisor is 0'
        raise UsageError(f"scale is {scale!r:.80}", hint=hint)
    return kind, (offset.reshape(-1, 1, 1), divisor.reshape(-1, 1, 1))


def _wide(kind: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that a scale is computed in: not float16, which holds not even every value of uint16."""
    return np.promote_types(kind, "float32")


def _name_of(dtype: Any) -> str:
    return dtype.__name__ if isinstance(dtype, type) else str(dtype)


def read_images(snapshot: Snapshot, form: ImageForm, part: Any) -> Array:
    """Read the pixels of rows of the index, in a form."""
    rows, names = part.column("row").to_numpy(), part.column("bucket").to_pylist()
    if form.fit is None:
        return form.convert(snapshot.chips(next(iter(form.specs))).read_rows(rows))
    spec = next(iter(form.specs.values()))
    fitted = type(spec)(spec.dtype, spec.bands, *form.size, spec.codec)
    images = allocate(fitted, len(rows), snapshot.objects.url)
    if form.fit == "pad":
        images[:] = _fills(part.column("nodata").to_pylist(), spec.dtype)
    for bucket, here in by_bucket(names):
        form.paste(images, here, snapshot.chips(bucket).read_rows(rows[here]), bucket)
    return form.convert(images)


def by_bucket(names: Sequence[str]) -> Iterator[tuple[str, Array]]:
    """Yield each bucket that occurs, and where."""
    found = np.array(names, dtype=object)
    for name in dict.fromkeys(names):
        yield name, np.flatnonzero(found == name)


def _fills(nodata: Sequence[str | None], dtype: str) -> Array:
    """Return what fills the room around each sample, (sample, 1, 1, 1): its nodata, or 0 where its type has none."""
    found = {text: parse_nodata(text, dtype) for text in set(nodata)}
    return np.array([0 if found[text] is None else found[text] for text in nodata], dtype).reshape(-1, 1, 1, 1)
