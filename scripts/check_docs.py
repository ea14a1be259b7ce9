#!/usr/bin/env python3
"""Checks the documentation, and writes the part of it that is generated: scripts/check_docs.py [--write].

The reference (docs/reference.md) is generated from the parser of the command line and from the public Python names, the
list of rules (docs/rules.md) from their catalogue, the tables of docs/tiff.md from the tests' layouts, each of which is
read for it, docs/promises.md from scripts/promises.py and the figures of its last run. Without arguments everything is
checked: these pages are up to date, the tests of the promises exist, every command has help, relative links and images
lead somewhere, every file in docs is reachable from README.md or docs/index.md, and no page names a place of one
machine.
"""
# ruff: noqa: SLF001 - argparse keeps to itself which commands and options a parser has

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vedastore
from vedastore import errors
from vedastore.cli.parser import make_parser
from vedastore.model import Limits
from vedastore.ops.clean import CleanReport
from vedastore.ops.differences import DiffReport
from vedastore.ops.export import ExportReport
from vedastore.ops.stats import Stats
from vedastore.ops.verify import VerifyReport
from vedastore.spec.rules import SECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # some pages are made of the tests, and by other scripts
STARTS = ("README.md", "docs/index.md")
REFERENCE = "docs/reference.md"
LAYOUTS = "docs/tiff.md"
_TABLES = re.compile(r"(?<=<!-- generated -->\n).*(?=<!-- end -->)", re.DOTALL)
RULES_PAGE = "docs/rules.md"
LINE = 100
FUNCTIONS = ("convert", "open", "clean")
CLASSES = ("Collection", "Batches", "Sample")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_MACHINE = re.compile(r"/(?:root|work|home)/")
EXITS = (
    ("0", "done"),
    (
        "1",
        "done, with findings of `verify`, `validate` (notes: `--strict`), `diff --exit-code`, or samples skipped",
    ),
    ("2", "usage: an argument or option makes no sense"),
    ("3", "bad input: the release was refused"),
    ("4", "conflict: the target exists already, or another writer was first"),
    ("5", "the store is damaged, or it could not be read or written"),
    ("6", "unknown outcome: the commit may or may not have landed"),
    ("130", "interrupted"),
)
OUTPUT = """\
Results go to stdout; errors, and a progress bar on a terminal, go to stderr. A refusal is one line: where, what and
why, and what to do. With `--json` it is a document `{"error": {"kind", "message", "where", "hint"}}` on stdout too.
Where a release is refused it also has `rule`, the [rule](rules.md) that is broken."""
JSON_KEYS = {
    "convert": "store version samples features task classes label_coords fidelity content read resumed skipped"
    " skipped_samples kept_members findings",
    "convert A B": "versions",
    "export": "dest version samples members identical equivalent bytes rewritten left_out request",
    "validate": "ok samples task classes label_coords errors warnings notes findings problems",
    "validate --fix": "fixed edits",
    "demo": "folder release store band_means class_objects export verify",
    "info": "store name task classes samples features version versions buckets bounds bytes label_coords fidelity"
    " content created source skipped findings",
    "verify": "ok version samples byte_identical equivalent problems notes repaired",
    "query": "store count of samples",
    "stats": "samples chips bands classes objects objects_per_sample splits",
    "split": "store version samples left_out touching near near_duplicates groups largest block checked not_checked",
    "assign": "store version columns removed",
    "clean": "store removed bytes waiting foreign dry_run",
    "versions": "versions",
    "diff": "old new differs counts added removed images labels columns members fields",
}
"""The keys of what each command prints with --json, and those that it has besides in some cases; a test compares."""
RULES_INTRO = """\
What `vedastore validate` looks at. A conversion applies the same rules: it refuses a release with an error, or leaves
the sample out with `--on-error skip`, and stores warnings and notes with the version.

- **error**: it does not convert.
- **warning**: it converts, but something seems wrong.
- **note**: worth knowing.

The ids are stable. There is one finding a rule, with a count and the first samples, however many samples break it.
**Fix** says what `vedastore validate --fix OUT.tar.gz` does about it; where nothing is said, mending would be guessing.
[Check a release before you publish it](how-to.md#check-a-release-before-you-publish-it) shows how to use it."""
ERRORS = """\
All errors are in `vedastore.errors`. Each has `message`, `where` and `hint`; `str` joins them. `kind` is the word in
`--json`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; return the exit code."""
    parser = argparse.ArgumentParser(description="Check the documentation.")
    parser.add_argument("--write", action="store_true", help="write the generated pages before checking")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to check, this one without it")
    options = parser.parse_args(arguments)
    if options.write:
        for page, make in GENERATED.items():
            (options.root / page).write_text(make(), encoding="utf-8")
    problems = [*check_help(), *check_generated(options.root), *check_promises(ROOT), *check_pages(options.root)]
    for problem in problems:
        print(problem)
    if not problems:
        print("documentation: ok")
    return 1 if problems else 0


