"""Who has opened a version reads that one, whole, whatever is done to the store meanwhile."""

import os
import subprocess
import sys

import pytest

import vedastore as vs
from tests.faults import ROOT, Runner
from tests.figures import count
from tests.operations import OPERATIONS, Scene, seen_of

READER = """
import os, sys
import vedastore as vs
from tests.operations import seen_of

store, stop = sys.argv[1:]
first, last = vs.open(store), False
while not last:
    last = os.path.exists(stop)  # once more after the end
    collection = vs.open(store)
    print(collection._snapshot.root.write_id, seen_of(collection), seen_of(first), flush=True)
"""
ROUNDS, READERS = 4, 2
BESIDE_READERS = [operation for operation in OPERATIONS if operation.name not in {"create", "clean", "edit"}]
"""All but what needs another place, and what takes away the versions that nobody should read any more."""


@pytest.mark.slow
def test_readers_see_one_version_whole(tmp_path):
    """Processes read everything in a loop, while one verb after the other changes the store."""
    with Runner(tmp_path) as runner:
        scene = Scene(tmp_path / "scene").prepare(runner, BESIDE_READERS[0])
        first = vs.open(scene.store)
        whole = seen_of(first)
        committed = {first._snapshot.root.write_id: whole}
        command = [sys.executable, "-c", READER, scene.store, tmp_path / "stop"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        readers = [subprocess.Popen(command, env=environment, **pipes) for _ in range(READERS)]
        lines = [reader.stdout.readline() for reader in readers]  # each has begun
        for _ in range(ROUNDS):
            for words in (*(operation.command for operation in BESIDE_READERS), ("clean", "{store}")):
                scene.archive.unlink(missing_ok=True)
                ran = runner.run(scene.arguments(words))
                assert ran.code == 0, ran.said
                collection = vs.open(scene.store)
                committed[collection._snapshot.root.write_id] = seen_of(collection)
        (tmp_path / "stop").touch()
        for reader in readers:
            told, errors = reader.communicate()
            assert reader.returncode == 0, errors
            lines += told.splitlines()
    reads = [line.split() for line in lines]
    mixed = [read for read in reads if committed[read[0]] != read[1] or read[2] != whole]
    assert not mixed
    assert len(committed) == 1 + 4 * ROUNDS
    assert len({read[0] for read in reads}) > ROUNDS  # they read while the store changed
    count("P5", reads=2 * len(reads), versions=len(committed), mixed=len(mixed))
