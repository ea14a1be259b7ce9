"""Statistics as a picture: histograms of bands, class balance, objects per sample, and a map of footprints."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import UsageError, escape
from vedastore.io.files import new_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vedastore.ops.stats import Stats

FORMATS: Final = ("png", "svg", "pdf")
_WIDTH, _TOP, _BOTTOM, _ROW = 12.0, 4.2, 2.8, 0.17  # inches; of a class
_CLASSES_LEAST, _CLASSES_MOST = 4, 40
_GROUPS_MOST: Final = 6
_LINES_MOST: Final = 8
_BARS_MOST: Final = 40
_NAME_LETTERS: Final = 24
_OUTLINES_MOST: Final = 5000
"""Footprints that are drawn as what they are; of more, the centre of each."""
_VISIBLE: Final = 0.006
"""Footprints are narrower than this share of the map where their centres are drawn as dots."""
_PEAK: Final = 2.0
"""What a histogram shows: so many times what nearly all of its bins have."""
_CORNERS_MOST: Final = 64
_FARTHEST: Final = (720, 90, 720, 90)
"""Longitudes and latitudes beyond them are no place: NaN is none either."""
_NUMBER_MOST: Final = 1e300
"""Larger numbers make axes that go beyond double precision."""
_COLOURS: Final = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")

_BAND_COLOURS: Final = ("#b2182b", "#1b7837", "#2166ac", "#762a83", "#b35806", "#4d4d4d", "#e7298a", "#66a61e")


@dataclass(frozen=True, slots=True)
class _Group:
    """Splits that are drawn in one colour."""

    label: str
    colour: str
    splits: tuple[str, ...]


def check_target(dest: str | os.PathLike[str]) -> str:
    """Return the format of a picture by its name, where it can be drawn.

    Raises
    ------
    UsageError
        For another kind of file, and where matplotlib is not installed.
    """
    found = PurePath(dest).suffix.lower().removeprefix(".")
    if found not in FORMATS:
        hint = f"let its name end in {', '.join(f'.{name}' for name in FORMATS)}"
        raise UsageError("the target is no picture", where=os.fspath(dest), hint=hint)
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UsageError("a picture needs matplotlib", hint="install vedastore with its extra [plot]") from None
    return found


def draw(stats: Stats, dest: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Draw statistics to a file; see `Stats.plot`."""
    picture_format = check_target(dest)
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "vedastore", "svg.fonttype": "none"}):
        figure = make_figure(stats)
        metadata = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[picture_format]
        with new_file(dest, overwrite=overwrite) as file:
            figure.savefig(file, format=picture_format, dpi=100, metadata=metadata)


def make_figure(stats: Stats) -> Any:
    """Return the picture as a figure of matplotlib."""
    from matplotlib.figure import Figure

    groups = _group_splits(stats)
    rows = min(len(stats.classes), _CLASSES_MOST)
    bottom = _BOTTOM + max(0, rows - 8) * _ROW
    figure = Figure(figsize=(_WIDTH, _TOP + bottom), layout="constrained")
    shapes, splits = stats.places() if stats.places else (np.empty(0, object), [])
    placed = np.flatnonzero((np.abs(_bounds(shapes)) <= _FARTHEST).all(axis=1))
    upper, lower = figure.subfigures(2, 1, height_ratios=[_TOP, bottom], hspace=0.03, squeeze=False)[:, 0]
    axes = upper.subplots(1, 2 if len(placed) else 1, squeeze=False)[0]
    _draw_bands(axes[0], stats)
    if len(placed):
        _draw_map(axes[1], shapes[placed], [splits[i] for i in placed.tolist()], groups)
    with_objects = bool(stats.objects["objects"])
    panels = lower.subplots(1, 3 if with_objects else 1, squeeze=False)[0]
    _draw_classes(panels[0], stats, "samples by class", "classes", groups)
    if with_objects:
        _draw_classes(panels[1], stats, "objects by class", "class_objects", groups)
        _draw_objects(panels[2], stats.objects_per_sample)
    if [group.label for group in groups] != ["none"]:
        handles = [_swatch(group) for group in groups]
        labels = [group.label for group in groups]
        figure.legend(handles, labels, loc="outside upper right", ncols=len(groups), frameon=False)
    without = "" if len(placed) or not stats.places else ", no footprints"
    counts = (("sample", stats.samples), ("object", stats.objects["objects"]))
    told = ", ".join(f"{count:,} {noun}{'' if count == 1 else 's'}" for noun, count in counts)
    figure.suptitle(told + without, x=0.01, ha="left")
    return figure


