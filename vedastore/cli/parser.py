"""The words of the command line."""

from __future__ import annotations

import argparse
import re
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from vedastore.cli import diff, releases, stores
from vedastore.cli.selection import add_selection
from vedastore.errors import UsageError
from vedastore.model import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable


class _Parser(argparse.ArgumentParser):
    """Reports a wrong usage like every other error; takes several numbers below zero for a value."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {self.prog} --help")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = _Parser(
        prog="vedastore",
        description="Labelled Earth-observation chips: releases to Zarr stores, and back byte for byte.",
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = partial(_add_command, commands)
    _add_release_commands(command)
    _add_store_commands(command)
    _add_diff(command)
    return parser


def _add_release_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    sub = command(
        "convert", releases.convert, "turn a release into a store", "vedastore convert ts_104-1.0.1.tar.gz ts_104.zarr"
    )
    sub.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="a .tar.gz, .tgz or .tar, or an extracted directory; several become versions, in their order",
    )
    sub.add_argument("store", metavar="STORE", help="the store's directory")
    existing = sub.add_mutually_exclusive_group()
    existing.add_argument("--append", action="store_true", help="add a version to a store that is there")
    existing.add_argument("--overwrite", action="store_true", help="replace a store that is there")
    sub.add_argument(
        "--on-error", choices=["raise", "skip"], default="raise", help="refuse the release, or leave bad samples out"
    )
    sub.add_argument("--name", metavar="N", help="the collection's name, instead of meta.json's")
    sub.add_argument("--version", metavar="V", help="the version's name, instead of meta.json's")
    sub.add_argument(
        "--codec",
        choices=["default", "compact"],
        default="default",
        help="what any Zarr reader has, or a smaller store",
    )
    _add_workers(sub)
    _add_label_options(sub)
    _add_limits(sub)

    sub = command(
        "export",
        releases.export,
        "turn a store, or some samples of it, into a release",
        "vedastore export ts_104.zarr ts_104-1.0.1.tar.gz\n  vedastore export ts_104.zarr cars.tar.gz --class car",
    )
    sub.add_argument("store", metavar="STORE", help="the store's directory")
    sub.add_argument("dest", metavar="DEST.tar.gz", help="the archive to write: .tar.gz, .tgz or .tar")
    sub.add_argument("--version", metavar="V", help="the version to export, the latest without it")
    sub.add_argument(
        "--for-import", action="store_true", help="only images and labels; print the request for bulk import"
    )
    sub.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    sub.add_argument(
        "--level", type=int, metavar="N", help="1 and 2 (the default) compress fast, 3 to 9 as gzip does, more slowly"
    )
    add_selection(sub)
    _add_workers(sub)

    sub = command(
        "validate", releases.validate, "tell what is wrong with a release", "vedastore validate ts_104-1.0.1.tar.gz"
    )
    sub.add_argument("release", metavar="RELEASE", help="a .tar.gz, .tgz or .tar, or an extracted directory")
    sub.add_argument("--sarif", action="store_true", help="print a SARIF 2.1.0 document, for code hosts")
    sub.add_argument("--strict", action="store_true", help="let notes count too: end with 1 when there is one")
    sub.add_argument("--fix", metavar="OUT.tar.gz", help="write a release that is mended where nothing is guessed")
    sub.add_argument("--overwrite", action="store_true", help="with --fix, replace a file that is there")
    _add_workers(sub)
    _add_label_options(sub)
    _add_limits(sub)

    sub = command(
        "demo", releases.demo, "run the main job on a release made on the spot", "vedastore demo /tmp/vedastore-demo"
    )
    sub.add_argument("dir", metavar="DIR", nargs="?", help="where to; a new temporary directory without it")


def _add_store_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    sub = command("info", stores.info, "tell what a store holds", "vedastore info ts_104.zarr")
    sub.add_argument("store", metavar="STORE", help="the store's directory")
    sub.add_argument("--version", metavar="V", help="the version to describe, the latest without it")

    sub = command(
        "verify",
        stores.verify,
        "read everything again and check it",
        "vedastore verify ts_104.zarr --against ts_104-1.0.1.tar.gz",
    )
    sub.add_argument("store", metavar="STORE", help="the store's directory")
    sub.add_argument("--against", metavar="RELEASE", help="compare member by member with a release")
    sub.add_argument("--version", metavar="V", help="the version to verify, the latest without it")
    sub.add_argument("--repair", action="store_true", help="first make again what can be: root document, metadata")
    sub.add_argument("--root", metavar="ID", help="with --repair: of which write the copy of the root document is")
    _add_workers(sub)
    _add_limits(sub)

    sub = command(
        "query", stores.query, "find samples", "vedastore query ts_104.zarr --class car --where 'objects > 3'"
    )
    sub.add_argument("store", metavar="STORE", help="the store's directory")
    add_selection(sub)
    sub.add_argument("--geojson", action="store_true", help="print a FeatureCollection of footprints")
    sub.add_argument("--csv", action="store_true", help="print ids and splits, as split --given takes them")
    sub.add_argument("--version", metavar="V", help="the version to ask, the latest without it")

    sub = command("stats", stores.stats, "measure bands, classes and objects", "vedastore stats ts_104.zarr")
    sub.add_argument("store", metavar="STORE", help="the store's directory")
    sub.add_argument("--bucket", metavar="B", help="images of this shape and type only")
    sub.add_argument("--split", metavar="S", help="samples of this split only")
    sub.add_argument("--version", metavar="V", help="the version to measure, the latest without it")
    sub.add_argument("--fresh", action="store_true", help="measure again what the store keeps of an earlier time")
    sub.add_argument("--plot", metavar="OUT.png", help="draw a picture too: .png, .svg or .pdf")
    sub.add_argument("--overwrite", action="store_true", help="with --plot, replace a file that is there")
    _add_workers(sub)

    sub = command(
        "split", stores.split, "say which samples train and which test", "vedastore split ts_104.zarr --seed 1"
    )
    sub.add_argument("store", metavar="STORE", help="the store's directory")
    for name, share in (("train", 70), ("test", 20), ("validate", 10)):
        sub.add_argument(f"--{name}", type=float, default=share, metavar="PERCENT", help=f"{share} without it")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="another one gives another split")
    sub.add_argument(
        "--by", choices=["id", "place"], default="id", help="place: chips that touch are never in different splits"
    )
    sub.add_argument("--block", type=float, metavar="DEGREES", help="with --by place: the side of a block")
    sub.add_argument(
        "--buffer", type=float, default=0.0, metavar="DEGREES", help="with --by place: what lies between splits"
    )
    sub.add_argument("--stratify", action="store_true", help="let the shares hold for every class")
    sub.add_argument("--duplicates", action="store_true", help="keep images that look alike in one split")
    sub.add_argument(
        "--bits", type=int, metavar="N", help="with --duplicates: how many of 64 bits may differ, 4 without it"
    )
    sub.add_argument("--given", metavar="FILE", help="take the splits from CSV (id,split) or a JSON object instead")
    _add_workers(sub)

    sub = command(
        "assign", stores.assign, "write results back as columns of samples", "vedastore assign ts_104.zarr scores.csv"
    )
    sub.add_argument("store", metavar="STORE", help="the store's directory")
    sub.add_argument(
        "file", metavar="FILE.csv", nargs="?", help="a column 'id', and columns to write; an empty field is no value"
    )
    sub.add_argument(
        "--remove", metavar="NAME", action="append", default=[], help="remove a column; may be given several times"
    )

    sub = command("clean", stores.clean, "remove what no version names", "vedastore clean ts_104.zarr --dry-run")
    sub.add_argument("store", metavar="STORE", help="the store's directory")
    sub.add_argument(
        "--grace",
        metavar="DAYS",
        type=float,
        help="leave what may still be read or written: longer than any reader and writer takes, 7 without it",
    )
    sub.add_argument("--dry-run", action="store_true", help="only tell what would be removed")

    sub = command("versions", stores.versions, "list the versions of a store", "vedastore versions ts_104.zarr")
    sub.add_argument("store", metavar="STORE", help="the store's directory")


def _add_diff(command: Callable[..., argparse.ArgumentParser]) -> None:
    sub = command(
        "diff",
        diff.diff,
        "tell what changed from one version to another",
        "vedastore diff ts_104.zarr 1.0.1 1.0.2\n  vedastore diff ts_104.zarr 1.0.1 1.0.2 --to other.zarr --json",
    )
    sub.add_argument("store", metavar="STORE", help="the store's directory")
    sub.add_argument("old", metavar="V1", help="the version to begin with")
    sub.add_argument("new", metavar="V2", nargs="?", help="the version that it is compared with, the latest without it")
    sub.add_argument("--to", metavar="OTHER", help="the store that has V2, where it is another one")
    sub.add_argument("--exit-code", action="store_true", help="end with 1 when anything changed")


def _add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, example: str
) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sub.add_argument("--json", action="store_true", help="print one JSON document")
    sub.add_argument("--quiet", action="store_true", help="print nothing but errors")
    sub.set_defaults(run=run)
    return sub


def _add_label_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--label-coords",
        choices=["auto", "pixel", "geographic"],
        default="auto",
        help="what georeferenced labels' coordinates are",
    )
    sub.add_argument("--label-field", metavar="F", help="the property that holds the label, instead of 'label'")
    sub.add_argument("--default-label", metavar="L", help="the class of samples that have no label")
    sub.add_argument("--task", choices=TASKS, help="the task, instead of meta.json's")


def _add_workers(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--workers", metavar="N", type=int, help="how many work at a time; one a core without it")
    sub.add_argument("--scheduler", metavar="ADDRESS", help="run on the Dask cluster of this scheduler")


def _add_limits(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--limit",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="change a limit, such as image_bytes=4GiB; may be given several times",
    )


class _ShowVersion(argparse.Action):
    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"vedastore {version('vedastore')}")
        raise SystemExit(0)
