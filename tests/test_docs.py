"""The documentation runs: README, tutorial, how-to and formats, block by block, in one directory each.

``python`` blocks are executed and ``pycon`` blocks have their output checked, in one namespace a page. In ``console``
blocks the lines that begin with ``$`` are run, and the lines below are what they print. A command must succeed, unless
``echo $?`` follows it. Blocks of other languages are not run, nor those that import PyTorch where it is not there.
"""

import argparse
import contextlib
import doctest
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sysconfig
import tarfile
import textwrap
from pathlib import Path

import pytest

from vedastore.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "docs/tutorial.md", "docs/how-to.md", "docs/analysis.md", "docs/format.md"]
PREPARED = {"docs/how-to.md", "docs/analysis.md", "docs/format.md"}  # begin with a release and a store that are there
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NEEDS_TORCH = re.compile(r"^(?:>>> )?(?:import|from) (?:vedastore\.)?torch\b", re.MULTILINE)
BLOCK = re.compile(r"^```(python|pycon|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A release, and the store made from it."""
    folder = tmp_path_factory.mktemp("demo")
    assert run_cli(["demo", str(folder)])[0] == 0
    return folder


@pytest.fixture
def check_docs():
    """scripts/check_docs.py as a module."""
    return load_script("check_docs")


def load_script(name):
    place = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page, tmp_path, monkeypatch, request):
    if page in PREPARED:
        demo = request.getfixturevalue("demo")
        shutil.copy(demo / "demo-1.0.0.tar.gz", tmp_path)
        shutil.copytree(demo / "demo-1.0.0.zarr", tmp_path / "chips.zarr")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text()
    blocks = list(BLOCK.finditer(text))
    assert blocks
    namespace = {"__name__": "__main__"}
    for block in blocks:
        language, body = block.groups()
        line = text[: block.start()].count("\n") + 1
        if NEEDS_TORCH.search(body) and importlib.util.find_spec("torch") is None:
            continue
        if language == "console":
            check_console(body, f"{page}:{line}", tmp_path)
        elif language == "pycon":
            check_pycon(body, namespace, page, line)
        else:
            exec(compile("\n" * line + body, page, "exec"), namespace)


def test_check_docs_passes(capsys, check_docs):
    code = check_docs.main([])
    assert (code, capsys.readouterr().out) == (0, "documentation: ok\n")


def test_the_picture_of_statistics_is_up_to_date(tmp_path):
    """What it says, not how it is drawn: that changes with matplotlib."""
    texts = re.compile(r"<text [^>]*>([^<]*)</text>")
    picture = ROOT / "docs" / "images" / "stats.svg"
    assert load_script("stats_picture").main([str(tmp_path / "new.svg")]) == 0
    found = texts.findall((tmp_path / "new.svg").read_text())
    assert "footprints" in found
    assert found == texts.findall(picture.read_text())
    assert picture.stat().st_size < 100_000


def test_check_docs_tells_what_is_wrong(tmp_path, capsys, check_docs):
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs)
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copy(ROOT / "LICENSE", tmp_path)
    (docs / "reference.md").write_text("# Reference\n")
    (docs / "lonely.md").write_text("see [this](nowhere.md), [that](index.md#no-such-part) and " + "/root/" + "x\n")
    code = check_docs.main(["--root", str(tmp_path)])
    told = capsys.readouterr().out
    assert code == 1
    for expected in ("reference.md is out of date", "nowhere.md", "#no-such-part", "not reachable", "one machine"):
        assert expected in told


def test_check_docs_misses_help(monkeypatch, check_docs):
    bare = argparse.ArgumentParser()
    bare.add_subparsers().add_parser("silent").add_argument("--option")
    monkeypatch.setattr(check_docs, "make_parser", lambda: bare)
    assert [problem.partition(":")[0] for problem in check_docs.check_help()] == [
        "vedastore silent",
        "vedastore silent",
        "vedastore silent --option",
    ]


