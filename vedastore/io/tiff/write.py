"""A new GeoTIFF, written by GDAL: one that no release had before."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from vedastore.errors import UsageError

if TYPE_CHECKING:
    import numpy as np


def dump_geotiff(pixels: np.ndarray[Any, Any], crs: str | None, transform: Any, nodata: Any) -> bytes:
    """Return an uncompressed GeoTIFF of pixels (band, y, x), with what is known of where it lies.

    Raises
    ------
    UsageError
        When GDAL has no such type.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    bands, height, width = pixels.shape
    try:
        with warnings.catch_warnings(), rasterio.io.MemoryFile() as memory:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            profile = {"dtype": pixels.dtype.name, "count": bands, "height": height, "width": width, "nodata": nodata}
            with memory.open(driver="GTiff", crs=crs, transform=transform, **profile) as file:
                file.write(pixels)
            data: bytes = memory.read()
    except (RasterioError, TypeError, ValueError) as error:
        raise UsageError(f"no TIFF can be made of the image: {error}", hint="give the bytes of a TIFF") from None
    return data
