"""A release that breaks no rule, and for every rule one that breaks just this one."""

import copy
import io
import json
import tarfile
import zlib

import numpy as np
import tifffile

from tests.builders import Release, footprint_of, geotiff, pixels_of, plain_tiff

TOP = "ts_7-1.0.0"
SIZE = 32
STEP = 0.01
IDS = ("1", "2", "3", "4")


def zigzag(west, south, turns=2000):
    """A ring of long parallel edges: each lies in the box of every other."""
    shifts = [turn * 1e-7 for turn in range(turns)]
    ring = [[west + along + shift, south + along] for shift in shifts for along in (0, 0.0015)]
    return [*ring, ring[0]]


def rectangle(west, south, east, north):
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def footprint(number):
    """An upright square in degrees, the neighbour of the one before."""
    west = 10 + STEP * number
    return {"type": "Polygon", "coordinates": [rectangle(west, 50, west + STEP, 50 + STEP)]}


def objects(number):
    """Two polygons in the middle of a chip, in degrees; the first has five corners."""
    west = 10 + STEP * number
    ring, other = (rectangle(west + k, 50.002, west + k + 0.001, 50.004) for k in (0.002, 0.006))
    ring.insert(1, [west + 0.0025, 50.001])
    return {name: [{"type": "Polygon", "coordinates": [r]}] for name, r in (("car", ring), ("tree", other))}


def image(number, shape=(3, SIZE, SIZE), dtype="uint8", **options):
    return plain_tiff(pixels_of(shape, dtype, seed=100 + number), **options)


def placed(number, west=0.0, south=0.0, **options):
    """An image with a georeferencing of its own: that of its footprint, moved by some degrees."""
    transform = (STEP / SIZE, 0, 10 + STEP * number + west, 0, -STEP / SIZE, 50 + STEP + south)
    return geotiff(pixels_of((3, SIZE, SIZE), seed=30 + number), transform, "EPSG:4326", **options)


class Parts:
    """The parts of a release: files by path, and label files as Features; to be changed and then packed."""

    def __init__(self, task="classification", ids=IDS):
        self.task, self.files, self.features = task, {}, {}
        for number, sample_id in enumerate(ids):
            self.add(sample_id, number)
        east = 10 + STEP * len(ids)
        self.meta = {
            "bbox": [10, 50, east, 50 + STEP], "classes": ["car", "tree"], "mlType": task, "name": "Seven",
            "nclasses": 2, "public": True, "source": "made up", "version": "1.0.0",
            "s3_location": "s3://releases/ts_7-1.0.0.tar.gz", "source_url": "https://example.com/7",
            "other": [1.50, {}],
        }  # fmt: skip
        features = [{"type": "Feature", "geometry": f["geometry"]} for f in self.features.values()]
        self.bounds = {"type": "FeatureCollection", "features": copy.deepcopy(features)}

    def add(self, sample_id, number):
        label = objects(number) if self.task == "segmentation" else {"car": 1, "tree": number % 2}
        self.files[f"images/{sample_id}.tif"] = image(number)
        self.features[sample_id] = {"type": "Feature", "geometry": footprint(number), "properties": {"label": label}}

    def without_places(self):
        """Leave out everything that says where the chips are."""
        for feature in self.features.values():
            feature["geometry"] = {}
        self.bounds = None
        self.meta["bbox"] = []

    def surround(self):
        """Let bbox be the box around all footprints, and leave bounds.geojson out."""
        corners = [p for f in self.features.values() for p in f["geometry"]["coordinates"][0]]
        x, y = [p[0] for p in corners], [p[1] for p in corners]
        self.meta["bbox"] = [min(x), min(y), max(x), max(y)]
        self.bounds = None

    def label(self, sample_id="2"):
        return self.features[sample_id]["properties"]["label"]

    def text(self, edit, sample_id="2"):
        """Change the text of a label file."""
        self.files[f"labels/{sample_id}.json"] = edit(json.dumps(self.features[sample_id]).encode())

    def release(self):
        members = {f"labels/{i}.json": f for i, f in self.features.items()} | self.files
        members |= {"meta.json": self.meta, "bounds.geojson": self.bounds}
        packed = {n: d if isinstance(d, bytes) else json.dumps(d).encode() for n, d in members.items() if d is not None}
        return Release({f"{TOP}/{n}": d for n, d in sorted(packed.items())}, TOP)