# --------------------------------------------------------------------------------------------------------------- panels


def _draw_bands(axes: Any, stats: Stats) -> None:
    """Draw a histogram of each band; of many bands what most of their values lie between."""
    known = [(number, band) for number, band in enumerate(stats.bands, 1) if band.count]
    axes.set_title("values of bands")
    if not known:
        _tell(axes, "no values")
    elif len(known) > _LINES_MOST:
        _draw_many_bands(axes, known)
    else:
        _draw_histograms(axes, known)
        axes.legend(loc="upper right", ncols=1 + (len(known) > _LINES_MOST // 2))


def _draw_histograms(axes: Any, known: Sequence[tuple[int, Any]]) -> None:
    """Draw the share of values at each value, per unit, as far as nearly all bins go."""
    found = []
    for number, band in known:
        edges = np.clip(band.edges, -_NUMBER_MOST, _NUMBER_MOST)
        density = np.array(band.histogram) / band.count / np.maximum(np.diff(edges), 1 / _NUMBER_MOST)
        axes.stairs(density, edges, label=f"band {number}", color=_BAND_COLOURS[number % len(_BAND_COLOURS) - 1])
        found.append(density[density > 0])
    densities = np.concatenate(found)
    highest, peak = float(densities.max()), _PEAK * float(np.quantile(densities, 0.98))
    axes.set_xlim(*_most_of([band for _, band in known]))
    axes.set_ylim(0, min(peak, 1.05 * highest))
    axes.set_xlabel("value")
    axes.set_ylabel("share of values, per unit" + (", peaks cut" if peak < highest else ""))


def _draw_many_bands(axes: Any, known: Sequence[tuple[int, Any]]) -> None:
    numbers = [number for number, _ in known]
    means, stds = (
        np.clip([getattr(band, name) for _, band in known], -_NUMBER_MOST, _NUMBER_MOST) for name in ("mean", "std")
    )
    axes.fill_between(numbers, means - stds, means + stds, color=_COLOURS[0], alpha=0.3, label="mean ± std")
    axes.plot(numbers, means, color=_COLOURS[0], marker=".", label="mean")
    axes.set_xlabel("band")
    axes.set_ylabel("value")
    axes.legend(loc="upper right")


def _most_of(bands: Sequence[Any]) -> tuple[float, float]:
    """Return what nearly all values lie between."""
    low = min(band.percentiles.get("1", band.min) for band in bands)
    high = max(band.percentiles.get("99", band.max) for band in bands)
    least, most = min(band.min for band in bands), max(band.max for band in bands)
    margin = 0.1 * (high / 2 - low / 2) * 2 or 0.5
    low, high = (
        np.clip(float(v), -_NUMBER_MOST, _NUMBER_MOST) for v in (max(low - margin, least), min(high + margin, most))
    )
    return (low, high) if low < high else (low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5))


def _draw_classes(axes: Any, stats: Stats, title: str, what: str, groups: Sequence[_Group]) -> None:
    """Draw a bar for each class, a part of it for each split; of many classes those that most samples have."""
    order = sorted(stats.classes, key=lambda name: -stats.classes[name]["samples"])
    names = order[:_CLASSES_MOST]
    axes.set_title(title if len(names) == len(order) else f"{title}: {len(names)} of {len(order)}")
    if not names:
        _tell(axes, "no classes")
        return
    places, left = np.arange(len(names)), np.zeros(len(names), "i8")
    for group in groups:
        widths = [sum(stats.splits[split][what].get(name, 0) for split in group.splits) for name in names]
        axes.barh(places, widths, left=left, color=group.colour, height=0.8)
        left += widths
    for place, total in enumerate(left.tolist()):
        axes.annotate(f"{total:,}", (total, place), (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(places, [_shown(name) for name in names], fontsize=8)
    axes.set_ylim(max(len(names), _CLASSES_LEAST) - 0.4, -0.6)
    axes.margins(x=0.12)
    _few_ticks(axes.xaxis)


def _draw_objects(axes: Any, counts: dict[int, int]) -> None:
    """Draw how many samples have how many objects."""
    numbers = np.array(list(counts), "f8")
    most = int(numbers.max(initial=0))
    width = max(1, math.ceil((most + 1) / _BARS_MOST))
    edges = np.arange(0, most + 1 + width, width) - 0.5
    heights, _ = np.histogram(numbers, edges, weights=list(counts.values()))
    axes.bar(edges[:-1] + width / 2, heights, width=0.9 * width, color=_COLOURS[0])
    axes.set_title("objects per sample")
    axes.set_xlabel("objects" if width == 1 else f"objects, {width:,} to a bar")
    axes.set_ylabel("samples")
    for axis in (axes.xaxis, axes.yaxis):
        _few_ticks(axis)


def _draw_map(axes: Any, shapes: Any, splits: Sequence[str], groups: Sequence[_Group]) -> None:
    """Draw footprints in longitude and latitude, about as wide as they are on the ground."""
    from matplotlib.collections import PolyCollection

    boxes = _bounds(shapes)
    crossing = boxes[:, 2] - boxes[:, 0] > 180  # noqa: PLR2004 - half the world: they jump at the antimeridian
    owner = {name: number for number, group in enumerate(groups) for name in group.splits}
    of = np.array([owner[name] for name in splits])
    extent = np.ptp(np.concatenate([boxes[:, :2], boxes[:, 2:]]), axis=0).max()
    tiny = float(np.median((boxes[:, 2:] - boxes[:, :2]).max(axis=1))) < _VISIBLE * extent
    for number, group in enumerate(groups):
        own = np.flatnonzero(of == number)
        if tiny or len(shapes) > _OUTLINES_MOST:
            centres = (boxes[own, :2] + boxes[own, 2:]) / 2
            axes.scatter(*centres.T, s=6, linewidths=0, alpha=0.7, color=group.colour, rasterized=True)
            continue
        rings = [ring for i in own.tolist() for ring in _outlines(shapes[i], crossing=bool(crossing[i]))]
        axes.add_collection(PolyCollection(rings, facecolor=(group.colour, 0.4), edgecolor=group.colour, linewidth=0.8))
    axes.autoscale_view()
    middle = math.radians(min(80.0, abs(float(np.median(boxes[:, 1] + boxes[:, 3]) / 2))))
    axes.set_aspect(1 / math.cos(middle), adjustable="datalim")
    axes.ticklabel_format(useOffset=False, style="plain")
    for axis in (axes.xaxis, axes.yaxis):
        _few_ticks(axis, integer=False)
    axes.set_title("footprints")
    axes.set_xlabel("longitude, degrees")
    axes.set_ylabel("latitude, degrees")


# ---------------------------------------------------------------------------------------------------------------- parts


def _group_splits(stats: Stats) -> list[_Group]:
    """Return what has a colour of its own: each of the largest splits; the others together; what is of none."""
    named = sorted((name for name in stats.splits if name), key=lambda name: -stats.splits[name]["samples"])
    groups = [_Group(_shown(name), _COLOURS[number], (name,)) for number, name in enumerate(named[:_GROUPS_MOST])]
    if rest := named[_GROUPS_MOST:]:
        groups.append(_Group(f"{len(rest)} others", _COLOURS[_GROUPS_MOST], tuple(rest)))
    if "" in stats.splits:
        groups.append(_Group("none", _COLOURS[-1] if named else _COLOURS[0], ("",)))
    return groups


def _swatch(group: _Group) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=group.colour)


def _outlines(shape: Any, *, crossing: bool) -> list[Any]:
    import shapely

    if shapely.get_num_coordinates(shape) > _CORNERS_MOST:
        shape = shapely.envelope(shape)
    rings = [shapely.get_coordinates(ring) for ring in shapely.get_exterior_ring(shapely.get_parts(shape))]
    return [np.stack([ring[:, 0] % 360, ring[:, 1]], axis=1) for ring in rings] if crossing else rings


def _bounds(shapes: Any) -> Any:
    import shapely

    return shapely.bounds(shapes).reshape(-1, 4)


def _few_ticks(axis: Any, *, integer: bool = True) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(nbins=4, integer=integer))
    if integer:
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _tell(axes: Any, text: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)


def _shown(name: str) -> str:
    """Return a name as a label: short, and in letters that the font has; no dollar begins a formula."""
    letters = _letters()
    text = escape(name)
    text = text if len(text) <= _NAME_LETTERS else f"{text[: _NAME_LETTERS - 1]}…"
    told = "".join(c if ord(c) in letters else c.encode("ascii", "backslashreplace").decode() for c in text)
    return told.replace("$", r"\$")


@lru_cache(maxsize=1)
def _letters() -> frozenset[int]:
    """Return the code points of the font of labels."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return frozenset(font.get_charmap())
