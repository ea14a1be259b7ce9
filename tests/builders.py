"""Releases and stores for the tests, and the one check that follows every write."""

import gzip
import io
import json
import shutil
import subprocess
import tarfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
import tifffile
import zarr
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

import vedastore as vs
from vedastore.spec import keys

SHARED = Path(__file__).resolve().parents[2] / "shared"
AUSTIN = SHARED / "data" / "veda-austin-classification-1.0.0.tar.gz"
ATLANTA = SHARED / "data" / "spacenet-atlanta-segmentation-1.0.0.tar.gz"
needs_real_data = pytest.mark.skipif(not AUSTIN.exists(), reason="the real releases are not on this machine")

TASKS = ("classification", "object_detection", "segmentation")
UTM = "EPSG:32616"


def pixels_of(shape=(3, 32, 40), dtype="uint8", seed=0):
    """Smooth random pixels (band, y, x)."""
    rng = np.random.default_rng([seed, *shape])
    field_ = rng.normal(0, 1, shape).cumsum(1).cumsum(2)
    field_ = (field_ - field_.min()) / max(float(np.ptp(field_)), 1e-9)
    kind = np.dtype(dtype)
    top = min(np.iinfo(kind).max, 4000) if kind.kind in "iu" else 1.0
    return (field_ * top).astype(kind)


def geotiff(pixels, transform=None, crs=UTM, **profile):
    """One GeoTIFF, written by GDAL."""
    bands, height, width = pixels.shape
    place = {"crs": crs, "transform": Affine(*(transform or (0.5, 0, 733_600, 0, -0.5, 3_725_150)))}
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", dtype=pixels.dtype, count=bands, height=height, width=width, **place, **profile
        ) as f:
            f.write(pixels)
        return memory.read()


def plain_tiff(pixels, **options):
    """One TIFF without georeferencing, written by tifffile."""
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, np.moveaxis(pixels, 0, -1), photometric="rgb" if len(pixels) == 3 else "minisblack", **options
    )
    return buffer.getvalue()


