"""The picture of statistics: what is drawn, told by matplotlib's own artists, and what becomes a file."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import shapely
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.image import imread

import vedastore as vs
from tests.builders import ATLANTA, geotiff, make_release, needs_real_data
from tests.synthetic import build
from tests.test_docs import run_cli
from tests.test_stats import random_chips
from vedastore.ops import picture
from vedastore.ops import stats as stats_op


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plot")
    made = vs.convert(make_release(20).tar(folder / "r.tar"), folder / "r.zarr")
    return made.split(given={s.id: ("train", "test", "")[i % 3] for i, s in enumerate(made) if i % 3 < 2})


def panels(stats):
    figure = picture.make_figure(stats)
    figure.canvas.draw()  # every warning is an error
    return {axes.get_title(): axes for axes in figure.axes}, figure


def bars(axes):
    return [(round(b.get_y() + b.get_height() / 2), to_hex(b.get_facecolor()), b.get_width()) for b in axes.patches]


def assert_no_overlap(axes):
    """No label of a tick lies over the next one."""
    for axis in (axes.xaxis, axes.yaxis):
        boxes = [t.get_window_extent() for t in axis.get_ticklabels() if t.get_text() and t.get_visible()]
        boxes = [b for b in boxes if b.width]
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_every_panel_shows_the_figures(collection):
    found = collection.stats()
    drawn, figure = panels(found)
    assert set(drawn) == {"values of bands", "footprints", "samples by class", "objects by class", "objects per sample"}
    lines = drawn["values of bands"].patches
    assert [line.get_label() for line in lines] == ["band 1", "band 2", "band 3"]
    for line, band in zip(lines, found.bands, strict=True):
        np.testing.assert_allclose(line.get_data().values, np.array(band.histogram) / band.count)
        np.testing.assert_array_equal(line.get_data().edges, band.edges)
    legend = {t.get_text(): to_hex(p.get_facecolor()) for p, t in
              zip(figure.legends[0].get_patches(), figure.legends[0].get_texts(), strict=True)}  # fmt: skip
    assert list(legend) == ["test", "train", "none"]  # the largest first, then by name
    for title, what in (("samples by class", "classes"), ("objects by class", "class_objects")):
        names = [t.get_text() for t in drawn[title].get_yticklabels()]
        assert sorted(names) == sorted(collection.classes)
        wanted = {
            (row, legend[split or "none"], found.splits[split][what].get(name, 0))
            for row, name in enumerate(names)
            for split in found.splits
        }
        assert set(bars(drawn[title])) == wanted
        key = what.removeprefix("class_").replace("classes", "samples")
        assert [t.get_text() for t in drawn[title].texts] == [str(found.classes[name][key]) for name in names]
    heights = {round(b.get_x() + b.get_width() / 2): b.get_height() for b in drawn["objects per sample"].patches}
    assert {n: h for n, h in heights.items() if h} == found.objects_per_sample
    shapes = {to_hex(c.get_edgecolor()[0]): c for c in drawn["footprints"].collections}
    frame = collection.samples
    for split, colour in legend.items():
        own = frame[frame.split.fillna("none") == split]
        paths = shapes[colour].get_paths()
        assert isinstance(shapes[colour], PolyCollection)
        assert len(paths) == len(own)
        union = shapely.union_all([shapely.Polygon(path.vertices) for path in paths])
        assert union.symmetric_difference(own.union_all()).area < 1e-15
    assert "20 samples" in figure.get_suptitle()
    for axes in drawn.values():
        assert_no_overlap(axes)


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_a_file_of_each_kind(collection, tmp_path, suffix, magic):
    place = tmp_path / f"out.{suffix}"
    collection.stats().plot(place)
    data = place.read_bytes()
    assert data.startswith(magic)
    if suffix == "png":
        pixels = imread(place)[..., :3]
        assert pixels.shape[:2] == (700, 1200)
        ink = pixels.std(axis=2) > 0.05
        assert all(part.mean() > 0.005 for part in (ink[:350, :600], ink[:350, 600:], ink[350:, :600], ink[350:, 600:]))
    if suffix == "svg":
        assert all(word in data.decode() for word in ("building", "footprints", "objects per sample", "train"))


def test_nothing_is_overwritten_unless_asked(collection, tmp_path):
    store, place = collection.store, tmp_path / "out.png"
    place.write_text("mine")
    with pytest.raises(vs.errors.ConflictError, match="already"):
        collection.stats().plot(place)
    assert run_cli(["stats", store, "--plot", str(place)])[0] == 4
    assert place.read_text() == "mine"
    assert run_cli(["stats", store, "--plot", str(place), "--overwrite", "--quiet"]) == (0, "")
    assert place.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


@pytest.mark.parametrize(("options", "words"), [
    (["--plot", "out.tif"], "let its name end in .png, .svg, .pdf"),
    (["--plot", "out"], "no picture"),
    (["--overwrite"], "--plot"),
    (["--plot", "no/where/out.png"], "cannot be written"),
])  # fmt: skip
def test_refusals(collection, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    code, out = run_cli(["stats", collection.store, *options])
    assert code in {2, 5}
    assert words in out
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_it_says_what_to_install(collection, tmp_path):
    code = "import sys; sys.modules['matplotlib'] = None\nfrom vedastore.cli import main\nsys.exit(main(sys.argv[1:]))"
    place = tmp_path / "out.png"
    done = subprocess.run([sys.executable, "-c", code, "stats", collection.store, "--plot", place],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "install vedastore with its extra [plot]" in done.stderr
    assert not place.exists()


def fake(names=("car",), splits=("",), bands=3, samples=12, places=True):
    """Statistics of a kind that no small release has."""
    rng = np.random.default_rng(3)
    entry = {"samples": samples, "objects": 5}
    chip = {"count": 9, "invalid": 0, "min": 0, "max": 8, "mean": 4.0, "std": 2.5, "percentiles": {"1": 0, "99": 8},
            "histogram": [1] * 9, "edges": [*map(float, range(10))]}  # fmt: skip
    corners = rng.uniform((-100, 30), (-99, 31), (samples, 2))
    shapes = shapely.box(*corners.T, *(corners + 0.05).T)
    owners = [splits[i % len(splits)] for i in range(samples)]
    return stats_op.parse_stats({
        "samples": samples, "chips": [], "bands": [{"band": n + 1, **chip} for n in range(bands)],
        "classes": dict.fromkeys(names, entry), "objects": {"objects": 5 * len(names)}, "objects_per_sample": {"5": 1},
        "splits": {s: {"samples": 1, "objects": 5, "classes": dict.fromkeys(names, 1),
                       "class_objects": dict.fromkeys(names, 5), "bands": []} for s in splits},
    }, (lambda: (shapes, owners)) if places else None)  # fmt: skip


def test_very_many_classes_have_room():
    drawn, figure = panels(fake([f"a class with a long name {i}" for i in range(57)]))
    assert len(drawn["samples by class: 40 of 57"].get_yticklabels()) == 40
    for axes in drawn.values():
        assert_no_overlap(axes)
        assert 0 <= axes.get_window_extent().x0 < axes.get_window_extent().x1 <= figure.bbox.x1


def test_odd_names_are_labels_and_no_formulas():
    names = ["a$b$", "_x", "水", "\x1b[31m", "$\\frac{1}{0", "x" * 99, "ü"]
    drawn, figure = panels(fake(names, ["_train", "$x$", "水"]))
    told = [t.get_text() for t in drawn["samples by class"].get_yticklabels()]
    assert told == [r"a\$b\$", "_x", "\\u6c34", "\\x1b[31m", r"\$\frac{1}{0", "x" * 23 + "…", "ü"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["_train", r"\$x\$", "\\u6c34"]


@pytest.mark.parametrize("bands", [0, 8, 400])
def test_any_number_of_bands(bands):
    drawn, _ = panels(fake(bands=bands))
    axes = drawn["values of bands"]
    assert len(axes.patches) == (bands if bands <= 8 else 0)
    assert (len(axes.lines), len(axes.collections)) == ((1, 1) if bands > 8 else (0, 0))
    assert_no_overlap(axes)


def test_many_splits_share_a_colour():
    drawn, figure = panels(fake(splits=[f"fold {i}" for i in range(20)], samples=40))
    assert [t.get_text() for t in figure.legends[0].get_texts()][-1] == "14 others"
    assert sum(len(c.get_paths()) for c in drawn["footprints"].collections) == 40


def test_without_footprints_there_is_no_map():
    drawn, figure = panels(fake(places=False))
    assert "footprints" not in drawn
    assert not figure.legends


@pytest.mark.parametrize("samples", [1, 5001])
def test_one_sample_and_very_many(samples):
    drawn, figure = panels(fake(samples=samples))
    (shapes,) = drawn["footprints"].collections
    assert isinstance(shapes, PathCollection if samples > 5000 else PolyCollection)
    assert len(shapes.get_offsets() if samples > 5000 else shapes.get_paths()) == samples
    counted = drawn["objects per sample"].get_yticks()
    assert (counted == counted.round()).all()  # there are no halves of samples
    assert figure.get_suptitle().startswith("1 sample," if samples == 1 else "5,001 samples,")


def test_a_globe_of_tiny_chips_shows_them_as_dots(tmp_path):
    build(tmp_path / "s.zarr", 60)
    collection = vs.open(tmp_path / "s.zarr")
    shapes, splits = stats_op.read_places(collection._snapshot, collection._positions, None)
    assert len(shapes) == len(splits) == 60
    stats = fake(splits=sorted(set(splits)))
    tiny = shapely.buffer(shapely.centroid(shapes), 1e-4)
    drawn, _ = panels(replace(stats, places=lambda: (tiny, splits)))
    assert all(isinstance(c, PathCollection) for c in drawn["footprints"].collections)
    known = sum(shape is not None for shape in shapes)
    assert sum(len(c.get_offsets()) for c in drawn["footprints"].collections) == known
    drawn, _ = panels(replace(stats, places=lambda: (shapes, splits)))  # over the antimeridian, too
    paths = [p for c in drawn["footprints"].collections for p in c.get_paths()]
    assert len(paths) == known
    assert max(np.ptp(p.vertices[:, 0]) for p in paths) < 180


def test_footprints_of_a_stranger():
    """Whatever a store says of places, there is a picture or a named refusal."""
    with np.errstate(invalid="ignore"):
        gap, endless = shapely.from_wkt([f"POLYGON ((0 0, {x} 1, 1 1, 0 0))" for x in ("NaN", "Inf")])
    nowhere = [
        None, shapely.Polygon(), endless,
        shapely.box(-1e308, -1e308, 1e308, 1e308), shapely.box(0, 89, 1e9, 1e9), shapely.box(0, 89, 1, 91),
    ]  # fmt: skip
    round_one = shapely.Point(5, 5).buffer(1, quad_segs=20_000)
    pair = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(9, 0, 10, 1)])
    for chosen, rings in ((nowhere, 0), ([shapely.box(3, 3, 3, 3)], 1), ([*nowhere, round_one, pair, gap], 4)):
        shapes = np.array(chosen, object)
        drawn, figure = panels(replace(fake(), places=lambda shapes=shapes: (shapes, [""] * len(shapes))))
        assert ("no footprints" in figure.get_suptitle()) == (not rings)
        if rings:
            paths = [p for c in drawn["footprints"].collections for p in c.get_paths()]
            assert (len(paths), max(map(len, paths)) < 100) == (rings, True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint64"])
def test_extreme_values(tmp_path, dtype):
    kind = np.dtype(dtype)
    chips = random_chips(dtype, 2)
    edge = np.finfo(kind).max if kind.kind == "f" else np.iinfo(kind).max
    chips[1][0, 0] = edge
    release = make_release(2)
    for number, pixels in enumerate(chips):
        release.members[f"{release.top}/images/{number}.tif"] = geotiff(pixels)
    collection = vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    drawn, _ = panels(collection.stats())
    assert len(drawn["values of bands"].patches) == 2


@needs_real_data
def test_a_real_release(tmp_path):
    collection = vs.convert(ATLANTA, tmp_path / "r.zarr")
    drawn, _ = panels(collection.stats())
    assert len(drawn["footprints"].collections[0].get_paths()) == len(collection)
    for axes in drawn.values():
        assert_no_overlap(axes)
