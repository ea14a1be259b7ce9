"""One sample of a collection."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import StoreError, escape
from vedastore.io import geometry
from vedastore.ops.rebuild import rebuild
from vedastore.spec.arrays import DIMENSIONS
from vedastore.spec.nodata import parse_nodata
from vedastore.store.snapshot import read_json
from vedastore.views.dataset import write_crs
from vedastore.views.html import sample_page
from vedastore.views.objects import Boxes, draw_masks, plan_drawing, require_objects

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import xarray as xr
    from shapely.geometry.base import BaseGeometry

    from vedastore.store.snapshot import Snapshot

COLUMNS = ("id", "bucket", "row", "geometry", "crs", "transform", "nodata", "split", "classes", "position")
PATTERNS_KEPT: Final = 256
"""Kinds of images whose description is remembered: bands, data type, nodata and CRS."""


class Sample:
    """One image with its label; nothing but its row of the index is read before it is asked for.

    Attributes
    ----------
    id : str
        The base name of its two files.
    position : int
        Its place in the release, by the order of images.
    classes : tuple of str
        The classes that it has, in alphabetical order.
    split : str or None
        The split that it belongs to.
    """

    def __init__(self, snapshot: Snapshot, row: dict[str, Any]) -> None:
        self._snapshot, self._row = snapshot, row
        self._label: bytes | None = None
        self.id: str = row["id"]
        self.position: int = row["position"]
        self.classes: tuple[str, ...] = tuple(row["classes"])
        self.split: str | None = row["split"]

    def __repr__(self) -> str:
        shape = f"{' x '.join(map(str, self.shape))} {self._snapshot.version.buckets[self._row['bucket']].spec.dtype}"
        return f"<vedastore.Sample {self.id!r}: {shape}, {escape(', '.join(self.classes)) or 'no class'}>"

    def _repr_html_(self) -> str:
        return sample_page(self)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, height and width of its image, without reading it."""
        return self._snapshot.version.buckets[self._row["bucket"]].spec.shape

    def keep_label(self, data: bytes) -> None:
        """Take the bytes of the label file from whoever has read them already."""
        self._label = data

    @property
    def pixels(self) -> np.ndarray[Any, Any]:
        """The pixels alone, (band, y, x) as NumPy; read anew each time, for loops that need nothing else."""
        return self._snapshot.chips(self._row["bucket"]).read(self._row["row"])

    def read_files(self) -> tuple[bytes, bytes]:
        """Return its image file and its label file, as an export has them."""
        (image,) = rebuild(self._snapshot, self._snapshot.read_images([self.position]))
        if image.problem is not None:
            raise image.problem
        return image.data, self._label if self._label is not None else self._snapshot.read_label(self.position)

    @cached_property
    def image(self) -> xr.DataArray:
        """The pixels (band, y, x), with CRS, transform and nodata under ``.rio``.

        CRS and transform are those of the TIFF, or of the footprint where it has none; without a footprint, the image
        has neither.
        """
        row, transform = self._row, self._row["transform"]
        pixels = self.pixels
        kind = (len(pixels), pixels.dtype.name, row["nodata"], row["crs"])
        pattern = _pattern(*kind, self._snapshot.objects.url, georeferenced=transform is not None)
        return _build_image(pixels, transform, pattern)

    @cached_property
    def feature(self) -> dict[str, Any]:
        """The label file: a GeoJSON Feature, as it was in the release."""
        where = f"{self._snapshot.objects.url}: label of {self.id!r}"
        data = self._label if self._label is not None else self._snapshot.read_label(self.position)
        document = read_json(data, where, self._snapshot.version.limits)
        if not isinstance(document, dict):
            raise StoreError("the label is damaged: it is no GeoJSON Feature", where=where)
        return document

    @property
    def label(self) -> Any:
        """The label as the release's options found it: ``{class: value}`` or a class."""
        properties = self.feature.get("properties") or self.feature.get("Properties")
        options = self._snapshot.version.label_options
        value = properties.get(options.label_field or "label") if isinstance(properties, dict) else None
        return options.default_label if value is None else value

    @cached_property
    def boxes(self) -> list[np.ndarray[Any, Any]]:
        """The boxes around its objects: one array (box, 4) for each class of the collection, in alphabetical order.

        ``[minx, miny, maxx, maxy]``, pixels from the corner of the first one.

        Raises
        ------
        UsageError
            For classification, and where an object has no place in pixels.
        """
        positions = np.array([self.position])
        require_objects(self._snapshot, positions)
        found: list[np.ndarray[Any, Any]] = Boxes(self._snapshot, positions, clip=False)[0]
        return found

    @cached_property
    def mask(self) -> xr.DataArray:
        """The class of each pixel (y, x) as ``Collection.masks`` draws it, with the image's georeferencing.

        Raises
        ------
        UsageError
            For classification, and where an object has no place in pixels.
        """
        positions, version = np.array([self.position]), self._snapshot.version
        require_objects(self._snapshot, positions)
        spec = version.buckets[self._row["bucket"]].spec
        drawing = plan_drawing(version.classes, (spec.height, spec.width), 0, instances=False, scale=1.0, order=None)
        mask = draw_masks(positions, self._snapshot, drawing)
        pattern = _pattern(
            1, drawing.dtype, None, self._row["crs"], self._snapshot.objects.url,
            georeferenced=self._row["transform"] is not None,
        )  # fmt: skip
        return _build_image(mask, self._row["transform"], pattern).isel(band=0, drop=True).rename("mask")

    @cached_property
    def geometry(self) -> BaseGeometry | None:
        """The footprint in longitude and latitude; None where the sample is not georeferenced."""
        shape: BaseGeometry | None = geometry.parse_wkb([self._row["geometry"]])[0]
        return shape

    @property
    def __geo_interface__(self) -> dict[str, Any]:
        return self.feature


