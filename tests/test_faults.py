"""Storage that fails, and processes that are killed, at one operation of storage.

Whatever happens, a reader sees the old version or the new one, whole; what was acknowledged is there; a retry succeeds.
In every run a few places are tried, with ``-m slow`` every 23rd, and all where VEDASTORE_SWEEP=all is set.
"""

import os

import pytest

from tests.faults import Fault, Runner
from tests.figures import count
from tests.operations import OPERATIONS
from tests.rig import PLACES, Rig

STEP = 1 if os.environ.get("VEDASTORE_SWEEP") == "all" else 23


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with Runner(folder) as runner:
        yield Rig(runner, folder)


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_a_fault_at_the_places_that_matter(rig, operation):
    """A kill and one other fault: with the slow tests, every kind at every place."""
    ready, turn = rig.ready(operation), OPERATIONS.index(operation)
    for kind in ("kill", [*PLACES][1 + turn % (len(PLACES) - 1)]):
        if places := ready.few_places(kind):
            rig.spoil(ready, Fault(kind, places[turn % len(places)]))


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_without_a_fault(rig, operation):
    rig.check_done(operation)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_a_fault_anywhere(rig, operation, kind):
    ready = rig.ready(operation)
    rig.counts.clear()
    first = 1 if STEP == 1 else [*PLACES].index(kind) % STEP
    for place in ready.places(kind)[first::STEP]:
        rig.spoil(ready, Fault(kind, place))
    count("P1", sweeps=1, **rig.counts, lost=0)
    count("P10", **{"times compared": rig.counts["kills"] + rig.counts["faults"], "changed": 0})
