"""Made ``format-1``: stores of format 1, and what every version of them holds. It is data: nothing makes it again.

It stands here to tell how the stores came about. A later vedastore would make stores of another format with it.
"""

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import tifffile

import vedastore as vs
from tests.builders import Release, footprint_of, geotiff, label_of, plain_tiff

TOP = "harbours-1.0.1"
SAMPLE = ("id", "bucket", "row", "crs", "split", "classes", "objects", "flags", "fidelity", "image_member")
OBJECT = ("id", "class", "ordinal", "geometry_px", "area_px")


def blocks(bands, dtype, seed):
    """Pixels (band, y, x) that take little room: squares of 32 x 32 pixels of one value each."""
    top = 255 if dtype == "uint8" else 4000
    values = np.random.default_rng(seed).integers(0, top, (bands, 8, 8))
    return values.repeat(32, 1).repeat(32, 2).astype(dtype)


def bits(seed):
    """A TIFF of one bit a sample, which is kept whole."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, blocks(1, "uint8", seed)[0] > 100)
    return buffer.getvalue()


def images():
    """Images of many kinds by id, and their transforms; no transform where they are not georeferenced."""
    places = [(0.5, 0, 733_600 + 150 * n, 0, -0.5, 3_725_150) for n in range(6)]
    return {
        "1": (geotiff(blocks(3, "uint8", 1), places[0], nodata=0), places[0]),
        "2": (geotiff(blocks(3, "uint8", 2), places[1], tiled=True, interleave="band"), places[1]),
        "3": (geotiff(blocks(3, "uint8", 3), places[2], compress="deflate", predictor=2), places[2]),
        "4": (geotiff(blocks(1, "uint16", 4), places[3]), places[3]),
        "5": (geotiff(blocks(2, "uint16", 5), places[4], ENDIANNESS="BIG", BIGTIFF="YES"), places[4]),
        "6": (bits(6), None),
        "Zürich.7": (plain_tiff(blocks(3, "uint8", 7), compression="lzw"), places[5]),
        "8": (b"no TIFF", None),
    }


def make_release(task, coords, chosen):
    rng = np.random.default_rng(7)
    features = {}
    for name, (_, place) in chosen.items():
        shape = {"height": 256, "width": 256, "rng": rng}
        label = label_of(task, coords if place else "pixel", place, **shape)
        geometry = footprint_of(place, 256, 256) if place else {}
        properties = {"label": label, "id": name, "big": 2**70}
        features[name] = {"type": "Feature", "geometry": geometry, "properties": properties}
    meta = {
        "name": "Harbours",
        "version": "1.0.1",
        "mlType": task,
        "classes": ["boat", "building", "car"],
        "nclasses": 3,
    }
    places = [{"type": "Feature", "geometry": f["geometry"]} for f in features.values() if f["geometry"]]
    members = {
        "meta.json": json.dumps(meta).encode(),
        "README": b"Harbours from above\n",
        "images/._1.tif": b"\x00\x05\x16\x07",
        **{f"images/{name}.tif": data for name, (data, _) in chosen.items()},
        **{f"labels/{name}.json": json.dumps(f, ensure_ascii=False).encode() for name, f in reversed(features.items())},
        "bounds.geojson": json.dumps({"type": "FeatureCollection", "features": places}).encode(),
        "labels/nobody.json": b'{"type": "Feature", "geometry": {}, "properties": {"label": {}}}',
    }
    return Release({f"{TOP}/{name}": data for name, data in members.items()}, TOP)


def describe(store, scratch):
    """What every version holds: members of its export, pixels, samples and objects, and what was left out."""
    found = {}
    for name in vs.open(store).versions:
        collection = vs.open(store, name)
        report = collection.export(scratch / "out.tar", overwrite=True)
        with tarfile.open(scratch / "out.tar") as archive:
            members = {m.name: hashlib.sha256(archive.extractfile(m).read()).hexdigest() for m in archive}
        samples = collection.samples[[*SAMPLE, *collection.columns]]
        found[name] = {
            "archive": hashlib.sha256((scratch / "out.tar").read_bytes()).hexdigest(),
            "identical": report.identical,
            "members": members,
            "pixels": {s.id: hashlib.sha256(s.image.values.tobytes()).hexdigest() for s in collection},
            "samples": json.loads(samples.to_json(orient="records")),
            "footprints": [None if g is None else g.wkt for g in collection.samples.geometry],
            "features": [" ".join(map(str, f)) for f in collection.features[[*OBJECT]].itertuples(index=False)],
            "skipped": [entry["id"] for entry in collection._snapshot.version.skipped],
        }
    return found


def main(folder, scratch):
    folder.mkdir()
    os.chdir(scratch)
    chosen = images()
    few = {name: chosen[name] for name in ("1", "3")}
    for task, coords, used in (
        ("segmentation", "geographic", chosen),
        ("object_detection", "pixel", few),
        ("classification", "pixel", few),
    ):
        store, options = folder / f"{task}.zarr", {"on_error": "skip"}
        source = make_release(task, coords, used).tar_gz(
            Path(f"{task}.tar.gz")
        )  # a store tells the path that was given
        collection = vs.convert(source, store, codec="compact" if task == "classification" else "default", **options)
        if task == "segmentation":
            collection = collection.split(train=50, test=30, validate=20, seed=1)
            some = collection.select(ids=["1", "4", "6"])
            some.assign(cloud=[0.25, 0.5, float("nan")], seen=[True, False, True], note=["a", None, "ü"])
            vs.open(store, "1.0.1").stats(bucket="uint8-3x256x256")
        if task == "object_detection":
            vs.convert(source, store, mode="overwrite", version="2", **options)
            vs.clean(store, grace_days=0)
    expected = {store.stem: describe(store, scratch) for store in sorted(folder.iterdir())}
    for store in list(folder.iterdir()):  # packed: what a shard's index has of empty places would take most of the room
        with tarfile.open(folder / f"{store.stem}.tar.gz", "w:gz") as archive:
            archive.add(store, store.name, filter=lambda m: m.replace(deep=False, uid=0, gid=0, uname="", gname=""))
        shutil.rmtree(store)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