CASES = {}
"""By rule: the task, a function that changes the parts of a release, and further arguments of the command line."""


def case(rule, task="classification", arguments=()):
    def note(change):
        CASES[rule] = task, change, arguments
        return change

    return note


def case_file(rule, path, data, arguments=()):
    case(rule, arguments=arguments)(lambda parts: parts.files.update({path: data}))


def case_meta(rule, **changes):
    case(rule)(lambda parts: parts.meta.update(changes))


def case_text(rule, edit, task="classification", arguments=()):
    case(rule, task, arguments)(lambda parts: parts.text(edit))


def case_object(rule, change):
    """Break a rule by the coordinates of an object."""

    def move(parts):
        item = parts.label()["car"][0]
        item["coordinates"] = change(item["coordinates"])

    case(rule, "segmentation")(move)


# ------------------------------------------------------------------------------------------------------------- images


def equivalent():
    """A Deflate file that no known encoder makes."""
    pixels = pixels_of((3, SIZE, SIZE), seed=7)
    packer = zlib.compressobj(3, zlib.DEFLATED, 9, 1, zlib.Z_FIXED)
    segment = packer.compress(np.moveaxis(pixels, 0, -1).tobytes()) + packer.flush()
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(
            iter([segment]), shape=(SIZE, SIZE, 3), dtype="u1", compression=8, rowsperstrip=SIZE, photometric="rgb"
        )
    return buffer.getvalue()


def two_pages():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for number in (1, 2):
            writer.write(np.moveaxis(pixels_of(seed=number, shape=(3, SIZE, SIZE)), 0, -1), photometric="rgb")
    return buffer.getvalue()


