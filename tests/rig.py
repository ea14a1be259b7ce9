"""Operations with a fault at one place, and what must hold after each: the rig of the tests of faults and kills."""

from collections import Counter
from dataclasses import dataclass

from tests.builders import assert_store_ok
from tests.faults import CHANGES, NEEDS_SPACE
from tests.operations import RELEASES, Operation, Scene

KILLED, FULL, UNKNOWN, INTERRUPTED = -9, 5, 6, 130
PLACES = {
    "kill": CHANGES,
    "interrupt": CHANGES,
    "full": NEEDS_SPACE,
    "error": None,
    "dead": None,
    "short": {"write"},
}
"""The operations that a kind of fault makes sense at; None for all."""
CODES = {"kill": {KILLED}, "interrupt": {0, INTERRUPTED}, "short": {0}}
CODES |= {kind: {0, FULL, UNKNOWN} for kind in ("full", "error", "dead")}
"""How a command may end that meets a fault. What each end allows is another matter: see `Rig.check`."""
_EITHER = {KILLED, UNKNOWN, INTERRUPTED}
_PUBLISHES = {"replace", "rename", "link"}


@dataclass(frozen=True)
class Ready:
    """An operation that can be spoiled again and again: the scene before it, and what is there after it."""

    operation: Operation
    scene: Scene
    calls: list
    old: str
    new: str
    files: Counter

    def places(self, kind):
        """The numbers of the operations of storage that a kind of fault is tried at."""
        names = PLACES[kind]
        return [n for n, call in enumerate(self.calls, 1) if names is None or call["call"] in names]

    def few_places(self, kind):
        """Some of them: the first, one in the middle, the last of those before the version or the file appears."""
        places = self.places(kind)
        last = max((n for n, call in enumerate(self.calls, 1) if call["call"] in _PUBLISHES), default=0)
        commit = [n for n in places if n >= last][:2]
        return sorted({*places[:1], *places[len(places) // 2 :][:1], *commit})


class Rig:
    """Spoils operations and checks what is left; counts what it has done."""

    def __init__(self, runner, folder):
        self.runner, self._folder, self._ready = runner, folder, {}
        self.counts = Counter()

    def ready(self, operation):
        """Do an operation once without a fault."""
        if operation.name not in self._ready:
            scene = Scene(self._folder / operation.name).prepare(self.runner, operation)
            done = scene.copy(self._folder / "done")
            ran = self.run(done, operation)
            assert ran.code == 0, ran.said
            new = done.seen()
            done.check_clean()
            files = done.files(folders=False)
            self._ready[operation.name] = Ready(operation, scene, ran.calls, scene.seen(), new, files)
        return self._ready[operation.name]

    def check_done(self, operation):
        """Without a fault, every referee finds the store sound, and its release comes back."""
        done = self.ready(operation).scene.copy(self._folder / "done")
        assert self.run(done, operation).code == 0
        assert_store_ok(done.store, RELEASES.get(operation.release))

    def run(self, scene, operation, fault=None, **options):
        return self.runner.run(scene.arguments(operation.command), scene.place, fault, **options)

    def spoil(self, ready, fault):
        """Do an operation with a fault: the store is the old one or the new one, and a retry succeeds."""
        operation = ready.operation
        scene = ready.scene.copy(self._folder / "spoiled")
        ran = self.run(scene, operation, fault)
        call = ready.calls[fault.at - 1]
        told = f"{operation} {fault} {call}: exit {ran.code}, {ran.said}"
        assert ran.code in CODES[fault.kind], told
        there = self.check(ready, scene, ran.code, told)
        if ran.code == INTERRUPTED or (fault.kind == "full" and ran.code == FULL):
            assert there == ready.new or scene.files() == ready.scene.files(), f"something is left: {told}"
        self.retry(ready, scene, there, told)
        self.counts["kills" if fault.kind == "kill" else "faults"] += 1
        self.counts["refused"] += ran.code > 0

    def check(self, ready, scene, code, told):
        """Whatever has happened: what was acknowledged is there, and what was refused is not."""
        assert scene.inputs_seen() == ready.scene.inputs_seen(), f"the source was changed: {told}"
        there = scene.seen()
        allowed = {ready.new} if code == 0 else {ready.old, ready.new} if code in _EITHER else {ready.old}
        assert there in allowed, f"{there} is there, of old {ready.old} and new {ready.new}: {told}"
        scene.verify(told)
        return there

    def retry(self, ready, scene, there, told):
        """Do it again: it is done, unless it is done already; nothing is left behind that clean does not remove."""
        again = self.run(scene, ready.operation)
        landed = there == ready.new != ready.old
        assert again.code == (ready.operation.again if landed else 0), f"retry: {again.said}: {told}"
        if not landed:
            assert scene.seen() == ready.new, f"retry: {told}"
        scene.verify(told)
        scene.check_clean()
        if not landed:
            left = scene.files(folders=False) - ready.files
            assert not left - Counter({".*.part": 1}), f"{left} is left: {told}"  # the draft of a killed export
