#!/usr/bin/env python3
"""Draws docs/images/stats.svg, the picture of statistics in the how-to: scripts/stats_picture.py [OUT.svg].

It shows the release that `vedastore demo` makes, split by id. The same release gives the same picture.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import vedastore as vs
from vedastore.views.demo import demo

if TYPE_CHECKING:
    from collections.abc import Sequence

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "stats.svg"


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description="Draw the picture of statistics in the how-to.")
    parser.add_argument("dest", nargs="?", type=Path, default=PICTURE, help="docs/images/stats.svg without it")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        vs.open(demo(folder).store).split(seed=1).stats().plot(options.dest, overwrite=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