def slow_to_read():
    """An image whose encoder is looked for in vain, for much longer than a second."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 4, (2048, 4096), "u1")
    tifffile.imwrite(buffer, pixels, compression="lzma", compressionargs={"level": 0}, rowsperstrip=2048)
    return buffer.getvalue()


def mixed_bits():
    data = bytearray(image(9))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tag = file.pages[0].tags["BitsPerSample"]
        data[tag.valueoffset : tag.valueoffset + 6] = bytes([8, 0, 8, 0, 16, 0])
    return bytes(data)


case_file("image-damaged", "images/2.tif", image(1)[:-200])
case_file("image-unsupported", "images/2.tif", mixed_bits())
case_file("image-crash", "images/2.tif", slow_to_read(), ("--limit", "image_seconds=1"))
case_file("image-limit", "images/2.tif", image(1, (3, SIZE, 2 * SIZE)), ("--limit", "image_bytes=4KiB"))
case_file("image-size", "images/2.tif", image(1, (3, 2 * SIZE, SIZE)))
case_file("image-type", "images/2.tif", image(1, dtype="uint16"))
case_file("image-bands", "images/2.tif", image(1, (1, SIZE, SIZE)))
case_file("image-black", "images/2.tif", plain_tiff(np.zeros((3, SIZE, SIZE), "u1")))
case_file("image-constant", "images/2.tif", plain_tiff(np.full((3, SIZE, SIZE), 7, "u1")))
case_file("image-duplicate", "images/2.tif", image(2))
case_file("image-lossy", "images/2.tif", placed(1, compress="jpeg"))
case_file("image-equivalent", "images/2.tif", equivalent())
case_file("image-pages", "images/2.tif", two_pages())

# ---------------------------------------------------------------------------------------------------------- structure


def packed(parts, path):
    return parts.release().tar_gz(path)


def cut(parts, path):
    path.write_bytes(packed(parts, path).read_bytes()[:-9])
    return path


def with_link(parts, path):
    with tarfile.open(packed(parts, path)) as archive:
        found = [(m, archive.extractfile(m).read()) for m in archive]
    with tarfile.open(path, "w:gz") as archive:
        for member, data in found:
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo(f"{TOP}/images/9.tif")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def empty_folder(_, path):
    (path.with_name("empty") / "images").mkdir(parents=True)
    return path.with_name("empty")


def second_meta(parts, path):
    release = parts.release()
    release.members[f"./{TOP}/meta.json"] = release.members[f"{TOP}/meta.json"]
    return release.tar_gz(path)


def second_release(parts, path):
    release = parts.release()
    other = Parts(ids=("9",)).release()
    release.members |= {n.replace(TOP, "other"): d for n, d in other.members.items() if "/9." in n}
    release.members["other/images/9.tif"] = image(9)
    return release.tar_gz(path)


def plain_tar(parts, path):
    return parts.release().tar(path.with_suffix("").with_suffix(".tar"))


PACKED = {
    "archive-damaged": cut,
    "archive-member": with_link,
    "release-empty": empty_folder,
    "release-refused": second_meta,
    "release-two": second_release,
    "import-container": plain_tar,
}
for _rule in PACKED:
    case(_rule)(lambda _: None)
case("archive-limit", arguments=("--limit", "members=3"))(lambda _: None)
case_file("kept-member", ".DS_Store", b"\0")

# ----------------------------------------------------------------------------------------------------- pairs and names

case_file("pair-incomplete", "images/2.tif", None)
case_file("pair-twice", "images/2.TIFF", image(20))


@case("name-case")
def _(parts):
    rename(parts, "1", "chip")
    rename(parts, "2", "CHIP")


@case("name-normal-form")
def _(parts):
    rename(parts, "1", "caf\u00e9")
    rename(parts, "2", "cafe\u0301")


def rename(parts, old, new):
    parts.features[new] = parts.features.pop(old)
    parts.files[f"images/{new}.tif"] = parts.files.pop(f"images/{old}.tif")


# ------------------------------------------------------------------------------------------- meta.json, bounds.geojson

case("meta-json")(lambda parts: setattr(parts, "meta", b"{"))
case("meta-missing")(lambda parts: setattr(parts, "meta", None))
case("meta-key")(lambda parts: parts.meta.pop("public"))
case_meta("meta-task", mlType="regression")
case_meta("meta-classes", classes=["tree"], nclasses=1)
case_meta("meta-unused-class", classes=["boat", "car", "tree"], nclasses=3)
case_meta("meta-nclasses", nclasses=7)
case_meta("meta-bbox", bbox=[10, 50, 10.03, 50.01])
case("bounds-json")(lambda parts: setattr(parts, "bounds", b"[]"))
case("bounds-count")(lambda parts: parts.bounds["features"].append(parts.bounds["features"][0]))
case("bounds-footprint")(lambda parts: parts.bounds["features"].__setitem__(0, parts.bounds["features"][1]))

# -------------------------------------------------------------------------------------------------------------- labels

case_text("json-syntax", lambda text: text[:-1])
case_text("json-encoding", lambda text: text.replace(b"car", b"c\xe4r"))
case_text("json-number", lambda text: text.replace(b"50.01", b"1e999"))
case_text("json-duplicate-key", lambda text: text.replace(b'"car": 1', b'"car": 1, "car": 0'))
case_text(
    "json-limit", lambda text: text[:-1] + b', "deep": ' + b"[" * 90 + b"]" * 91, arguments=("--limit", "json_depth=80")
)
case_text("json-bom", lambda text: b"\xef\xbb\xbf" + text)


@case("json-rounded", "segmentation")
def _(parts):
    """Pixels, as degrees have no such numbers."""
    parts.without_places()
    for feature in parts.features.values():
        feature["properties"]["label"] = {"car": [[1, 2, 9, 9]], "tree": [[3, 4, 9, 2**53 + 1]]}


case_text("label-form", lambda text: text.replace(b'{"car": 1, "tree": 1}', b"[]"))
case_text("label-missing", lambda text: text.replace(b'"label"', b'"other"'))
case_text("label-task", lambda text: text.replace(b'{"car": 1, "tree": 1}', b'{"car": []}'))
case_text("label-class", lambda text: text.replace(b'"car"', b'""'))


@case("class-case")
def _(parts):
    parts.meta |= {"classes": ["Car", "car", "tree"], "nclasses": 3}
    parts.text(lambda text: text.replace(b'"car"', b'"Car"'))


@case("coordinates-unclear", "segmentation")
def _(parts):
    parts.label()["car"] = [[3, 4, 20, 21]]
    parts.label()["tree"] = []


# ------------------------------------------------------------------------------------------------------------ geometry

case_text("geometry-form", lambda text: text.replace(b'"Polygon"', b'"LineString"', 1))
case("box-inverted", "segmentation")(lambda parts: parts.label()["car"].append([10.015, 50.005, 10.014, 50.006]))
case_object("ring-unclosed", lambda rings: [rings[0][:-1]])
case_object("geometry-invalid", lambda rings: [[rings[0][i] for i in (0, 3, 2, 4, 0)]])
case_object("geometry-degenerate", lambda rings: [[rings[0][0], rings[0][3], rings[0][0], rings[0][0]]])
case_object("geometry-unchecked", lambda rings: [zigzag(*rings[0][0])])
case_object("geometry-3d", lambda rings: [[[*p, 7] for p in rings[0]]])
case_object("object-outside", lambda rings: [[[x - 0.005, y] for x, y in rings[0]]])
case_object("objects-astray", lambda rings: [[[x + 0.05 * (k == 3), y] for k, (x, y) in enumerate(rings[0])]])


@case("objects-unplaced", "segmentation", ("--label-coords", "geographic"))
def _(parts):
    """An object half around the globe from its image's UTM zone, which has no place for it."""
    transform = (10, 0, 571_000, 0, -10, 5_540_000)
    parts.files["images/2.tif"] = geotiff(pixels_of((3, SIZE, SIZE)), transform, "EPSG:32632")
    parts.features["2"]["geometry"] = footprint_of(transform, SIZE, SIZE, "EPSG:32632")
    parts.label()["tree"] = []
    parts.label()["car"] = [{"type": "Polygon", "coordinates": [rectangle(99, 0, 99.1, 0.1)]}]
    parts.surround()


