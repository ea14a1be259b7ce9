"""The picture of the results (SVG): chips per second of all contenders, on a scale of powers of ten."""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

PANELS = {
    "convert": "Convert",
    "sequential": "Read in a row",
    "batches": "Read shuffled batches of 32",
    "single": "Read single random chips",
}
WIDTH, NAMES, FIGURES, MARGIN = 880, 300, 80, 16
BAR, STEP, TITLE, AXIS = 16, 23, 40, 28
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title"
     font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="13">
  <title id="title">Chips per second, on a logarithmic scale</title>
  <style>
    text {{ fill: #1f2328; }}
    .title {{ font-weight: 600; font-size: 15px; }}
    .tick {{ fill: #57606a; font-size: 11px; }}
    .line {{ stroke: #d0d7de; stroke-width: 1; }}
    .bar {{ fill: #9aa4af; }}
    .ours {{ fill: #0969da; }}
    .roof {{ fill: none; stroke: #57606a; stroke-dasharray: 3 2; }}
    @media (prefers-color-scheme: dark) {{
      text {{ fill: #e6edf3; }}
      .tick {{ fill: #9ea7b3; }}
      .line {{ stroke: #30363d; }}
      .bar {{ fill: #6e7681; }}
      .ours {{ fill: #58a6ff; }}
      .roof {{ stroke: #8b949e; }}
    }}
  </style>"""


def draw(results: dict[str, Any]) -> str:
    """Return the picture; ``""`` where none of its stages was measured."""
    panels = {title: _measured(results["stages"].get(stage, [])) for stage, title in PANELS.items()}
    panels = {title: rows for title, rows in panels.items() if rows}
    if not panels:
        return ""
    speeds = [row["chips_per_second"] for rows in panels.values() for row in rows]
    low, high = math.floor(math.log10(min(speeds))), math.ceil(math.log10(max(speeds)))
    parts, y = [], MARGIN
    for title, rows in panels.items():
        panel, y = _draw_panel(title, rows, low, high, y)
        parts += panel
    return "\n".join([HEAD.format(width=WIDTH, height=y), *parts, "</svg>\n"])


def _measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [row for row in rows if row["seconds"]]
    return sorted(found, key=lambda row: -row["chips_per_second"])


def _draw_panel(title: str, rows: list[dict[str, Any]], low: int, high: int, top: int) -> tuple[list[str], int]:
    """Return the elements of one panel, and where the next one begins."""
    bottom = top + TITLE + STEP * len(rows)
    unit = (WIDTH - NAMES - FIGURES - MARGIN) / (high - low)
    parts = [f'  <text class="title" x="{MARGIN}" y="{top + 20}">{escape(title)}</text>']
    for power in range(low, high + 1):
        x = NAMES + unit * (power - low)
        parts.append(f'  <line class="line" x1="{x:.1f}" y1="{top + TITLE - 6}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'  <text class="tick" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{10**power:,}</text>')
    for number, row in enumerate(rows):
        y = top + TITLE + STEP * number
        long = unit * (math.log10(row["chips_per_second"]) - low)
        kind = "bar ours" if row["key"].startswith("vedastore") else "roof" if row["key"] == "memmap" else "bar"
        parts += [
            f'  <text x="{NAMES - 8}" y="{y + 13}" text-anchor="end">{escape(row["label"])}</text>',
            f'  <rect class="{kind}" x="{NAMES}" y="{y}" width="{long:.1f}" height="{BAR}" rx="2"/>',
            f'  <text x="{NAMES + long + 6:.1f}" y="{y + 13}">{row["chips_per_second"]:,.0f}</text>',
        ]
    return parts, bottom + AXIS