JSON_CASES = {
    "convert": "convert demo-1.0.0.tar.gz s.zarr",
    "convert A B": "convert demo-1.0.0.tar.gz next t.zarr",
    "export": "export s.zarr back.tar.gz",
    "validate": "validate demo-1.0.0.tar.gz",
    "validate --fix": "validate demo-1.0.0.tar.gz --fix fixed.tar.gz",
    "demo": "demo folder",
    "info": "info s.zarr",
    "verify": "verify s.zarr",
    "query": "query s.zarr",
    "stats": "stats s.zarr",
    "split": "split s.zarr",
    "assign": "assign s.zarr scores.csv",
    "clean": "clean s.zarr",
    "versions": "versions s.zarr",
    "diff": "diff s.zarr 1.0.0",
}


def test_keys_of_json_are_those_of_the_reference(demo, tmp_path, monkeypatch, check_docs):
    monkeypatch.chdir(tmp_path)
    shutil.copy(demo / "demo-1.0.0.tar.gz", tmp_path)
    (tmp_path / "scores.csv").write_text("id,score\n1,2\n")
    with tarfile.open("demo-1.0.0.tar.gz") as archive:
        archive.extractall(filter="data")
    meta = (tmp_path / "demo-1.0.0").rename("next") / "meta.json"
    meta.write_text(meta.read_text().replace('"1.0.0"', '"1.0.1"'))
    assert list(JSON_CASES) == list(check_docs.JSON_KEYS)
    assert {case.split()[0] for case in JSON_CASES} == set(check_docs.commands())
    for case, keys in check_docs.JSON_KEYS.items():
        code, printed = run_cli([*JSON_CASES[case].split(), "--json"])
        base = check_docs.JSON_KEYS[case.split()[0]] if " " in case else ""
        assert (code, set(json.loads(printed))) == (0, {*keys.split(), *base.split()}), case


def check_pycon(body, namespace, page, line):
    examples = doctest.DocTestParser().get_doctest(body, namespace, page, page, line)
    told = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(examples, out=told.append, clear_globs=False)
    namespace.update(examples.globs)
    assert not runner.failures, "".join(told)


def check_console(body, where, folder):
    commands, outputs = [], []
    for text in body.splitlines():
        if text.startswith("$ "):
            commands.append(text[2:])
            outputs.append("")
        else:
            outputs[-1] += f"{text}\n"
    status = 0
    for command, wanted, after in zip(commands, outputs, [*commands[1:], None], strict=True):
        status, got = run_command(command, folder, status)
        told = f"{where}: $ {command}\nwanted:\n{textwrap.indent(wanted, '  ')}got:\n{textwrap.indent(got, '  ')}"
        assert doctest.OutputChecker().check_output(wanted, got, FLAGS), told
        assert status == 0 or after == "echo $?", f"exit code {status}\n{told}"


def run_command(command, folder, status):
    """Run one line, in bash where it needs a shell; return the exit code and what it printed."""
    if command == "echo $?":
        return 0, f"{status}\n"
    if command.startswith("vedastore ") and not set(command) & set("|<>&;$'"):
        return run_cli(shlex.split(command)[1:])
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode()


def run_cli(arguments):
    """Run the command line in this process: starting Python and its libraries anew for each line takes long."""
    handler = signal.getsignal(signal.SIGTERM)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            status = main(arguments)
    finally:
        signal.signal(signal.SIGTERM, handler)
    return status, printed.getvalue()


def test_the_recipe_for_a_scheduler(demo, tmp_path, monkeypatch):
    """It has the address of a cluster that is not there; the one of a cluster that is takes its place."""
    from distributed import LocalCluster

    (command,) = re.findall(
        r"^vedastore (convert .* --scheduler) tcp://.*$", (ROOT / "docs/how-to.md").read_text(), re.MULTILINE
    )
    shutil.copy(demo / "demo-1.0.0.tar.gz", tmp_path)
    monkeypatch.chdir(tmp_path)
    with LocalCluster(n_workers=1, processes=False, protocol="tcp", dashboard_address=":0") as cluster:
        code, printed = run_cli([*command.split(), cluster.scheduler_address])
    assert code == 0, printed
    assert "24 samples" in printed