# ------------------------------------------------------------------------------------------------------------- checks


def check_help() -> Iterator[str]:
    """Tell every command that has no help, and every option of it that has none."""
    for name, (text, command) in commands().items():
        if not text or not command.description:
            yield f"vedastore {name}: the command has no help"
        if "example" not in (command.epilog or ""):
            yield f"vedastore {name}: the help shows no example"
        for action in command._actions:
            if action.option_strings and not action.help:
                yield f"vedastore {name} {action.option_strings[0]}: the option has no help"


def check_generated(root: Path) -> Iterator[str]:
    """Tell whether the generated pages are what the code says."""
    for name, make in GENERATED.items():
        page = root / name
        if not page.exists() or page.read_text(encoding="utf-8") != make():
            yield f"{name} is out of date: run scripts/check_docs.py --write"


def layouts_page() -> str:
    """Return the page on TIFF layouts with its tables made anew."""
    from scripts.tiff_layouts import layouts

    return _TABLES.sub(lambda _: layouts(), (ROOT / LAYOUTS).read_text(encoding="utf-8"))


def promises_page() -> str:
    """Return the page on promises, with the figures of the last run."""
    from scripts.promises import page

    return page()


def check_promises(root: Path) -> Iterator[str]:
    """Tell tests of the promises that there are not."""
    from scripts.promises import missing

    for test in missing(root):
        yield f"docs/promises.md: there is no test {test}"


def check_pages(root: Path) -> Iterator[str]:
    """Tell links that lead nowhere, files that no link leads to, and places of one machine."""
    root = root.resolve()
    seen: set[Path] = set()
    queue = [root / start for start in STARTS]
    while queue:
        page = queue.pop()
        if page in seen:
            continue
        seen.add(page)
        if not page.exists():
            yield f"{page.relative_to(root)}: there is no such page"
        elif page.suffix == ".md":
            for target, problem in links(page, root):
                if problem:
                    yield problem
                else:
                    queue.append(target)
    docs = sorted(path for path in (root / "docs").rglob("*") if path.is_file())
    for path in docs:
        if path not in seen:
            yield f"{path.relative_to(root)}: not reachable from {' or '.join(STARTS)}"
    for path in [root / "README.md", *docs]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if _MACHINE.search(line):
                yield f"{path.relative_to(root)}:{number}: names a place of one machine: {line.strip()}"
        if path not in seen and path.suffix == ".md":
            yield from (problem for _, problem in links(path, root) if problem)


