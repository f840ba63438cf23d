"""The stack of a thread of another process is that thread's, whatever others are doing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass

import pytest

from workers.watchdog.stacks import SIGNAL, Stacks

_PROCESS = """
import faulthandler, signal, sys, threading

SIGNAL, file = signal.Signals(int(sys.argv[1])), int(sys.argv[2])
faulthandler.register(SIGNAL, file=file, all_threads=False)

def wait_deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})
    announce("deaf")
    threading.Event().wait()

def wait_listening():
    announce("listening")
    threading.Event().wait()

def announce(name):
    sys.stdout.write(f"{name} {threading.get_native_id()}\\n")
    sys.stdout.flush()

for target in (wait_deaf, wait_listening):
    threading.Thread(target=target, daemon=True).start()
sys.stdin.read()
"""


@dataclass(frozen=True)
class _Watched:
    """A process with a thread that has blocked the signal, and one that hasn't."""

    pid: int
    threads: dict[str, int]
    stacks: Stacks


@pytest.fixture
def watched() -> Generator[_Watched]:
    with tempfile.TemporaryFile(buffering=0) as file:
        command = [sys.executable, "-c", _PROCESS, str(int(SIGNAL)), str(file.fileno())]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(file.fileno(),), text=True
        ) as process:
            assert process.stdout is not None
            threads = dict(process.stdout.readline().split() for _ in range(2))
            stacks = Stacks(file.fileno())
            yield _Watched(process.pid, {name: int(thread) for name, thread in threads.items()}, stacks)


def test_it_is_the_stack_of_the_thread_that_was_named(watched: _Watched) -> None:
    stack = watched.stacks.capture(watched.pid, watched.threads["listening"])
    assert "in wait_listening" in stack
    assert "in wait_deaf" not in stack


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends a signal to a thread of another process")
def test_no_other_thread_answers_for_one_that_does_not(watched: _Watched) -> None:
    """As the main thread would, which handles the signal that tells a worker to end."""
    assert watched.stacks.capture(watched.pid, watched.threads["deaf"]) == ""


def test_a_thread_that_is_gone_has_no_stack(watched: _Watched) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert watched.stacks.capture(watched.pid, gone.pid) == ""
