"""One sample of a collection."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.errors import LabelError, StoreError, escape
from vedastore.io import geometry
from vedastore.io.geojson import parse_json
from vedastore.views.dataset import parse_nodata, write_crs

if TYPE_CHECKING:
    import xarray as xr
    from shapely.geometry.base import BaseGeometry

    from vedastore.model import Limits
    from vedastore.store.snapshot import Snapshot

COLUMNS = ("id", "bucket", "row", "geometry", "crs", "transform", "nodata", "split", "classes", "position")


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
        self.id: str = row["id"]
        self.position: int = row["position"]
        self.classes: tuple[str, ...] = tuple(row["classes"])
        self.split: str | None = row["split"]

    def __repr__(self) -> str:
        spec = self._snapshot.version.buckets[self._row["bucket"]].spec
        shape = f"{spec.bands} x {spec.height} x {spec.width} {spec.dtype}"
        return f"<vedastore.Sample {self.id!r}: {shape}, {escape(', '.join(self.classes)) or 'no class'}>"

    @cached_property
    def image(self) -> xr.DataArray:
        """The pixels (band, y, x), with the CRS, transform and nodata of the TIFF under ``.rio``.

        Where the TIFF has no georeferencing of its own, CRS and transform are those of the footprint; where there is no
        footprint either, it has neither.
        """
        import rioxarray  # noqa: F401 - registers .rio
        import xarray as xr
        from affine import Affine

        row = self._row
        pixels = self._snapshot.chips(row["bucket"]).read(row["row"])
        image: xr.DataArray = xr.DataArray(
            pixels, dims=("band", "y", "x"), coords={"band": np.arange(1, len(pixels) + 1)}, name="image"
        )
        nodata = parse_nodata(row["nodata"], str(pixels.dtype))
        if nodata is not None:
            image = image.rio.write_nodata(nodata)
        image = write_crs(image, row["crs"], self._snapshot.objects.url)
        if row["transform"] is not None:
            transform = Affine(*row["transform"])
            if transform.b == transform.d == 0:
                x = transform.c + (np.arange(image.sizes["x"]) + 0.5) * transform.a
                y = transform.f + (np.arange(image.sizes["y"]) + 0.5) * transform.e
                image = image.assign_coords(x=("x", x), y=("y", y))
            image = image.rio.write_transform(transform)
        return image

    @cached_property
    def feature(self) -> dict[str, Any]:
        """The label file: a GeoJSON Feature, as it was in the release."""
        where = f"{self._snapshot.objects.url}: label of {self.id!r}"
        document = read_json(self._snapshot.read_label(self.position), where, self._snapshot.version.limits)
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
    def geometry(self) -> BaseGeometry | None:
        """The footprint in longitude and latitude; None where the sample is not georeferenced."""
        shape: BaseGeometry | None = geometry.parse_wkb([self._row["geometry"]])[0]
        return shape

    @property
    def __geo_interface__(self) -> dict[str, Any]:
        return self.feature


def read_json(data: bytes, where: str, limits: Limits) -> Any:
    """Return what a JSON file of a version says.

    Raises
    ------
    StoreError
        When it is not JSON, or above the limits that the release was converted with.
    """
    try:
        return parse_json(data, where, limits)
    except LabelError as error:
        raise StoreError(f"the file is damaged: {error.message}", where=error.where) from None
