"""The statistics that a store keeps of a version: what the object says, and what makes it one of that version.

Nothing depends on it: a reader may ignore it, and does so where it does not fit. Source: ``docs/format.md``.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NoReturn

from vedastore.spec.root import digest_version, dump_json, seal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vedastore.spec.root import Version

FORMAT: Final = 1
"""Another number where figures mean something else; a reader takes only its own."""
LIMIT_BYTES: Final = 8 * 2**20
"""A longer document is neither written nor read."""
_COUNT_LIMIT: Final = 2**63
_NUMBER_LIMIT: Final = 2**64
_BINS_MOST: Final = 256
_SUMMARY: Final = ("min", "max", "mean", "median")
_FIGURES: Final = ("min", "max", "mean", "std")


def dump_stats(stats: dict[str, Any], version: Version, bucket: str | None) -> bytes:
    """Return the bytes of the statistics of a version, of the chips of one bucket where it is named.

    Raises
    ------
    ValueError
        When they are not what a reader would take.
    """
    body = {"format": FORMAT, "describes": digest_version(version), "bucket": bucket, "stats": stats}
    data = dump_json(seal(body))
    parse_stats(data, version, bucket)
    return data


def parse_stats(data: bytes, version: Version, bucket: str | None) -> dict[str, Any] | None:
    """Return the statistics of a version; None where they are of another version or format.

    Raises
    ------
    ValueError
        When they are damaged, or cannot be those of the version.
    """
    if len(data) > LIMIT_BYTES:
        raise ValueError(f"it has more than {LIMIT_BYTES} bytes")
    try:
        body = json.loads(data, parse_constant=_refuse, parse_float=_parse_finite)
        is_sound = body == seal({name: value for name, value in body.items() if name != "checksum"})
    except (ValueError, AttributeError, RecursionError):
        raise ValueError("it is no document of statistics") from None
    if not is_sound:
        raise ValueError("the checksum does not fit")
    if body.get("format") != FORMAT or body.get("describes") != digest_version(version):
        return None
    if body.get("bucket") != bucket:
        raise ValueError("it is of other chips")
    try:
        _check_stats(body["stats"], version, bucket)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a figure is missing or of another kind: {str(error)[:100]}") from None
    stats: dict[str, Any] = body["stats"]
    return stats


def _check_stats(stats: dict[str, Any], version: Version, bucket: str | None) -> None:
    samples = stats["samples"]
    _require(_is_count(samples) and (bucket is not None or samples == version.samples), "samples")
    chips = stats["chips"]
    arrays = version.arrays
    specs = [arrays[c["bucket"]].spec for c in chips]
    _require(samples == _total(c["samples"] for c in chips), "samples by bucket")
    shapes = [(c["dtype"], c["bands"], c["height"], c["width"]) for c in chips]
    _require(shapes == [(s.dtype, s.bands, s.height, s.width) for s in specs], "shapes of chips")
    _require(len(stats["bands"]) == max((s.bands for s in specs), default=0), "number of bands")
    values = sum(c["samples"] * s.height * s.width for c, s in zip(chips, specs, strict=True))
    for number, band in enumerate(stats["bands"], 1):
        _check_band(band, number, values)
    objects = stats["objects"]
    _check_objects(objects)
    _check_summary(objects["per_sample"])
    _require(bucket is not None or objects["objects"] == version.features, "objects")
    _require(list(stats["classes"]) == list(version.classes), "classes")
    for of_class in stats["classes"].values():
        _require(_is_count(of_class["samples"]) and of_class["samples"] <= samples, "samples of a class")
        _check_objects(of_class)
    _require(objects["objects"] == _total(c["objects"] for c in stats["classes"].values()), "objects by class")
    counts = {_parse_count(number): count for number, count in stats["objects_per_sample"].items()}
    _require(samples == _total(counts.values()), "samples by objects")
    _require(objects["objects"] == sum(number * count for number, count in counts.items()), "objects by sample")
    splits = stats["splits"].values()
    _require(samples == _total(s["samples"] for s in splits), "samples by split")
    _require(objects["objects"] == _total(s["objects"] for s in splits), "objects by split")
    for split in splits:
        _check_split(split, version, len(stats["bands"]))


def _check_band(band: dict[str, Any], number: int, most: int) -> None:
    _check_figures(band, number)
    _require(_is_count(band["invalid"]) and band["count"] + band["invalid"] <= most, "values of a band")
    bins, edges = band["histogram"], band["edges"]
    _require(isinstance(bins, list) and isinstance(edges, list) and len(bins) <= _BINS_MOST, "histogram")
    _require(len(edges) == (len(bins) + 1 if bins else 0) and _total(bins) == band["count"], "histogram")
    _require(all(map(_is_number, edges)) and all(a < b for a, b in pairwise(edges)), "edges of a histogram")
    _check_percentiles(band["percentiles"])


def _check_figures(band: dict[str, Any], number: int) -> None:
    _require(band["band"] == number and _is_count(band["count"]), "count of a band")
    figures = [band[name] for name in _FIGURES]
    if not band["count"]:
        _require(figures == [None] * len(_FIGURES), "figures of a band without values")
        return
    low, high, mean, std = figures
    _require(all(map(_is_number, figures)) and low <= high and std >= 0, "figures of a band")
    slack = 1e-9 * max(abs(low), abs(high))  # rounding of a mean
    _require(low - slack <= mean <= high + slack and std <= (high / 2 - low / 2) + slack, "figures of a band")


def _check_objects(told: dict[str, Any]) -> None:
    """Check the sizes of the objects of a class, or of all."""
    _require(_is_count(told["objects"]), "objects of a class")
    for name in ("area_px", "width_px", "height_px", "area_m2"):
        if name in told:
            _check_summary(told[name])
            _require(told[name]["count"] <= told["objects"], f"{name} of objects")


def _check_summary(told: dict[str, Any]) -> None:
    _require(_is_count(told["count"]), "count of a summary")
    _require(all(told[name] is None or _is_number(told[name]) for name in _SUMMARY), "figures of a summary")
    _check_percentiles(told["percentiles"])


def _check_percentiles(told: dict[str, Any]) -> None:
    _require(all(value is None or _is_number(value) for value in told.values()), "percentiles")


def _check_split(split: dict[str, Any], version: Version, bands: int) -> None:
    for name in ("classes", "class_objects"):
        _require(set(split[name]) <= set(version.classes) and all(map(_is_count, split[name].values())), "split")
    _require(len(split["bands"]) in {0, bands}, "bands of a split")
    for number, band in enumerate(split["bands"], 1):
        _check_figures(band, number)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"its {what} cannot be those of the version")


def _total(counts: Iterable[Any]) -> int:
    """Return the sum of counts; -1, which nothing equals, where one is none."""
    known = [*counts]
    return sum(known) if all(map(_is_count, known)) else -1


def _parse_count(text: str) -> int:
    number = int(text)
    _require(str(number) == text and _is_count(number), "numbers of objects")
    return number


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _COUNT_LIMIT


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and abs(value) < _NUMBER_LIMIT
    )


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _parse_finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:40]} is out of range")
    return value
