"""The tables of docs/tiff.md: what really becomes of every file in the tests' catalogue of TIFF layouts."""

from __future__ import annotations

import functools
import itertools
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.zoo import sweep
from tests.zoo_specials import SECTIONS
from vedastore.errors import ImageError
from vedastore.io import tiff

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SCHEMES = {
    "none": "uncompressed", "lzw": "LZW", "deflate": "Deflate", "packbits": "PackBits", "zstd": "Zstandard",
    "lzma": "LZMA",
}  # fmt: skip
OUTCOMES = {
    "exact": "exact", "whole": "exact, whole file", "equivalent": "equivalent", "decoded": "decoded",
    "refused": "refused",
}  # fmt: skip


@functools.cache
def layouts() -> str:
    """Return all tables, as Markdown."""
    logging.getLogger("rasterio").setLevel(logging.ERROR)  # GDAL warns of old-style JPEG
    parts = ["### Sweep", table((SCHEMES[name], entries) for name, entries in groups(sweep()))]
    for title, section in SECTIONS.items():
        parts += [f"### {title}", table(groups(section()))]
    return "\n\n".join(parts) + "\n"


def groups(entries: Iterable[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the rows of a table: a group's name, its entries."""
    ordered: dict[str, list[Any]] = {}
    for entry in entries:
        ordered.setdefault(entry.group, []).append(entry)
    yield from ordered.items()


def table(rows: Iterable[tuple[str, list[Any]]]) -> str:
    """Return a Markdown table of rows."""
    head = ["| layout | files | given back | pixels |", "| --- | --- | --- | --- |"]
    return "\n".join(itertools.chain(head, (row(name, entries) for name, entries in rows)))


def row(name: str, entries: list[Any]) -> str:
    """Take each file of a group apart, and tell what became of them."""
    outcomes: Counter[str] = Counter()
    dtypes: dict[str, None] = {}
    for entry in entries:
        outcome, dtype = outcome_of(entry.build())
        outcomes[outcome] += 1
        if dtype:
            dtypes[dtype] = None
    single = len(outcomes) == 1
    told = "; ".join(text if single else f"{text}: {outcomes[key]}" for key, text in OUTCOMES.items() if outcomes[key])
    return f"| {name} | {len(entries)} | {told} | {', '.join(dtypes)} |"


def outcome_of(data: bytes) -> tuple[str, str]:
    """Return what becomes of a file, and the type of its pixels."""
    try:
        taken = tiff.decode(data)
    except ImageError as error:
        if error.rule != "image-unsupported":
            raise
        return "refused", ""
    whole = tiff.describe(taken.envelope).encoder == "verbatim"
    return "whole" if whole else taken.fidelity, taken.pixels.dtype.name
