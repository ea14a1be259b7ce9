"""Calls in child processes: results, errors, and every way in which a child can die."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.builders import assert_store_ok, geotiff, make_release, pixels_of
from vedastore.errors import ImageError
from vedastore.io import isolation

MIB = 2**20


def run(function, *args, cpu_seconds=20, memory_bytes=512 * MIB):
    return isolation.call(cpu_seconds, memory_bytes, function, *args)


def test_a_result_comes_back():
    pixels = run(np.full, (3, 256, 256), 7)
    assert pixels.shape == (3, 256, 256)
    assert (pixels == 7).all()


def test_it_is_another_process_and_the_same_one_again():
    first, second = run(os.getpid), run(os.getpid)
    assert first == second != os.getpid()


def test_an_error_of_the_function_is_raised_here():
    with pytest.raises(ImageError, match="cannot be read") as caught:
        run(fail, "cannot be read")
    assert caught.value.rule == "image-unsupported"
    with pytest.raises(ZeroDivisionError):
        run(divmod, 1, 0)


def fail(message):
    raise ImageError(message, rule="image-unsupported")


@pytest.mark.parametrize(
    ("function", "args", "words"),
    [
        (ctypes.string_at, (0,), "crashed .SIGSEGV."),
        (os.abort, (), "crashed .SIGABRT."),
        (os._exit, (3,), "crashed .exit code 3."),
        (os.kill, (0, signal.SIGKILL), "crashed .SIGKILL."),
    ],
)
def test_a_crash_is_a_named_error_and_the_next_call_works(function, args, words):
    if function is os.kill:
        function, args = kill_self, ()
    with pytest.raises(ImageError, match=words) as caught:
        run(function, *args)
    assert caught.value.rule == "image-crash"
    assert run(abs, -1) == 1


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def spin():
    while True:
        pass


def test_a_call_without_end_is_ended():
    with pytest.raises(ImageError, match="takes too long") as caught:
        run(spin, cpu_seconds=1)
    assert caught.value.rule == "image-crash"


def test_processor_time_of_earlier_calls_does_not_count():
    for _ in range(2):
        run(burn, 0.7, cpu_seconds=1)


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_memory_is_bounded():
    with pytest.raises(MemoryError):
        run(bytearray, isolation.BASE_BYTES + 64 * MIB, memory_bytes=MIB)
    assert run(len, bytes(8 * MIB), memory_bytes=MIB) == 8 * MIB


def test_whatever_a_library_prints_goes_nowhere(capfd):
    assert run(os.write, 1, b"out") == 3
    assert run(os.write, 2, b"err") == 3
    assert run(print, "out") is None
    assert capfd.readouterr() == ("", "")


def test_a_call_inside_a_call_is_a_plain_call():
    inner, outer = run(nested)
    assert inner == outer


def nested():
    return run(os.getpid), os.getpid()


def test_a_child_that_was_killed_while_it_waited_is_no_fault_of_the_next_call():
    os.kill(run(os.getpid), signal.SIGKILL)
    time.sleep(0.2)
    assert run(abs, -2) == 2


@pytest.mark.slow
def test_a_call_that_waits_for_ever_is_ended():
    with pytest.raises(ImageError, match="takes too long"):
        run(time.sleep, 60, cpu_seconds=1)
    assert run(abs, -1) == 1


def test_no_code_of_the_current_directory_runs(tmp_path):
    (tmp_path / "pickle.py").write_text("import pathlib; pathlib.Path('PWNED').touch(); load = loads = None\n")
    code = "from vedastore.io import isolation\nprint(isolation.call(9, 2**29, abs, -5))\n"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout == "5\n", done.stderr
    assert not (tmp_path / "PWNED").exists()


def test_an_interpreter_that_does_not_start_is_no_fault_of_an_image(tmp_path):
    code = """if True:
        import sys
        from vedastore.errors import StoreError
        from vedastore.io import isolation
        for broken in ("/bin/false", "/nothing/here"):
            sys.executable = broken
            try:
                isolation.call(9, 2**29, abs, -5)
            except StoreError as error:
                print(error.message)
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.count("cannot be started") == 2, done.stdout


