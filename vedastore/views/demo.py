"""The main job on a release made on the spot: convert, analyse, export, verify."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import StoreError, UsageError
from vedastore.exchange.release import ReleaseWriter
from vedastore.io.files import new_file
from vedastore.io.geometry import apply_affine, dump_wkb, parse_wkb, project
from vedastore.ops.workers import open_executor
from vedastore.spec.geometry import parse_box
from vedastore.spec.places import parse_place
from vedastore.views.stores import convert

if TYPE_CHECKING:
    from vedastore.model import Affine6
    from vedastore.ops.export import ExportReport
    from vedastore.ops.verify import VerifyReport
    from vedastore.views.collection import Collection

CHIPS: Final = 24
SIZE_PX: Final = 256
CRS: Final = "EPSG:32616"
_NAME: Final = "demo-1.0.0"
_COLOURS: Final = {"building": (176, 110, 98), "tree": (38, 92, 44)}


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo did: where its files are, what it measured, what it proved."""

    folder: str
    release: str
    store: str
    band_means: tuple[float, ...]
    class_objects: dict[str, int]
    export: ExportReport
    verify: VerifyReport


def demo(folder: str | None = None) -> DemoReport:
    """Run the main job in a folder, a new temporary one without a name."""
    if folder and parse_place(folder).bucket is not None:
        hint = "name a local directory, and convert the release that is made there to s3://"
        raise UsageError("the demo makes its files on a local disk", where=folder, hint=hint)
    place = Path(folder or mkdtemp(prefix="vedastore-demo-"))
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "name a directory that can be written"
        raise StoreError(f"cannot be made: {error.strerror}", where=str(place), hint=hint) from error
    release, store, back = place / f"{_NAME}.tar.gz", place / f"{_NAME}.zarr", place / f"{_NAME}-back.tar.gz"
    write_release(release)
    collection = convert(release, store)
    means = collection.to_xarray().image.mean(("sample", "y", "x")).compute()
    return DemoReport(
        folder=str(place),
        release=str(release),
        store=str(store),
        band_means=tuple(round(float(m), 2) for m in means),
        class_objects=_count_objects(collection),
        export=collection.export(back),
        verify=collection.verify(against=release),
    )


def _count_objects(collection: Collection) -> dict[str, int]:
    counts: dict[str, int] = collection.features["class"].value_counts().sort_index().to_dict()
    return counts


def write_release(path: Path) -> None:
    """Write a release of made-up aerial chips with buildings and trees: the same bytes whenever it runs."""
    rng = np.random.default_rng(104)
    footprints = []
    with new_file(path) as file, open_executor(workers=1) as executor:
        writer = ReleaseWriter(file, compress=True, executor=executor)
        for number in range(CHIPS):
            column, row = number % 6, number // 6
            transform = (0.5, 0.0, 733_600.0 + column * SIZE_PX / 2, 0.0, -0.5, 3_725_150.0 - row * SIZE_PX / 2)
            pixels, boxes = _draw_chip(rng)
            feature = _label(boxes, transform)
            footprints.append({"type": "Feature", "geometry": feature["geometry"], "properties": {"id": str(number)}})
            writer.add(f"{_NAME}/images/{number}.tif", _geotiff(pixels, transform))
            writer.add(f"{_NAME}/labels/{number}.json", json.dumps(feature).encode())
        x, y = zip(*(point for f in footprints for point in f["geometry"]["coordinates"][0]), strict=True)
        meta = {
            "name": "Demo buildings and trees",
            "version": "1.0.0",
            "mlType": "segmentation",
            "classes": sorted(_COLOURS),
            "nclasses": len(_COLOURS),
            "public": True,
            "source": "made up",
            "bbox": [min(x), min(y), max(x), max(y)],
            "s3_location": None,
            "source_url": None,
        }
        bounds = {"type": "FeatureCollection", "features": footprints}
        writer.add(f"{_NAME}/meta.json", json.dumps(meta).encode())
        writer.add(f"{_NAME}/bounds.geojson", json.dumps(bounds).encode())
        writer.close()


def _draw_chip(rng: np.random.Generator) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], dict[str, list[list[int]]]]:
    """Return pixels (band, y, x) of rough ground with coloured boxes on it, and the boxes of each class, px."""
    ground = rng.normal(0, 1, (3, SIZE_PX, SIZE_PX)).cumsum(1).cumsum(2)
    ground -= ground.min()
    pixels = 70 + 60 * ground / ground.max() + rng.normal(0, 3, ground.shape)
    boxes: dict[str, list[list[int]]] = {}
    for name, colour in _COLOURS.items():
        boxes[name] = []
        for _ in range(int(rng.integers(0, 5))):
            x, y = rng.integers(0, SIZE_PX - 48, 2).tolist()
            width, height = rng.integers(8, 48, 2).tolist()
            pixels[:, y : y + height, x : x + width] = np.array(colour).reshape(3, 1, 1) + rng.normal(
                0, 4, (3, height, width)
            )
            boxes[name].append([x, y, x + width, y + height])
    return pixels.clip(0, 255).astype(np.uint8), boxes


def _label(boxes: dict[str, list[list[int]]], transform: Affine6) -> dict[str, Any]:
    """Return the label file's Feature, with boxes given in pixels as polygons in degrees."""
    import shapely

    everything = [[0, 0, SIZE_PX, SIZE_PX], *(box for found in boxes.values() for box in found)]
    flat = parse_wkb([parse_box(box, "").wkb for box in everything])
    ground = project(apply_affine(flat, [transform] * len(flat)), CRS, "to_lonlat")
    footprint, *objects = [json.loads(text) for text in shapely.to_geojson(parse_wkb(dump_wkb(ground)))]
    rest = iter(objects)
    label = {name: [next(rest) for _ in found] for name, found in boxes.items()}
    return {"type": "Feature", "geometry": footprint, "properties": {"label": label}}


def _geotiff(pixels: np.ndarray[Any, np.dtype[np.uint8]], transform: Affine6) -> bytes:
    from affine import Affine
    from rasterio.io import MemoryFile

    bands, height, width = pixels.shape
    profile = {"driver": "GTiff", "dtype": "uint8", "count": bands, "height": height, "width": width}
    with MemoryFile() as memory:
        with memory.open(**profile, crs=CRS, transform=Affine(*transform)) as file:
            file.write(pixels)
        data: bytes = memory.read()
    return data