def links(page: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the target of every relative link of a page, and what is wrong with it."""
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, part = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.is_relative_to(root) or not target.exists():
            yield target, f"{page.relative_to(root)}: the link {link} leads nowhere"
        elif part and part not in anchors(target):
            yield target, f"{page.relative_to(root)}: the link {link} leads to no heading"
        else:
            yield target, ""


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ---------------------------------------------------------------------------------------------------------- reference


def reference() -> str:
    """Return the reference page."""
    parts = [
        "# Reference",
        "This page is generated from the code by `scripts/check_docs.py --write`.",
        "- [Command line](#command-line)\n- [Exit codes](#exit-codes)\n- [Python](#python)\n- [Errors](#errors)",
        "## Command line",
        OUTPUT,
        *(part for name, (_, command) in commands().items() for part in command_page(name, command)),
        "## Exit codes",
        table(("code", "meaning"), EXITS),
        "## Python",
        "```python\nimport vedastore as vs\n```",
        *(part for name in FUNCTIONS for part in function_page(f"vs.{name}", getattr(vedastore, name))),
        *(part for name in CLASSES for part in class_page(f"vs.{name}", getattr(vedastore, name))),
        *limits_page(),
        *report_page("ExportReport", ExportReport),
        *report_page("VerifyReport", VerifyReport),
        *report_page("CleanReport", CleanReport),
        *report_page("DiffReport", DiffReport),
        *class_page("Stats", Stats),
        "## Errors",
        ERRORS,
        table(("error", "below", "kind", "exit", "meaning"), error_rows()),
    ]
    return "\n\n".join(parts) + "\n"


def commands() -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Return every command by name, with its line in the list of commands."""
    (found,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    texts = {choice.dest: choice.help or "" for choice in found._choices_actions}
    return {name: (texts.get(name, ""), command) for name, command in found.choices.items()}


def command_page(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the section of a command."""
    actions = [action for action in command._actions if action.dest != "help"]
    places = [action for action in actions if not action.option_strings]
    options = sorted((a for a in actions if a.option_strings), key=lambda a: a.dest in {"json", "quiet"})
    usage = " ".join(["vedastore", name, *(word(a) for a in places), "[OPTION]..."])
    yield f"### `vedastore {name}`"
    yield command.description or ""
    yield f"```sh\n{usage}\n```"
    yield table(("argument", "meaning"), [(f"`{word(a)}`", cell(a)) for a in places + options])
    yield json_line(name)
    yield "Example: `{}`".format((command.epilog or "").removeprefix("example:").strip())


def json_line(name: str) -> str:
    """Return the line about what a command prints with --json."""
    lists = {case: ", ".join(f"`{key}`" for key in keys.split()) for case, keys in JSON_KEYS.items()}
    more = [f"; `{case}` also {keys}" for case, keys in lists.items() if case.startswith(f"{name} ")]
    return f"Keys of `--json`: {lists[name]}{''.join(more)}."


def word(action: argparse.Action) -> str:
    """Return how an argument is written."""
    if not action.option_strings:
        text = str(action.metavar or action.dest)
        return {"+": f"{text}...", "?": f"[{text}]"}.get(str(action.nargs), text)
    if action.nargs == 0:
        return action.option_strings[0]
    value = action.metavar or "|".join(map(str, action.choices or [action.dest.upper()]))
    return f"{action.option_strings[0]} {value}"


def cell(action: argparse.Action) -> str:
    """Return what an argument means, and its default."""
    default = f" (default: `{action.default}`)" if action.choices and action.default else ""
    return f"{action.help or ''}{default}"


def function_page(name: str, function: Any) -> Iterator[str]:
    """Yield the section of a function: signature and docstring without its types."""
    yield f"### `{name}`"
    yield f"```python\n{signature(name, function)}\n```"
    yield docstring(function)


def class_page(name: str, kind: type) -> Iterator[str]:
    """Yield the section of a class: what it is, its attributes, its methods."""
    yield f"### `{name}`"
    yield docstring(kind)
    members = [(n, m) for base in kind.__mro__[:-1] for n, m in vars(base).items() if not n.startswith("_")]
    values = [(n, getter(m)) for n, m in members if isinstance(m, property | functools.cached_property)]
    if values:
        yield table(("attribute", "type", "is"), [(f"`{n}`", f"`{returns(m)}`", summary(m)) for n, m in values])
    for member, method in members:
        if inspect.isfunction(method):
            yield f"#### `{name.removeprefix('vs.')}.{member}`"
            yield f"```python\n{signature(member, method)}\n```"
            yield docstring(method)


def report_page(name: str, kind: type) -> Iterator[str]:
    """Yield the section of a report: its fields."""
    yield f"### `{name}`"
    yield docstring(kind)
    fields = [(f"`{f.name}`", f"`{f.type}`") for f in dataclasses.fields(kind)]
    yield table(("field", "type"), fields)


def limits_page() -> Iterator[str]:
    """Yield the section of the limits: what they are, and their defaults."""
    yield "### `vs.Limits`"
    yield f"{docstring(Limits)}\n\nOn the command line a limit is changed with `--limit NAME=VALUE`."
    yield table(("limit", "default"), [(f"`{f.name}`", amount(f.default)) for f in dataclasses.fields(Limits)])


def amount(number: int) -> str:
    """Return a number with the largest unit that it is a multiple of."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if number % unit == 0:
            return f"{number // unit} {name}"
    return f"{number:,}"


def rules_page() -> str:
    """Return the list of rules."""
    parts = ["# Rules", "This page is generated from the code by `scripts/check_docs.py --write`.", RULES_INTRO]
    for section, rules in SECTIONS.items():
        parts.append(f"## {section}")
        for rule in rules:
            fix = f"\n\n**Fix**: {rule.fix}." if rule.fix else ""
            parts.append(f"### {rule.id}\n\n*{rule.severity}*: {rule.title}.\n\n{sentence(rule.advice)}{fix}")
    return "\n\n".join(parts) + "\n"


def sentence(text: str) -> str:
    """Return a text as a sentence of its own; angle brackets would be taken for HTML."""
    return re.sub(r"<(\w+)>", r"`<\1>`", f"{text[0].upper()}{text[1:]}.")


GENERATED = {
    REFERENCE: reference,
    RULES_PAGE: rules_page,
    LAYOUTS: layouts_page,
    "docs/promises.md": promises_page,
}


def error_rows() -> Iterator[tuple[str, ...]]:
    """Yield every error: name, base, kind, exit code, first line of its docstring."""
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.VedastoreError):
            bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
            yield f"`{name}`", bases, f"`{kind.kind}`", str(kind.exit_code), summary(kind)


def getter(member: Any) -> Any:
    """Return the function behind a property."""
    return member.fget if isinstance(member, property) else member.func


def returns(function: Any) -> str:
    """Return the type that a function says it returns."""
    return str(function.__annotations__.get("return", "")).replace("|", "\\|")


def signature(name: str, function: Any) -> str:
    """Return a signature, one parameter a line where it is long; the same on every Python."""
    words: list[str] = []
    starred = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            words.append("*")
            starred = True
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        words.append(f"{stars}{parameter.name}: {parameter.annotation}{default}")
    end = f") -> {function.__annotations__.get('return', 'None')}"
    line = f"{name}({', '.join(words)}{end}"
    if len(line) <= LINE:
        return line
    return f"{name}(\n" + "".join(f"    {text},\n" for text in words) + end


def docstring(thing: Any) -> str:
    """Return a docstring as Markdown: sections as bold words, their entries as a list."""
    lines = inspect.cleandoc(thing.__doc__ or "").splitlines()
    found: list[str] = []
    section = False
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if after and set(after) == {"-"}:
            found += [f"**{line}**", ""]
            section = True
        elif line and set(line) == {"-"}:
            continue
        elif section and line and not line.startswith(" "):
            entry, _, kind = line.partition(" : ")
            found.append(f"- `{entry}`" + (f" ({kind}):" if kind else ":"))
        else:
            found.append(f"  {line.strip()}" if section and line else line)
    return re.sub(r":(?:func|class|meth|attr):`([^`]*)`", r"`\1`", "\n".join(found)).replace("``", "`").strip()


def summary(thing: Any) -> str:
    """Return the first sentence or line of a docstring."""
    return docstring(thing).split("\n\n")[0].replace("\n", " ")


def table(head: tuple[str, ...], rows: Any) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(escape(c) for c in line)} |" for line in lines)


def escape(text: str) -> str:
    """Return text for a cell of a table."""
    return re.sub(r"(?<!\\)\|", r"\\|", text)


if __name__ == "__main__":
    sys.exit(main())