def read_tiff(data):
    """The referee's pixels (band, y, x) of the first image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return _read(data)


def _read(data):
    with MemoryFile(data) as memory, memory.open(driver="GTiff") as file:
        return file.read()


def footprint_of(transform, height, width, crs=UTM):
    """The corners of an image as a GeoJSON polygon in degrees."""
    to_lonlat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    corners = [Affine(*transform) * c for c in ((0, 0), (width, 0), (width, height), (0, height), (0, 0))]
    return {"type": "Polygon", "coordinates": [[list(to_lonlat.transform(x, y)) for x, y in corners]]}


@dataclass
class Sample:
    """One pair to be packed: an id, the bytes of its image, its Feature."""

    id: str
    image: bytes
    feature: dict
    suffixes: tuple = (".tif", ".json")

    def label_bytes(self):
        return json.dumps(self.feature).encode()


@dataclass
class Release:
    """Members of a release in order; packed in any of the ways that are accepted."""

    members: dict = field(default_factory=dict)
    top: str = "ts_104-1.0.1"

    @property
    def pairs(self):
        return {n: d for n, d in self.members.items() if "/images/" in f"/{n}" or "/labels/" in f"/{n}"}

    def images(self):
        """The bytes of every image file by id."""
        return {
            Path(n).stem: d
            for n, d in self.members.items()
            if "/images/" in f"/{n}" and Path(n).suffix in {".tif", ".TIFF"}
        }

    def tar_bytes(self, tar_format=tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
            for name, data in self.members.items():
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(data), 1_559_340_000
                archive.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    def tar_gz(self, path):
        path.write_bytes(gzip.compress(self.tar_bytes(), mtime=0))
        return path

    def tar(self, path):
        path.write_bytes(self.tar_bytes())
        return path

    def multi_member(self, path, parts=5):
        data = self.tar_bytes()
        step = -(-len(data) // parts)
        path.write_bytes(b"".join(gzip.compress(data[i : i + step]) for i in range(0, len(data), step)))
        return path

    def directory(self, folder):
        for name, data in self.members.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return folder / self.top

    def pack(self, kind, tmp_path):
        """Pack as ``tar_gz``, ``tgz``, ``tar``, ``multi_member`` or ``directory``."""
        suffix = {"tar": ".tar", "tgz": ".tgz"}.get(kind, ".tar.gz")
        if kind == "directory":
            return self.directory(tmp_path / "extracted")
        return getattr(self, "tar_gz" if kind == "tgz" else kind)(tmp_path / f"{kind}{suffix}")


def label_of(task, coords, transform, *, height, width, rng, crs=UTM):
    """A label of a task: 0/1 values, boxes as polygons, or polygons with more corners."""
    to_lonlat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    label = {}
    for name in ("boat", "building", "car"):
        rings = []
        for _ in range(int(rng.integers(0, 3))):
            x, y = rng.uniform(2, width - 12), rng.uniform(2, height - 12)
            ring = [(x, y), (x + 8, y), (x + 8, y + 6), (x, y + 6), (x, y)]
            if task == "segmentation":
                ring.insert(1, (x + 4, y - 1.5))
            if coords == "geographic":
                ring = [to_lonlat.transform(*(Affine(*transform) * p)) for p in ring]
            rings.append([list(p) for p in ring])
        label[name] = (
            int(bool(rings)) if task == "classification" else [{"type": "Polygon", "coordinates": [r]} for r in rings]
        )
    return label


def make_release(
    samples=3, *, task="segmentation", coords="geographic", georeferenced=True, footprints=True, top="ts_104-1.0.1",
    meta=True, order="paired", shape=(3, 32, 40), dtype="uint8", seed=0, **profile,
):  # fmt: skip
    """A release of small chips; with ``georeferenced=False`` the TIFFs have no georeferencing of their own."""
    rng = np.random.default_rng(seed)
    prefix = f"{top}/" if top else ""
    pairs = []
    for number in range(samples):
        transform = (0.5, 0, 733_600 + 100 * number, 0, -0.5, 3_725_150)
        pixels = pixels_of(shape, dtype, seed=seed * 1000 + number)
        image = geotiff(pixels, transform, **profile) if georeferenced else plain_tiff(pixels, **profile)
        place = coords if footprints else "pixel"
        label = label_of(task, place, transform, height=shape[1], width=shape[2], rng=rng)
        geometry = footprint_of(transform, *shape[1:]) if footprints else {}
        feature = {
            "type": "Feature",
            "geometry": geometry,
            "properties": {"label": label, "id": str(number), "big": 2**70},
        }
        pairs.append(
            (f"{prefix}images/{number}.tif", image, f"{prefix}labels/{number}.json", json.dumps(feature).encode())
        )
    images, labels = {i: d for i, d, _, _ in pairs}, {n: d for _, _, n, d in pairs}
    members = {
        "paired": {k: v for i, d, n, b in pairs for k, v in ((i, d), (n, b))},
        "images_first": images | labels,
        "labels_first": labels | images,
        "labels_reversed": images | dict(reversed(labels.items())),
    }[order]
    if meta:
        document = {"name": "Harbours", "version": "1.0.1", "mlType": task, "classes": ["boat", "building", "car"],
                    "nclasses": 3, "public": True, "extra": [1, {"a": None}]}  # fmt: skip
        found = [json.loads(d) for d in labels.values()]
        bounds = {
            "type": "FeatureCollection",
            "features": [{"type": "Feature", "geometry": f["geometry"]} for f in found],
        }
        members = {f"{prefix}meta.json": json.dumps(document).encode()} | members
        members[f"{prefix}bounds.geojson"] = json.dumps(bounds).encode()
    return Release(members, top)


def objects_of(store):
    """All objects of a store by key; the root and its copy without the time of their commit, and their checksum."""
    found = {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    roots = {key: json.loads(data) for key, data in found.items() if key == keys.ROOT or keys.parse_root_copy(key)}
    assert len(roots) == 2
    for root in roots.values():
        del root["attributes"]["vedastore"]["checksum"]
        for version in root["attributes"]["vedastore"]["versions"]:
            del version["created"]
    return found | roots


def gnu_tar_members(archive, folder):
    """What GNU tar and gzip make of an archive: names in order, and the bytes of every file."""
    subprocess.run(["gzip", "-t", archive], check=True, capture_output=True) if archive.suffix != ".tar" else None
    listed = subprocess.run(["tar", "-tf", archive], check=True, capture_output=True, text=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    extracted = subprocess.run(["tar", "-xf", archive, "-C", folder], check=True, capture_output=True, text=True)
    assert not listed.stderr
    assert not extracted.stderr
    return {n: (folder / n).read_bytes() if (folder / n).is_file() else None for n in listed.stdout.splitlines()}


def read_index(store, version):
    """The tables of a version as geopandas reads them: where it has parts, each row of the youngest one that has it."""
    parts = [version["index"], *version.get("parts", [])]
    tables = [{n: geopandas.read_parquet(store / part[n]["key"]) for n in ("samples", "features")} for part in parts]
    if len(parts) == 1:
        return tables[0]["samples"], tables[0]["features"]
    owner = {}
    for number, (part, table) in enumerate(zip(parts, tables, strict=True)):
        owner |= dict.fromkeys(table["samples"].position, number)
        if part.get("removed"):
            for slot in pd.read_parquet(store / part["removed"]["key"]).position:
                del owner[slot]
    slots = {slot: position for position, slot in enumerate(sorted(owner))}
    found = []
    for name in ("samples", "features"):
        kept = [t[name][t[name].position.map(owner.get) == number] for number, t in enumerate(tables)]
        merged = pd.concat([t for t in kept if len(t)] or kept[:1]).sort_values("position", kind="stable")
        found.append(merged.assign(position=merged.position.map(slots)).reset_index(drop=True))
    return found


def assert_store_ok(store, release=None, *, identical=True):
    """Check a store with every referee there is; with a release, that it comes back member by member.

    zarr reads the pixels, geopandas the index, rasterio the exported images, GNU tar the exported archive.
    """
    store = Path(store)
    collection = vs.open(store)
    report = collection.verify()
    assert report.ok, report.problems
    assert report.samples == len(collection) == report.byte_identical + report.equivalent

    version = json.loads((store / "zarr.json").read_bytes())["attributes"]["vedastore"]["versions"][-1]
    group = zarr.open_group(store, mode="r")
    samples, features = read_index(store, version)
    assert samples["position"].tolist() == list(range(len(collection)))
    assert samples["objects"].sum() == len(features) == version["features"]
    assert samples["id"].is_unique
    arrays = {name: group[f"chips/{name}/image"] for name in version["buckets"]}
    assert {name: a.shape[0] for name, a in arrays.items()} == {n: b["rows"] for n, b in version["buckets"].items()}
    assert not {p.name for p in store.iterdir()} - {"zarr.json", "chips", "index"}

    exported = store.with_name(f"{store.name}-export.tar.gz")
    exported.unlink(missing_ok=True)
    written = collection.export(exported)
    found = gnu_tar_members(exported, store.with_name(f"{store.name}-export"))
    assert written.members == len(found)
    for row in samples.itertuples():
        pixels = arrays[row.bucket][row.row]
        image = found[row.image_member]
        np.testing.assert_array_equal(pixels, read_tiff(image))
        np.testing.assert_array_equal(pixels, collection[row.position].image.values)
        assert found[row.label_member] == row.label
    for row in features.itertuples():
        if row.geometry is not None:
            assert shapely.is_valid_reason(row.geometry)
    if release is not None:
        assert list(found) == list(release.members)
        different = [n for n, d in release.members.items() if found[n] != d]
        assert not different if identical else all("/images/" in f"/{n}" for n in different)
        assert written.identical == len(found) - len(different)
    return collection


def rasterio_georeference(data):
    """(crs, transform, nodata) as rasterio tells them."""
    with MemoryFile(data) as memory, memory.open(driver="GTiff") as file:
        return file.crs, file.transform, file.nodata
