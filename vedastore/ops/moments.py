"""What the values of a band add up to: parts that are counted apart and merged, the same in any order.

Values of 8 and 16 bits are counted one by one, and everything else follows from the counts in whole numbers. Of wider
ones count, extremes and moments are merged (Chan, Golub and LeVeque, 1983); order statistics are found digit by digit,
16 bits of the values' order at a time, so that they are exact in bounded memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BINS: Final = 256
DIGIT_BITS: Final = 16
_NARROW_BYTES: Final = 2


def is_counted(dtype: np.dtype[Any]) -> bool:
    """Tell whether every value of a type has a count of its own."""
    return dtype.itemsize <= _NARROW_BYTES


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, extremes, mean and sum of squared deviations of some values; how many were left out as not finite."""

    count: int = 0
    least: float | int = math.inf
    most: float | int = -math.inf
    mean: Any = 0.0  # long doubles, where there are values
    squares: Any = 0.0
    invalid: int = 0

    @classmethod
    def of(cls, values: np.ndarray[Any, Any]) -> Moments:
        """Measure an array of one dimension."""
        invalid = 0
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            invalid = int(values.size - finite.sum())
            values = values[finite] if invalid else values
        if not values.size:
            return cls(invalid=invalid)
        mean = values.mean(dtype=np.longdouble)
        squares = np.square(values - mean, dtype=np.longdouble).sum()
        return cls(values.size, values.min().item(), values.max().item(), mean, squares, invalid)

    @classmethod
    def of_counts(cls, counts: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> Moments:
        """Measure values by their counts, as `count_values` gives them."""
        present, invalid = np.flatnonzero(counts[:-1]), int(counts[-1])
        if not len(present):
            return cls(invalid=invalid)
        values, numbers = key_values(present, dtype), counts[present]
        count = int(numbers.sum())
        wide = values.astype(np.longdouble)
        mean = (wide * numbers).sum() / count
        squares = (np.square(wide - mean) * numbers).sum()
        return cls(count, values[0].item(), values[-1].item(), mean, squares, invalid)

    @property
    def std(self) -> float | None:
        """The standard deviation of the population."""
        return float(np.sqrt(self.squares / self.count)) if self.count else None

    def merge(self, other: Moments) -> Moments:
        """Return the moments of the values of both."""
        count, invalid = self.count + other.count, self.invalid + other.invalid
        if not self.count or not other.count:
            return replace(self if self.count else other, invalid=invalid)
        apart = other.mean - self.mean
        share = np.longdouble(other.count) / count
        return Moments(
            count,
            min(self.least, other.least),
            max(self.most, other.most),
            self.mean + apart * share,
            self.squares + other.squares + apart * apart * self.count * share,
            invalid,
        )


@dataclass(frozen=True, slots=True)
class Band:
    """What is known of one band: numbers are None where it has no value."""

    count: int
    invalid: int
    min: float | int | None
    max: float | int | None
    mean: float | None
    std: float | None
    percentiles: dict[str, float] = field(default_factory=dict)
    histogram: tuple[int, ...] = ()
    edges: tuple[float, ...] = ()


# ---------------------------------------------------------------------------------------------------- counts of values


def count_values(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Count each value of an array of 8 or 16 bits in the order of values; behind them, what is not finite."""
    keys = np.ascontiguousarray(order_keys(values)).reshape(-1)
    size = 2 ** (8 * keys.dtype.itemsize)
    if keys.dtype.itemsize > 1 or keys.size % 2:
        counts = np.bincount(keys, minlength=size)
    else:  # two at a time
        pairs = np.bincount(keys.view("<u2"), minlength=size * size).reshape(size, size)
        counts = pairs.sum(0) + pairs.sum(1)
    return np.append(counts, values.size - keys.size)


def describe_counts(counts: np.ndarray[Any, Any], dtype: np.dtype[Any], percents: Sequence[float]) -> Band:
    """Describe a band by the counts of its values."""
    counts, invalid = counts[:-1], int(counts[-1])
    present = np.flatnonzero(counts)
    if not len(present):
        return Band(0, invalid, None, None, None, None)
    values: list[float | int] = key_values(present, dtype).tolist()
    numbers = counts[present].tolist()
    count = sum(numbers)
    exact = [v if isinstance(v, int) else Fraction(v) for v in values]
    total = sum(v * n for v, n in zip(exact, numbers, strict=True))
    squares = sum(v * v * n for v, n in zip(exact, numbers, strict=True))
    variance = Fraction(squares * count - total * total) / count**2
    edges = bin_edges(values[0], values[-1], dtype)
    slots = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    ends = np.cumsum(numbers)

    def at(rank: int) -> float | int:
        return values[int(np.searchsorted(ends, rank, side="right"))]

    return Band(
        count=count,
        invalid=invalid,
        min=values[0],
        max=values[-1],
        mean=float(Fraction(total) / count),
        std=math.sqrt(variance),
        percentiles={percent_name(p): _between(p, count, at) for p in percents},
        histogram=tuple(np.bincount(slots, numbers, len(edges) - 1).astype(int).tolist()),
        edges=tuple(edges.tolist()),
    )


def bin_edges(least: float, most: float, dtype: np.dtype[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the edges of a histogram: a bin for each value of 8 bits, else 256 bins of one width.

    There are fewer where so many doubles do not fit between the extremes.
    """
    if dtype.itemsize == 1:
        info = np.iinfo(dtype)
        return np.arange(info.min, info.max + 2, dtype="f8")
    low, high = float(least), float(most)
    if low == high:
        return np.array([low, np.nextafter(high, np.inf)])
    edges = 2 * (low / 2 + (high / 2 - low / 2) * (np.arange(BINS + 1) / BINS))  # halves do not overflow
    edges[-1] = high
    return np.unique(np.clip(edges, low, high))


# ----------------------------------------------------------------------------------------------------- order, by digits


def order_keys(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return unsigned integers of the same size that are in the order of the values, without what is not finite."""
    if values.dtype.kind == "u":
        return values
    bits = values.dtype.itemsize * 8
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    top = unsigned.type(1 << (bits - 1))
    keys: np.ndarray[Any, Any]
    if values.dtype.kind == "i":
        keys = values.view(unsigned) ^ top
        return keys
    raw = (values[np.isfinite(values)] + values.dtype.type(0)).view(unsigned)  # no zero below zero
    keys = np.where(raw & top, ~raw, raw | top).astype(unsigned, copy=False)
    return keys


def key_values(keys: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return the values of keys."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    keys = np.array(keys, unsigned)
    top = unsigned.type(1 << (dtype.itemsize * 8 - 1))
    if dtype.kind == "f":
        keys = np.where(keys & top, keys ^ top, ~keys)
    elif dtype.kind == "i":
        keys = keys ^ top
    values: np.ndarray[Any, Any] = keys.view(dtype)
    return values


def count_digits(keys: np.ndarray[Any, Any], prefixes: Iterable[int], known_bits: int) -> dict[int, Any]:
    """Count the next 16 bits of the keys that begin with each of some prefixes of so many bits."""
    bits = keys.dtype.itemsize * 8
    shift = keys.dtype.type(bits - known_bits - DIGIT_BITS)
    digits = keys >> shift
    found = {}
    for prefix in prefixes:
        part = digits if not known_bits else digits[(digits >> keys.dtype.type(DIGIT_BITS)) == prefix]
        low = (part & keys.dtype.type((1 << DIGIT_BITS) - 1)).astype("u2")
        found[prefix] = np.bincount(low, minlength=1 << DIGIT_BITS)
    return found


@dataclass(frozen=True, slots=True)
class Search:
    """An order statistic that is being found: the digits that are known, and its rank among the keys that have them."""

    rank: int
    prefix: int = 0

    def narrow(self, counts: np.ndarray[Any, Any]) -> Search:
        """Return the search with 16 bits more."""
        ends = np.cumsum(counts)
        digit = int(np.searchsorted(ends, self.rank, side="right"))
        before = int(ends[digit - 1]) if digit else 0
        return Search(self.rank - before, (self.prefix << DIGIT_BITS) | digit)


def ranks_of(percents: Sequence[float], count: int) -> tuple[int, ...]:
    """Return the ranks, from 0, between which percentiles lie."""
    if not count:
        return ()
    places = [Fraction(p) / 100 * (count - 1) for p in percents]
    return tuple(sorted({r for place in places for r in (math.floor(place), math.ceil(place))}))


def percentiles(percents: Sequence[float], count: int, found: dict[int, float | int]) -> dict[str, float]:
    """Return percentiles by the values of their ranks."""
    return {percent_name(p): _between(p, count, found.__getitem__) for p in percents} if count else {}


def _between(percent: float, count: int, at: Any) -> float:
    """Return a percentile between two ranks, in proportion, as NumPy's default does."""
    place = Fraction(percent) / 100 * (count - 1)
    low, high = at(math.floor(place)), at(math.ceil(place))
    return float(Fraction(low) + (Fraction(high) - Fraction(low)) * (place - math.floor(place)))


def percent_name(percent: float) -> str:
    """Return a percentage as the key of its percentile: 50.0 is "50"."""
    return repr(float(percent)).removesuffix(".0")