def test_a_process_that_was_forked_during_a_call_keeps_nobody_waiting():
    code = """if True:
        import os, threading, time
        from vedastore.io import isolation
        thread = threading.Thread(target=isolation.call, args=(9, 2**29, time.sleep, 1))
        thread.start()
        time.sleep(0.5)
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        thread.join()
    """
    began = time.monotonic()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=25)
    assert time.monotonic() - began < 25


def test_threads_have_children_of_their_own():
    with ThreadPoolExecutor(4) as threads:
        pids = list(threads.map(lambda _: run(slow_pid), range(8)))
    assert 1 <= len(set(pids)) <= 4
    assert os.getpid() not in pids


def slow_pid():
    time.sleep(0.1)
    return os.getpid()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_do_not_share_children(method):
    mine = run(os.getpid)
    with multiprocessing.get_context(method).Pool(1) as pool:
        theirs = pool.apply(run, (os.getpid,))
    assert theirs != mine
    assert run(os.getpid) == mine


def test_children_end_with_their_parent(tmp_path):
    code = """if True:
        import os, sys
        from vedastore.io import isolation
        print(isolation.call(9, 2**29, os.getpid), flush=True)
        {end}
    """
    for end in ("", "os.kill(os.getpid(), 9)"):
        done = subprocess.run([sys.executable, "-c", code.format(end=end)], check=False, capture_output=True, text=True)
        child = int(done.stdout)
        for _ in range(100):
            if not alive(child):
                break
            time.sleep(0.05)
        assert not alive(child)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_script_without_a_main_guard_can_call(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os\nfrom vedastore.io import isolation\nprint(isolation.call(9, 2**29, abs, -5))\n")
    done = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True)
    assert done.stdout == "5\n"


def crashing_interpreter(folder):
    """A Python whose PackBits decoder dies of a segmentation fault where it meets a marker, as a broken codec would."""
    (folder / "sitecustomize.py").write_text(
        """if True:
        import ctypes, sys, importlib.abc, importlib.machinery

        class Finder(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name != "imagecodecs":
                    return None
                sys.meta_path.remove(self)
                import imagecodecs
                sound = imagecodecs.packbits_decode

                def packbits_decode(data, **options):
                    decoded = sound(data, **options)
                    if bytes(decoded[:8]) == b"CRASH!!!":
                        ctypes.string_at(0)
                    return decoded

                imagecodecs.packbits_decode = packbits_decode
                return imagecodecs.__spec__

        sys.meta_path.insert(0, Finder())
        """
    )
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}


@pytest.mark.parametrize("skip", [False, True])
def test_a_codec_that_crashes_costs_one_sample(tmp_path, skip):
    release = make_release(4, shape=(1, 16, 16), task="classification", compress="packbits")
    bait = pixels_of((1, 16, 16))
    bait.reshape(-1)[:8] = np.frombuffer(b"CRASH!!!", "u1")
    release.members["ts_104-1.0.1/images/2.tif"] = geotiff(bait, compress="packbits")
    source = release.tar_gz(tmp_path / "r.tar.gz")
    store = tmp_path / "r.zarr"
    command = [sys.executable, "-m", "vedastore.cli", "convert", source, store, *(["--on-error=skip"] if skip else [])]
    (tmp_path / "site").mkdir()
    environment = crashing_interpreter(tmp_path / "site")
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if not skip:
        assert done.returncode == 3, done.stderr
        assert "images/2.tif: the codec that decodes it crashed (SIGSEGV)" in done.stderr
        assert done.stderr.count("\n") == 1
        assert not store.exists()
        return
    assert done.returncode == 1, done.stderr
    assert "skipped 2: the codec that decodes it crashed (SIGSEGV)" in done.stdout
    assert [s.id for s in assert_store_ok(store)] == ["0", "1", "3"]