@lru_cache(maxsize=PATTERNS_KEPT)
def _pattern(
    bands: int, dtype: str, nodata: str | None, crs: str | None, where: str, *, georeferenced: bool
) -> xr.DataArray:
    """Return an image of one pixel as rioxarray describes it: that takes 3 ms, and a collection has few of them."""
    import rioxarray  # noqa: F401 - registers .rio
    import xarray as xr
    from affine import Affine

    pixels, numbers = np.empty((bands, 1, 1), dtype), np.arange(1, bands + 1)
    pattern: xr.DataArray = xr.DataArray(pixels, {"band": numbers}, DIMENSIONS[1:], name="image")
    value = parse_nodata(nodata, dtype)
    if value is not None:
        pattern = pattern.rio.write_nodata(value)
    pattern = write_crs(pattern, crs, where)
    return pattern.rio.write_transform(Affine.identity()) if georeferenced else pattern


def _build_image(
    pixels: np.ndarray[Any, Any], transform: Sequence[float] | None, pattern: xr.DataArray
) -> xr.DataArray:
    """Return pixels (band, y, x) with all that a pattern says, and with their own transform (a to f)."""
    import pandas as pd
    import xarray as xr
    from xarray.indexes import PandasIndex

    coords = {name: variable.copy(deep=False) for name, variable in pattern.coords.variables.items()}
    indexes: dict[Hashable, Any] = dict(pattern.xindexes)
    if transform is not None:
        a, b, c, d, e, f = transform
        coords["spatial_ref"].attrs["GeoTransform"] = " ".join(map(str, (c, a, b, f, d, e)))
        if b == d == 0:
            x, y = c + (np.arange(pixels.shape[2]) + 0.5) * a, f + (np.arange(pixels.shape[1]) + 0.5) * e
            for name, values in (("x", x), ("y", y)):
                index = indexes[name] = PandasIndex(pd.Index(values, name=name), name)
                coords |= index.create_variables()
    variable = xr.Variable(DIMENSIONS[1:], pixels, dict(pattern.attrs), dict(pattern.encoding))
    # The plain constructor copies every coordinate deeply: 0.2 ms, longer than it takes to read the pixels.
    return xr.DataArray(variable, coords, name=pattern.name, indexes=indexes, fastpath=True)
