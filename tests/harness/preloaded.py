"""Processes that are forked from one that has loaded what every worker loads, which takes most of a start.

Each test process has one such server, started with its first worker; it ends with the test process, and its children
with it. A child is the same otherwise: it has a session of its own, and runs a module or code as Python does.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from multiprocessing import forkserver, reduction
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, AnyStr, cast

from workers.dev.process import END_TIMEOUT_S, Child
from workers.pools import POOL_VARIABLE

LOADED_WITH: Mapping[str, str] = {
    "DSPY_CACHEDIR": str(Path(tempfile.gettempdir()) / "dspex-tests-dspy-cache"),
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PYTHONUNBUFFERED": "1",
}
"""What stands in the environment of every worker: no caches of the user's, and no line of a log that comes late."""

# Others count as a module is loaded, or before: they are the same for all workers that are forked. pytest's own tells
# of the test that runs, which is another one by the time a worker is started again.
_READ_LATE = (
    "DSPEX_", "STAGE_", "POOL_", "CHAOS_", "ABUSE_", "SECRET_", "OTEL_", "COLUMNS", "NO_COLOR", "TMPDIR",
    "PYTEST_CURRENT_TEST", "https_proxy", "no_proxy", POOL_VARIABLE,
)  # fmt: skip
_LOADED = "tests.harness.preloaded_modules"
_PR_SET_PDEATHSIG = 1


def can_fork(env: Mapping[str, str]) -> bool:
    """Check whether a worker with this environment is the same when it is forked.

    Only Linux ends a process with its parent.
    """
    loaded = {**os.environ, **LOADED_WITH}
    changed = {name for name in env.keys() | loaded if env.get(name) != loaded.get(name)}
    return sys.platform == "linux" and all(name.startswith(_READ_LATE) for name in changed)


def start_preloaded(
    command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> PythonProcess:
    """Start a command as ``Child`` does; one of this Python is forked where that makes no difference."""
    env = {**(os.environ if env is None else env), **LOADED_WITH}
    words = _python_words(command)
    if words is not None and can_fork(env):
        return ForkedChild(words, log, env=env, cwd=cwd)
    return Child(command, log, env=env, cwd=cwd)


def _python_words(command: Sequence[str]) -> list[str] | None:
    """Return ``-m MODULE`` or ``-c CODE`` and the arguments, or None for a command of anything else."""
    interpreter, *words = command
    # What `-P` keeps off the path of imports is not on that of the server either.
    words = words[1:] if words[:1] == ["-P"] else words
    return words if interpreter == sys.executable and words[:1] in (["-m"], ["-c"]) else None


class ForkedChild:
    """A process that does what Python does, without loading everything anew; else it is like a ``Child``."""

    def __init__(self, words: Sequence[str], log: Path, *, env: Mapping[str, str], cwd: Path | None = None) -> None:
        """Start it.

        Args:
            words: ``-m`` and a module's name, or ``-c`` and code; and its arguments.
            log: the file to which its output is appended.
            env: its whole environment.
            cwd: its working directory; without it, this process's.
        """
        with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
            files = (nothing.fileno(), output.fileno(), output.fileno())
            self._process = _fork(words, files, env=env, cwd=cwd)
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


class PreloadedPopen(subprocess.Popen[AnyStr]):
    """A ``subprocess.Popen`` that forks a command of this Python from the server where that makes no difference.

    The process has a session of its own.
    """

    _forked: ForkServerProcess | None = None

    def _execute_child(self, args: Any, *rest: Any) -> None:
        """Start the process, as ``Popen`` has one started by its constructor once the pipes are open."""
        (executable, preexec_fn, _, pass_fds, cwd, env, _, _, _, *pipes) = rest[:15]
        env = {**(os.environ if env is None else env), **LOADED_WITH}
        words = None if isinstance(args, str) or executable or preexec_fn or pass_fds else _python_words(args)
        if words is None or not can_fork(env):
            cast(Any, super())._execute_child(args, *rest)
            return
        # The ends of the child, or this process's own files where there is no pipe.
        files = [file if end == -1 else end for file, end in enumerate((pipes[0], pipes[3], pipes[5]))]
        try:
            self._forked = _fork(words, files, env=env, cwd=cwd)
        finally:
            cast(Any, self)._close_pipe_fds(*pipes)
        assert self._forked.pid is not None
        self.pid = self._forked.pid
        self._child_created = True

    def _internal_poll(self, *arguments: Any, **options: Any) -> int | None:
        if self._forked is None:
            return cast(Any, super())._internal_poll(*arguments, **options)
        if self.returncode is None:
            self.returncode = self._forked.exitcode
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self._forked is None:
            return cast(Any, super())._wait(timeout)
        self._forked.join(timeout)
        code = self._internal_poll()
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code


def run_preloaded(
    command: Sequence[str], *, input: str | None = None, timeout: float | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command as ``subprocess.run`` does with the output captured as text, see ``PreloadedPopen``."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with PreloadedPopen(command, text=True, **{**pipes, **options}) as process:
        try:
            output, errors = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _fork(
    words: Sequence[str], files: Sequence[int], *, env: Mapping[str, str], cwd: str | Path | None
) -> ForkServerProcess:
    """Start a process of the server, with these files as its standard input, output and error output."""
    run = (list(words), _Files(files), dict(env), str(cwd or Path.cwd()))
    process = _context().Process(target=_run, args=run, daemon=True)
    process.start()
    return process


class _Files:
    """Open files that a process is handed along with its arguments; there it is a tuple of their descriptors."""

    def __init__(self, files: Sequence[int]) -> None:
        self._files = files

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached, tuple(reduction.DupFd(file) for file in self._files)


def _detached(*files: Any) -> tuple[int, ...]:
    return tuple(file.detach() for file in files)


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_LOADED])
    return context


def _run(words: list[str], files: tuple[int, ...], env: dict[str, str], cwd: str) -> None:
    """Become what Python is with these words."""
    os.setsid()
    # The end that a worker would hold keeps the server up after the test process.
    server: Any = forkserver._forkserver
    os.close(server._forkserver_alive_fd)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # multiprocessing has put an empty file in its place.
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115  (it stays open)
    cast(TextIOWrapper, sys.stdout).reconfigure(write_through=True)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    os.chdir(cwd)
    _read_pool(env)
    gc.enable()
    multiprocessing.current_process().name = "MainProcess"
    (option, what), arguments = words[:2], words[2:]
    sys.argv = ["-c" if option == "-c" else what, *arguments]
    try:
        if option == "-c":
            exec(compile(what, "<string>", "exec"), vars(sys.modules["__main__"]))  # noqa: S102  (as Python does)
        else:
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    finally:
        # As Python does, in its order; multiprocessing leaves the second out.
        cast(Any, threading)._shutdown()
        atexit._run_exitfuncs()


def _read_pool(env: Mapping[str, str]) -> None:
    """Let Celery know the class of ``--pool custom``, which it reads as it is loaded."""
    from celery.concurrency import ALIASES

    if pool := env.get(POOL_VARIABLE):
        ALIASES["custom"] = pool
