"""The page (Markdown) that a run's results make; no figure comes from anywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scripts.benchmarks.goals import judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripts.benchmarks.results import Stage

MB = 10**6
TITLES = {
    "convert": "Convert",
    "deflate": "Convert compressed TIFFs",
    "export": "Export",
    "verify": "Verify",
    "sequential": "Read in a row",
    "batches": "Read shuffled batches",
    "single": "Read single chips",
    "index": "A large index",
    "start": "Start",
    "scaling": "From few chips to many",
}
READING = """In one process, libraries imported before. A first pass includes opening; figures are of the second one.
The pixels of all are summed up and compared."""
INTROS = {
    "convert": """From the release to arrays: whole processes. The pixels of every store are summed up by zarr-python
        and compared with those of the TIFFs.""",
    "deflate": "The same chips in TIFFs with Deflate compression: whole processes.",
    "export": "From the store to a tar.gz: whole processes. The images are the same bytes as before.",
    "verify": "Whole processes. `verify` reads every object, and proves every image by its digest.",
    "sequential": f"The sum of all pixels. {READING}",
    "batches": f"""Batches of 32 random chips, each chip once. {READING} WebDataset cannot: it shuffles what passes
        through a buffer.""",
    "single": f"Random chips, one by one, on one thread. {READING} WebDataset cannot.",
    "start": "What is paid before any work.",
    "scaling": "`vedastore convert` of a tar.gz.",
}


def render(results: dict[str, Any], plot: str | None) -> str:
    """Return the page; ``plot`` is the name of the picture beside it."""
    stages = results["stages"]
    parts = [_head(results), _goals(results)]
    if plot:
        parts.append(f"![Chips per second of all contenders: the tables below have the same figures.]({plot})\n")
    for name, rows in stages.items():
        intro = INTROS.get(name) or f"{results['data']['index_samples']:,} samples without pixels, in one process."
        parts.append(f"## {TITLES[name]}\n\n{_wrap(intro)}\n\n{_TABLES.get(name, _speeds)(rows, results)}")
    parts.append(_sizes(results))
    return "\n".join(part for part in parts if part)


def _head(results: dict[str, Any]) -> str:
    machine, data = results["machine"], results["data"]
    made = "of smooth fields and noise" if data["is_builtin"] else "by another program, from real ones"
    versions = ", ".join(f"{k} {v}" for k, v in (machine["libraries"] | machine["tools"]).items())
    shape = f"{data['size_px']} x {data['size_px']} x {data['bands']} {data['dtype']}"
    memory = (
        "PSS: pages that several processes share count once"
        if machine["memory_is"] == "PSS"
        else "RSS: pages that several processes share count for each"
    )
    load = ", ".join(f"{value:.1f}" for value in results["load"])
    cores = f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']:.0f} GiB, {machine['system']}"
    rounds = "round" if results["rounds"] == 1 else "rounds"
    part = f"Other stages than conversions have {data['read_samples']:,} of them."
    paragraphs = [
        f"""{data["samples"]:,} chips of {shape} in uncompressed GeoTIFFs with labelled objects, made {made}:
        {data["raw_bytes"] / MB:,.0f} MB as a tar, {data["release_bytes"] / MB:,.0f} MB as a tar.gz (gzip -6).
        {part if data["read_samples"] < data["samples"] else ""}""",
        f"""All take turns: {results["rounds"]} {rounds}, each in an order of its own. All that a run reads is read
        just before it, so that it is in the page cache. Figures are medians, with the least and the greatest in
        brackets. How many times as long as the first row another one takes is counted within each round, so that a
        machine that is slow for a while changes little.""",
        f"""Memory is the peak of the whole tree of processes ({memory}), seen in a further run that is not timed.
        A conversion and an export are checked and durable (`fsync`) when they end; what they are compared with is
        not.""",
        f"""{cores}, Python {machine["python"]}; {versions}. {machine["date"]}; load over the last minute, before and
        after: {load}. Where it is above the number of cores before, other work slowed all contenders.""",
        """[Performance](performance.md) tells where the time goes. Every single run is in
        [benchmarks.json](benchmarks.json).""",
    ]
    head = f"# Benchmarks\n\nWritten by `scripts/bench`. The same again:\n\n```sh\n{results['command']}\n```"
    return "\n\n".join([head, *(_wrap(text) for text in paragraphs)]) + "\n"


def _goals(results: dict[str, Any]) -> str:
    lines = ["| | goal | measured | reached |", "|---|---|---|---|"]
    for goal, value in judge(results):
        wanted = f"{goal.bound} {_number(goal.limit)} {goal.unit}"
        if value is None:
            lines.append(f"| {goal.text} | {wanted} | not measured | |")
        else:
            lines.append(
                f"| {goal.text} | {wanted} | {_number(value)} | {'yes' if goal.reached(value) else '**no**'} |"
            )
    return "\n".join(["## Goals", "", *lines, ""])


def _speeds(rows: Stage, _results: dict[str, Any]) -> str:
    lines = ["| | chips/s | s | times as long | peak memory, MiB | |", "|---|---|---|---|---|---|"]
    if any("first_seconds" in row for row in rows):
        lines[0] = lines[0].replace("| s |", "| ms a chip |")
    for row in rows:
        if not row["seconds"]:
            lines.append(f"| {_name(row)} | {_because(row)} | | | | {row['note']} |")
            continue
        scale = 1000 / row["chips"] if "first_seconds" in row else 1
        time = _spread([scale * s for s in (row["seconds_median"], *row["seconds_range"])])
        lines.append(
            f"| {_name(row)} | {row['chips_per_second']:,.0f} | {time} | {_ratio(row)} | {_peak(row)} | {row['note']} |"
        )
    return "\n".join([*lines, ""])


def _times(rows: Stage, _results: dict[str, Any]) -> str:
    lines = ["| | ms | peak memory, MiB |", "|---|---|---|"]
    for row in rows:
        if not row["seconds"]:
            lines.append(f"| {_name(row)} | {_because(row)} | |")
            continue
        time = _spread([1000 * s for s in (row["seconds_median"], *row["seconds_range"])])
        lines.append(f"| {_name(row)} | {time} | {_peak(row)} |")
    return "\n".join([*lines, ""])


def _curve(rows: Stage, _results: dict[str, Any]) -> str:
    lines = ["| | ms a chip | peak PSS, MiB | peak RSS, MiB |", "|---|---|---|---|"]
    for row in rows:
        if not row["seconds"]:
            lines.append(f"| {row['label']} | {_because(row)} | | |")
            continue
        time = _spread([1000 * s / row["chips"] for s in (row["seconds_median"], *row["seconds_range"])])
        lines.append(f"| {row['label']} | {time} | {row['pss_mib']:.0f} | {row['rss_mib']:.0f} |")
    return "\n".join([*lines, ""])


_TABLES = {"index": _times, "start": _times, "scaling": _curve}


GZIP = "tar.gz (gzip -6)"
_WRITTEN = {
    ("convert", "vedastore"): "store",
    ("convert", "vedastore-compact"): "store, `--codec compact`",
    ("export", "vedastore"): "exported tar.gz",
}


def _sizes(results: dict[str, Any]) -> str:
    data, stages = results["data"], results["stages"]
    sizes = {name: data[f"{key}_bytes"] / data["samples"] for name, key in (("tar", "raw"), (GZIP, "release"))}
    for stage, rows in stages.items():
        sizes |= {
            _WRITTEN[stage, row["key"]]: row["bytes"] / row["chips"]
            for row in rows
            if (stage, row["key"]) in _WRITTEN and "bytes" in row
        }
    lines = [
        f"| {name} | {size / 1000:,.1f} | {sizes['tar'] / size:.2f} : 1 | {size / sizes[GZIP]:.2f} |"
        for name, size in sizes.items()
    ]
    return "\n".join(["## Sizes", "", "| | KB a chip | compression | by the tar.gz |", "|---|---|---|---|", *lines, ""])


def _name(row: dict[str, Any]) -> str:
    return str(row["label"])


def _because(row: dict[str, Any]) -> str:
    return str(row["status"]).replace("|", "\\|") if row["status"] != "ok" else "not measured"


def _ratio(row: dict[str, Any]) -> str:
    return _spread([row["ratio"], *row["ratio_range"]]) if "ratio" in row else ""


def _peak(row: dict[str, Any]) -> str:
    return f"{row['pss_mib'] or row['rss_mib']:.0f}" if row["rss_mib"] else ""


def _spread(values: Sequence[float]) -> str:
    middle, least, greatest = (_number(value) for value in values)
    return f"{middle} ({least} to {greatest})"


def _number(value: float) -> str:
    """Return two or three digits that matter.

    >>> [_number(x) for x in (1234.5, 400, 12, 1.6, 0.95, 0.0123, 0.00045)]
    ['1,234', '400', '12', '1.60', '0.95', '0.012', '0.00045']
    """
    if value == int(value) or abs(value) >= 100:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.{1 if abs(value) >= 10 else 2}f}" if abs(value) >= 0.1 else f"{value:.2g}"  # noqa: PLR2004


def _wrap(text: str, width: int = 119) -> str:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])
