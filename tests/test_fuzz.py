"""What fuzzing found, and a short run of it. The long ones: scripts/fuzz, docs/fuzzing.md."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz_seeds import seeds
from tests.fuzz_targets import TARGETS, verdict
from tests.mutators import mutate
from tests.strategies import assert_taken_or_refused, releases_with_defects

REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*/*"))
#: Not mended yet: regression file -> what happens to it.
OPEN: dict[str, str] = {}
#: Inputs of each target; slow ones have fewer.
RUNS = {"archive": 1500, "tiff_decode": 1000, "root": 500}
PEAK_BYTES = 128 << 20  # liblzma alone takes 94 MiB to compress


def _named(path):
    name = f"{path.parent.name}/{path.name}"
    marks = [pytest.mark.xfail(reason=OPEN[name], strict=True)] if name in OPEN else []
    return pytest.param(path, id=name, marks=marks)


@pytest.mark.parametrize("path", [_named(path) for path in REGRESSIONS])
def test_what_was_found_once(path):
    """The suffix of a file is the verdict on it."""
    assert verdict(path.parent.name, path.read_bytes()) == path.suffix[1:]


def test_every_open_finding_has_its_file():
    assert set(OPEN) <= {f"{path.parent.name}/{path.name}" for path in REGRESSIONS}


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_reach_what_lies_behind_the_checks(target):
    told = [verdict(target, data) for data in seeds(target)]
    assert told.count("accepted") > len(told) * 2 // 3


def _signature(told):
    return told.partition(" (")[0]


@pytest.mark.parametrize("target", TARGETS)
def test_mutants_are_accepted_or_refused(target):
    """The same ones every time; errors known from an open finding are left to it."""
    known = {_signature(verdict(target, p.read_bytes())) for p in REGRESSIONS if p.parent.name == target}
    random, valid, told = Random(target), seeds(target), {}
    tracemalloc.start()
    try:
        for _ in range(RUNS.get(target, 2000)):
            data = mutate(target, random.choice(valid), random)
            told.setdefault(_signature(verdict(target, data)), data)
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
    finally:
        tracemalloc.stop()
    assert {"accepted", "refused"} <= told.keys()
    assert not {s: data for s, data in told.items() if s not in {"accepted", "refused", *known}}


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(releases_with_defects())
def test_any_release_is_stored_or_refused(case):
    assert assert_taken_or_refused(case) in {"stored", "refused"}
