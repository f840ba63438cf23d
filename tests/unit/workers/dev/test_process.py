"""A child process: ended with its own children, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.waiting import wait_until
from workers.dev.process import Child

WITH_GRANDCHILD = "sleep 60 & echo $!; wait"
PARENT = f"""
import os, pathlib, signal, sys, threading
from workers.dev.process import Child
log = pathlib.Path(sys.argv[1])
def start():
    Child(["/bin/sh", "-c", {WITH_GRANDCHILD!r}], log)
thread = threading.Thread(target=start)
thread.start()
thread.join()
signal.pause()
"""
PARENT_KILLED_EARLY = """
import os, pathlib, signal, subprocess, sys
from workers.dev import process
popen = subprocess.Popen
class Killed(popen):
    def __init__(self, command, **options):
        if "watchdog" in command:
            os.kill(os.getpid(), signal.SIGKILL)
        super().__init__(command, **options)
        print(self.pid, flush=True)
subprocess.Popen = Killed
process.Child(["/bin/sh", "-c", "echo started; sleep 60"], pathlib.Path(sys.argv[1]))
"""


def group_is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def grandchild(log: Path) -> int:
    return int(wait_until(lambda: log.exists() and log.read_text().strip(), "the grandchild's pid in the log"))


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_ending_a_child_ends_what_it_started(sign: signal.Signals, tmp_path: Path) -> None:
    child = Child(["/bin/sh", "-c", WITH_GRANDCHILD], tmp_path / "log")
    grandchild(tmp_path / "log")
    assert child.running
    assert child.end(sign) == -sign
    assert not child.running
    wait_until(lambda: group_is_empty(child.pid), "the whole group to end")
    assert child.end(sign) == -sign


def test_a_child_that_ignores_the_signal_is_killed_after_the_timeout(tmp_path: Path) -> None:
    child = Child(["/bin/sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.05; done"], tmp_path / "log")
    grandchild(tmp_path / "log")
    assert child.end(timeout_s=0.1) == -signal.SIGKILL


def test_a_childs_exit_code_and_output_are_kept(tmp_path: Path) -> None:
    child = Child(["/bin/sh", "-c", "echo $WORD from $PWD; exit 7"], tmp_path / "log", env={"WORD": "hi"}, cwd=tmp_path)
    wait_until(lambda: not child.running, "the child to end by itself")
    assert child.end() == 7
    assert (tmp_path / "log").read_text() == f"hi from {tmp_path}\n"


def test_kill_9_of_the_parent_before_a_watchdog_runs_leaves_no_child_that_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    parent = subprocess.run([sys.executable, "-c", PARENT_KILLED_EARLY, str(log)], capture_output=True, check=False)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    group = int(parent.stdout)
    wait_until(lambda: group_is_empty(group), "the group to follow its parent")
    assert log.read_text() == ""


def test_kill_9_of_the_parent_ends_the_group_and_the_end_of_the_starting_thread_does_not(tmp_path: Path) -> None:
    log = tmp_path / "log"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(log)])
    group = os.getpgid(grandchild(log))
    assert not group_is_empty(group)
    parent.kill()
    parent.wait()
    wait_until(lambda: group_is_empty(group), "the group to follow its parent")
