"""Collections and samples as notebooks show them: a few facts and small pictures, nothing that runs."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vedastore.views.sample import Sample

SIDE_PX: Final = 128
SHOWN: Final = 8
"""Samples of a collection that are shown."""
_STRETCH: Final = (2, 98)
_RGB: Final = 3


def sample_page(sample: Sample) -> str:
    """Return HTML that shows a sample."""
    bands, height, width = sample.shape
    facts = {
        "id": sample.id,
        "size": f"{bands} x {height} x {width}",
        "classes": ", ".join(sample.classes) or "none",
        "split": sample.split or "none",
    }
    return f"<div>{_picture(sample)}{_facts(facts)}</div>"


def collection_page(facts: Mapping[str, object], samples: Iterable[Sample]) -> str:
    """Return HTML that tells facts of a collection and shows some of its samples."""
    figures = "".join(
        f'<figure style="display:inline-block;margin:4px">{_picture(sample)}'
        f"<figcaption>{escape(sample.id)}</figcaption></figure>"
        for sample in samples
    )
    return f"<div>{_facts(facts)}<div>{figures}</div></div>"


def _facts(facts: Mapping[str, object]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
    return f"<table>{rows}</table>"


def _picture(sample: Sample) -> str:
    try:
        image = sample.image
    except StoreError as error:
        return f"<p>{escape(str(error))}</p>"
    code = base64.b64encode(thumbnail(image.values, image.attrs.get("_FillValue"))).decode()
    return f'<img alt="{escape(sample.id)}" src="data:image/png;base64,{code}">'


def thumbnail(pixels: np.ndarray[Any, Any], nodata: Any = None) -> bytes:
    """Return a PNG of pixels (band, y, x): red, green and blue of the first three bands, or grey of the first one.

    Every n-th pixel is shown, and values from the 2nd to the 98th percentile from black to white; nodata and what is
    not finite is black.
    """
    import imagecodecs

    step = max(1, -(-max(pixels.shape[1:]) // SIDE_PX))
    shown = pixels[: _RGB if len(pixels) >= _RGB else 1, ::step, ::step]
    grey = np.stack([_stretch(band, nodata) for band in shown])
    picture = np.moveaxis(grey, 0, -1) if len(grey) == _RGB else grey[0]
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(picture)))


def _stretch(band: np.ndarray[Any, Any], nodata: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a band as 0 to 255."""
    shown = np.isfinite(band) if nodata is None else np.isfinite(band) & (band != nodata)
    grey = np.zeros(band.shape, "u1")
    values = (np.abs(band) if band.dtype.kind == "c" else band)[shown].astype("f8")
    if not len(values):
        return grey
    low, high = np.percentile(values, _STRETCH)
    is_flat = not 0 < high - low < np.inf
    grey[shown] = np.where(values > 0, 127, 0) if is_flat else np.clip((values - low) / (high - low), 0, 1) * 255
    return grey
