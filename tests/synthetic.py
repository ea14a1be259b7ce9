"""Stores of any number of samples in seconds: a whole index, written by the real writers, and no pixels.

Footprints lie in scenes all over the globe, some of them over the antimeridian in every spelling; one in a hundred
samples has none. Nothing here needs pytest.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import shapely

from vedastore.io import geometry
from vedastore.io.objects import LocalObjects
from vedastore.spec import keys
from vedastore.spec.arrays import ChipSpec
from vedastore.spec.root import Bucket, Version
from vedastore.store.commit import Write
from vedastore.store.tables import GROUP_ROWS, TableWriter

CLASSES = ("airport", "barn", "boat", "bridge", "building", "car", "crane", "pier", "silo", "tree")
SPLITS = ("train", "train", "train", "train", "train", "train", "train", "test", "test", "validate")
SPEC = ChipSpec("uint8", 3, 256, 256)
BUCKET = keys.bucket("uint8", *SPEC.shape)
SCENE_SAMPLES = 100
_CORNERS = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)], "f8")


def build(path: Path, samples: int, seed: int = 0) -> None:
    """Make a store of object detection with so many samples at a path; the same one for the same seed."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(samples)  # ids are in no order
    scenes = rng.uniform((-180, -80), (180, 80), (samples // SCENE_SAMPLES + 1, 2))
    scenes[3::40, 0] = 180  # over the antimeridian
    with (
        Write(LocalObjects(path)) as write,
        TableWriter("samples") as rows,
        TableWriter("features") as features,
        TableWriter("members") as members,
    ):
        for start in range(0, samples, GROUP_ROWS):
            positions = np.arange(start, min(start + GROUP_ROWS, samples))
            found, footprints, objects, drawn = _rows(positions, numbers[positions], scenes, rng)
            rows.append(found, {"geometry": footprints})
            features.append(objects, {"geometry": np.full(len(drawn), None), "geometry_px": drawn})
        members.append({"name": ["README"], "ordinal": [2 * samples], "kind": ["other"], "data": [b"synthetic"]})
        index = {table.table: table.finish(write) for table in (rows, features, members)}
        write.commit(_version(index, rows.bounds))


def _version(index, bounds):
    samples = index["samples"].rows
    return Version(
        version="1", parent=None, created="2025-01-01T00:00:00+00:00", name="Synthetic", task="object_detection",
        classes=CLASSES, label_coords="pixel", samples=samples, features=index["features"].rows, bounds=bounds,
        fidelity={"exact": samples, "equivalent": 0, "decoded": 0}, index=index,
        buckets={BUCKET: Bucket(SPEC, samples, 0)}, content={}, source={}, skipped=(), findings=(),
    )  # fmt: skip


def _rows(positions, numbers, scenes, rng):
    """The columns of ``samples`` and ``features`` for some positions."""
    count = len(positions)
    west_south = scenes[positions // SCENE_SAMPLES] + rng.uniform(-2, 2, (count, 2))
    side = 10 ** rng.uniform(-3, 0, (count, 1))  # degrees
    rings = west_south[:, None] + side[:, None] * _CORNERS
    spelling = rng.integers(0, 3, count)
    west = (spelling == 1) & (rings[:, :, 0].max(1) > 180)
    rings[west, :, 0] -= 360  # what goes on west of -180 ...
    past = (rings[:, :, 0] > 180) & (spelling == 2)[:, None]
    rings[:, :, 0] -= 360 * past  # ... and what jumps from 180 to -180; the others go on past 180
    shapes = shapely.polygons(rings)
    shapes[rng.random(count) < 0.01] = None
    boxes = geometry.covering_bboxes(shapes)
    owners, kinds = np.nonzero(rng.random((count, len(CLASSES))) < 0.1)
    classes = [CLASSES[kind] for kind in kinds.tolist()]
    offsets = np.searchsorted(owners, np.arange(count + 1)).tolist()
    ids = [f"chip-{number:07d}" for number in numbers]
    labels = [b'{"type": "Feature", "geometry": {}, "properties": {"label": {}, "id": "%s"}}' % i.encode() for i in ids]
    transforms = np.stack([side[:, 0] / 256, 0 * side[:, 0], west_south[:, 0], 0 * side[:, 0], -side[:, 0] / 256,
                           west_south[:, 1] + side[:, 0]], 1)  # fmt: skip
    crossing = (boxes[:, 0] > boxes[:, 2]).tolist()
    samples = {
        "id": ids,
        "position": positions,
        "bucket": [BUCKET] * count,
        "row": positions,
        "geometry": geometry.dump_wkb(shapes),
        "bbox": boxes,
        "crs": ["EPSG:4326"] * count,
        "transform": transforms,
        "height": np.full(count, 256, "i4"),
        "width": np.full(count, 256, "i4"),
        "nodata": [None] * count,
        "split": np.array([*SPLITS, None], object)[rng.integers(0, len(SPLITS) + 1, count)].tolist(),
        "classes": [classes[a:b] for a, b in pairwise(offsets)],
        "objects": np.diff(offsets),
        "flags": [["footprint-antimeridian"] if c else [] for c in crossing],
        "label": labels,
        "image_digest": _digests(rng, count),
        "pixel_digest": _digests(rng, count),
        "fidelity": ["exact"] * count,
        "envelope": [b"II*\0"] * count,
        "image_member": [f"images/{i}.tif" for i in ids],
        "image_ordinal": 2 * positions,
        "label_member": [f"labels/{i}.json" for i in ids],
        "label_ordinal": 2 * positions + 1,
    }
    return samples, shapes, *_features(samples, positions, owners, classes, rng)


def _features(samples, positions, owners, classes, rng):
    """One box for each class of each sample, in pixels and nowhere on the ground."""
    count = len(owners)
    corner = rng.integers(0, 200, (count, 2)).astype("f8")
    boxes = np.concatenate([corner, corner + rng.integers(1, 50, (count, 2))], 1)
    shapes = shapely.box(*boxes.T)
    columns = {
        "id": [samples["id"][owner] for owner in owners.tolist()],
        "position": positions[owners],
        "class": classes,
        "ordinal": np.zeros(count, "i4"),
        "geometry": [None] * count,
        "bbox": np.full((count, 4), np.nan),
        "geometry_px": geometry.dump_wkb(shapes),
        "box_px": boxes,
        "area_px": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
    }
    return columns, shapes


def _digests(rng, count):
    return [rng.bytes(16) for _ in range(count)]
