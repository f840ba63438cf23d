"""Worker processes that are forked from one that has loaded what every worker loads, which takes most of a start.

Each test process has one such server, started with its first worker; it ends with the test process, and its workers
with it. A worker is the same otherwise: it has a session of its own, and runs Celery's command line.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, cast

from workers.dev.process import END_TIMEOUT_S, Child
from workers.pools import POOL_VARIABLE

LOADED_WITH: Mapping[str, str] = {
    "DSPY_CACHEDIR": str(Path(tempfile.gettempdir()) / "dspex-tests-dspy-cache"),
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PYTHONUNBUFFERED": "1",
}
"""What stands in the environment of every worker: no caches of the user's, and no line of a log that comes late."""

# Others count as a module is loaded, or before: they are the same for all workers that are forked.
_READ_LATE = ("DSPEX_", "STAGE_", "POOL_", "CHAOS_", "ABUSE_", "OTEL_", POOL_VARIABLE)
_LOADED = "tests.harness.preloaded_modules"
_PR_SET_PDEATHSIG = 1


def can_fork(env: Mapping[str, str]) -> bool:
    """Check whether a worker with this environment is the same when it is forked.

    Only Linux ends a process with its parent; and what coverage measures is set up as Python starts.
    """
    loaded = {**os.environ, **LOADED_WITH}
    changed = {name for name in env.keys() | loaded if env.get(name) != loaded.get(name)}
    return (
        sys.platform == "linux"
        and "COVERAGE_PROCESS_CONFIG" not in env
        and all(name.startswith(_READ_LATE) for name in changed)
    )


def start_preloaded(
    command: Sequence[str], log: Path, *, env: Mapping[str, str], cwd: Path | None = None
) -> PythonProcess:
    """Start a ``python -m`` command as ``Child`` does, forked from the server where that makes no difference."""
    env = {**env, **LOADED_WITH}
    if list(command[:2]) == [sys.executable, "-m"] and can_fork(env):
        return ForkedChild(command[2:], log, env=env, cwd=cwd)
    return Child(command, log, env=env, cwd=cwd)


class ForkedChild:
    """A process that does what ``python -m`` does, without loading everything anew; else it is like a ``Child``."""

    def __init__(self, arguments: Sequence[str], log: Path, *, env: Mapping[str, str], cwd: Path | None = None) -> None:
        """Start it.

        Args:
            arguments: the module's name and its arguments.
            log: the file to which its output is appended.
            env: its whole environment.
            cwd: its working directory; without it, this process's.
        """
        run = (list(arguments), str(log), dict(env), str(cwd or Path.cwd()))
        self._process: ForkServerProcess = _context().Process(target=_run, args=run, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code (minus the signal's number where one ended it), None while it runs."""
        return self._process.exitcode

    @property
    def running(self) -> bool:
        """Check whether it still runs."""
        return self.returncode is None

    def send_signal(self, sign: int) -> None:
        """Send a signal to it alone; nothing happens if it has ended."""
        if self.running:
            with suppress(ProcessLookupError):  # it has ended just now
                os.kill(self.pid, sign)

    def end(self, sign: int = signal.SIGTERM, timeout_s: float = END_TIMEOUT_S) -> int:
        """End it as ``Child.end`` does; return its exit code."""
        if sign != signal.SIGKILL:
            self.send_signal(sign)
            self.send_signal(signal.SIGCONT)  # a paused process takes no signal before it goes on
            self._process.join(timeout_s)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.running:
            self.send_signal(signal.SIGKILL)  # it has no group of its own yet
        self._process.join()
        assert self.returncode is not None
        return self.returncode


PythonProcess = Child | ForkedChild
"""What ``start_preloaded`` starts."""


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_LOADED])
    return context


def _run(arguments: list[str], log: str, env: dict[str, str], cwd: str) -> None:
    """Become what ``python -m`` with these arguments is."""
    os.setsid()
    # The end that a worker would hold keeps the server up after the test process.
    server: Any = forkserver._forkserver
    os.close(server._forkserver_alive_fd)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    cast(TextIOWrapper, sys.stdout).reconfigure(write_through=True)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    _read_pool(env)
    gc.enable()
    sys.argv = list(arguments)
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out


def _read_pool(env: Mapping[str, str]) -> None:
    """Let Celery know the class of ``--pool custom``, which it reads as it is loaded."""
    from celery.concurrency import ALIASES

    if pool := env.get(POOL_VARIABLE):
        ALIASES["custom"] = pool
