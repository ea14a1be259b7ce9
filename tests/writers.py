"""Processes that write to one store at once, and one that reads it meanwhile.

``python -m tests.writers add|append STORE NUMBER TIMES`` commits so many times, a sample or a release each, and says
what was acknowledged; ``read STORE`` opens the store and hashes what it sees until its input ends. All begin when
their first line comes, and end with one line of JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import vedastore as vs
from tests.builders import Release, footprint_of, geotiff, make_release, pixels_of
from tests.operations import seen_of
from vedastore.errors import ConflictError

ROOT = Path(__file__).resolve().parents[1]
BASE = make_release(6, shape=(1, 16, 16))
TRANSFORM = (0.5, 0, 733_600, 0, -0.5, 3_725_150)


def pair(number, turn):
    """An image file and a label file that no other writer makes."""
    feature = {
        "type": "Feature",
        "geometry": footprint_of(TRANSFORM, 16, 16),
        "properties": {"label": {"car": []}, "by": [number, turn]},
    }
    image = geotiff(pixels_of((1, 16, 16), seed=10_000 + 1_000 * number + turn), TRANSFORM)
    return image, json.dumps(feature).encode()


def release(number, turn):
    """The next release that a writer makes: that of the start with a sample of its own."""
    image, label = pair(number, turn)
    meta = f"{BASE.top}/meta.json"
    document = {**json.loads(BASE.members[meta]), "version": f"{number}.{turn}"}
    own = {f"{BASE.top}/images/{number}-{turn}.tif": image, f"{BASE.top}/labels/{number}-{turn}.json": label}
    return Release({**BASE.members, **own, meta: json.dumps(document).encode()}, BASE.top)


def add(store, number, times):
    """Add samples, one in each commit; nobody else adds the same, so that no commit may be refused."""
    for turn in range(times):
        found = vs.open(store).add({f"{number}-{turn}": pair(number, turn)}, author=str(number))
        yield found.version, 0


def append(store, number, times):
    """Append releases; who loses against another writer begins again."""
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(times):
            source, refused = release(number, turn).tar(Path(folder) / "r.tar"), 0
            while True:
                try:
                    yield vs.convert(source, store, mode="append").version, refused
                    break
                except ConflictError:
                    refused += 1


def write(kind, store, number, times):
    """Commit, and return what was acknowledged, with how often each was refused before."""
    return list({"add": add, "append": append}[kind](store, int(number), int(times)))


def read(store):
    """Open and hash until the input ends: pairs of versions and what was seen of each, and how often it was opened."""
    done = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
    os.nice(10)  # what it reads is the same, and writers write more meanwhile
    found, opened = {}, 0
    while not done.is_set():
        collection = vs.open(store)
        found.setdefault(collection.version, set()).add(seen_of(collection))
        opened += 1
    return {"opened": opened, "seen": {version: sorted(hashes) for version, hashes in found.items()}}


class Processes:
    """Some of these processes, started together."""

    def __init__(self, *arguments, **environment):
        told = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", **environment}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self._processes = [
            subprocess.Popen([sys.executable, "-m", "tests.writers", *map(str, own)], env=told, **pipes)
            for own in arguments
        ]
        for process in self._processes:
            assert process.stdout.readline() == "ready\n", process.communicate()[1]

    def start(self):
        for process in self._processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        return self

    def results(self):
        """What they said in the end."""
        found = [process.communicate() for process in self._processes]
        for process, (_, said) in zip(self._processes, found, strict=True):
            assert process.returncode == 0, said
        return [json.loads(told) for told, _ in found]

    def kill(self):
        for process in self._processes:
            process.kill()
            process.communicate()


@contextmanager
def processes(*arguments):
    """Processes that are ready, and none of which is left."""
    found = Processes(*arguments)
    try:
        yield found
    finally:
        for process in found._processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


if __name__ == "__main__":
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    _, kind, *arguments = sys.argv
    told = read(*arguments) if kind == "read" else write(kind, *arguments)
    sys.stdout.write(json.dumps(told))