@case("footprint-missing")
def _(parts):
    parts.features["2"]["geometry"] = {}


# ------------------------------------------------------------------------------------------------------ georeferencing


@case("footprint-empty")
def _(parts):
    parts.without_places()
    for feature in parts.features.values():
        feature["geometry"] = {"type": "Polygon", "coordinates": []}


case_file("footprint-disagrees", "images/2.tif", placed(1, west=2 * STEP / SIZE))
case_file("footprint-swapped", "images/2.tif", placed(1, 40 - STEP, STEP - 40))


def lonely(change):
    """One sample, its footprint moved, and everything else moved with it."""

    def move(parts):
        corners = change([list(p) for p in footprint(0)["coordinates"][0]])
        x, y = [p[0] for p in corners], [p[1] for p in corners]
        for number, feature in enumerate(parts.features.values()):
            feature["geometry"]["coordinates"] = (
                [corners] if number == 0 else [rectangle(min(x), min(y), max(x), max(y))]
            )
        parts.surround()

    return move


case("footprint-skewed")(lonely(lambda c: [c[0], c[1], [c[2][0] + 0.2 * STEP / SIZE, c[2][1]], c[3], c[4]]))
case("footprint-not-rectangle")(lonely(lambda c: [c[0], c[1], [c[2][0] + STEP, c[2][1]], c[3], c[4]]))
case("footprint-pole")(lonely(lambda c: [[x, 90 if y > 50 else 90 - STEP] for x, y in c]))
case("footprint-out-of-range")(lonely(lambda c: [[x + 171, y] for x, y in c]))


@case("footprint-antimeridian")
def _(parts):
    parts.features["2"]["geometry"] = {"type": "Polygon", "coordinates": [rectangle(-179.999, 50, 179.999, 50.001)]}
    parts.surround()


# --------------------------------------------------------------------------------------------------------- bulk import


@case("import-suffix")
def _(parts):
    parts.files["images/2.TIF"] = parts.files.pop("images/2.tif")


@case("import-geometry")
def _(parts):
    geometry = parts.features["2"]["geometry"]
    geometry |= {"type": "MultiPolygon", "coordinates": [geometry["coordinates"]]}


@case("import-option", arguments=("--label-field", "kind"))
def _(parts):
    for feature in parts.features.values():
        feature["properties"]["kind"] = feature["properties"].pop("label")


def write(rule, folder):
    """Write the release of a case; return it, and the further arguments."""
    task, change, arguments = CASES[rule]
    parts = Parts(task)
    change(parts)
    return PACKED.get(rule, packed)(parts, folder / "r.tar.gz"), arguments
