"""A process that answers calls: in order, errors and all, and what becomes of calls when it dies."""

import os
import signal
import subprocess
import time

import psutil
import pytest

from vedastore.errors import ImageError, StoreError
from vedastore.io.peers import GoneError, Peer


def adder(*given):
    """Add what it is made with, and the content of files."""
    *descriptors, more = given

    def add(number):
        return number + more + sum(len(os.pread(d, 100, 0)) for d in descriptors)

    return add


class UnreadableError(Exception):
    """One that is made of two things, and says that it is made of one."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def doer(what):
    """Do something unkind."""

    def do(value):
        if what == "raise":
            raise ImageError("no image", where="here", hint="none", rule="image-damaged")
        if what == "unreadable":
            raise UnreadableError(1, 2)
        if what == "exit":
            os._exit(value)
        if what == "start":
            return subprocess.Popen(["sleep", str(value)]).pid
        if what == "wait":
            time.sleep(value)
        return value

    return do


@pytest.fixture
def opened():
    """Peers that are ended at last."""
    peers = []

    def make(*arguments, **keep):
        peers.append(Peer(*arguments, **keep))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()


def children():
    return {p.pid for p in psutil.Process().children()}


def test_calls_are_answered(opened):
    peer = opened(adder, 100)
    found = [peer.submit(n) for n in range(1000)]
    assert [f.result() for f in found] == [*range(100, 1100)]
    assert peer.is_ready
    assert peer.pending == 0


def test_descriptors_are_given_by_their_new_numbers(opened, tmp_path):
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(b"abc")
    files = [path.open("rb") for path in paths]
    peer = opened(adder, 1, keep=[file.fileno() for file in files])
    for file in files:
        file.close()
    assert peer.submit(0).result() == 1 + 6


def test_what_is_large_passes(opened):
    """More than any pipe holds, both ways, many times over."""
    peer = opened(doer, "return")
    blob = os.urandom(3 * 2**20)
    assert all(f.result() == blob for f in [peer.submit(blob) for _ in range(8)])


def test_errors_come_back_and_harm_nothing(opened):
    peer = opened(doer, "raise")
    for _ in range(2):
        with pytest.raises(ImageError, match="no image") as caught:
            peer.submit(1).result()
        assert (caught.value.where, caught.value.hint, caught.value.rule) == ("here", "none", "image-damaged")


def assert_gone(peer, futures):
    """All calls fail, those that are made now too, and nobody waits."""
    for future in [*futures, peer.submit(3)]:
        with pytest.raises(GoneError):
            future.result(60)
    assert not peer.is_ready


def test_an_error_that_cannot_be_read_ends_it(opened):
    """Nobody waits for ever for what was lost on the way."""
    peer = opened(doer, "unreadable")
    assert_gone(peer, [peer.submit(1), peer.submit(1)])


def test_a_peer_that_dies_fails_all_calls(opened):
    peer = opened(doer, "exit")
    assert_gone(peer, [peer.submit(3) for _ in range(5)])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGRTMIN + 3])
def test_a_peer_that_is_killed_fails_all_calls(opened, number):
    before = children()
    peer = opened(doer, "wait")
    assert peer.submit(0).result() == 0
    found = peer.submit(600)
    (own,) = children() - before
    os.kill(own, number)
    assert_gone(peer, [found])


def test_a_peer_that_cannot_begin_fails_all_calls(opened):
    peer = opened(adder)  # it is given too little
    assert_gone(peer, [peer.submit(1)])


def test_closing_ends_what_is_under_way():
    """It, and what it has started."""
    before = children()
    peer = Peer(doer, "start")
    own = peer.submit(600).result()
    found = peer.submit(600)
    peer.close()
    assert children() == before
    assert not psutil.pid_exists(own) or psutil.Process(own).status() == psutil.STATUS_ZOMBIE
    assert_gone(peer, [found])
    peer.close()


def test_a_forked_process_keeps_nothing_open(opened):
    """Else a peer that dies would never be missed, and one whose owner dies would wait for ever."""
    peer = opened(doer, "wait")
    assert peer.submit(0).result() == 0
    forked = os.fork()
    if forked == 0:
        time.sleep(600)
        os._exit(0)
    try:
        own = peer._process.pid
        os.kill(own, signal.SIGKILL)
        assert_gone(peer, [])
    finally:
        os.kill(forked, signal.SIGKILL)
        os.waitpid(forked, 0)


def test_who_cannot_start_one_is_told(monkeypatch):
    """And has nothing open that was not open before."""
    before, descriptors = children(), psutil.Process().num_fds()

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        Peer(adder, 1)
    monkeypatch.undo()
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(StoreError, match="cannot be started"):
        Peer(adder, 1)
    assert children() == before
    assert psutil.Process().num_fds() == descriptors


def test_nothing_that_has_begun_is_cancelled(opened):
    """A result that nobody waits for has a place to go."""
    peer = opened(adder, 1)
    found = peer.submit(1)
    assert not found.cancel()
    assert found.result() == 2
