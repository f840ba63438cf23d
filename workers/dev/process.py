"""Child processes that don't outlive their parent: an embedded server, the demo's workers, workers under test.

A child has a group of its own, since Ctrl-C in a terminal goes to the whole foreground group and would end it before
its parent had finished with it. So that it doesn't outlive the parent either, each child has a watchdog.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

END_TIMEOUT_S = 10.0

# The command starts once its watchdog does: a parent killed between the two would leave a child that nobody ends. If
# the parent dies first, the pipe ends without a line, and the shell does as well.
_GATE = 'read -r _ || exit 1; exec "$@" < /dev/null'

# The watchdog's standard input is a pipe whose other end only the parent holds: it ends when the parent does, by
# whatever death, kill -9 included, and the watchdog takes group and folder away. A line on the pipe releases it. Not
# PR_SET_PDEATHSIG: that fires when the *thread* that started the child ends, and exists on Linux alone.
_WATCHDOG = """
read -r _ && exit 0
kill -s TERM -- "-$1" 2>/dev/null && sleep 1
kill -s KILL -- "-$1" 2>/dev/null
[ -z "$2" ] || rm -rf -- "$2"
"""


def inherit_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with changes, but no health endpoints: one process alone has the address."""
    return {**os.environ, "DSPEX_HEALTH_ADDRESS": "", **changes}


class Child:
    """A process that was started and is ended with everything that it started itself."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        """Start it.

        Args:
            command: the program and its arguments.
            log: the file to which its output is appended.
            env: its whole environment; without it, this process's.
            cwd: its working directory; without it, this process's.
            folder: a private folder that is removed if this process dies without having ended the child.
        """
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GATE, "gate", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        try:
            self._watchdog = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, "watchdog", str(self.pid), str(folder or "")],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            self._kill_group()
            self._process.communicate()
            raise
        self._open_gate()

    @property
    def pid(self) -> int:
        """Its process id, which is its group's as well."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code (minus the signal's number where one ended it), None while it runs."""
        return self._process.poll()

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self.returncode is None

    def send_signal(self, sign: int) -> None:
        """Send a signal to it alone; nothing happens if it has ended."""
        self._process.send_signal(sign)

    def end(self, sign: int = signal.SIGTERM, timeout_s: float = END_TIMEOUT_S) -> int:
        """End it by a signal, and after ``timeout_s`` seconds its whole group by SIGKILL; return its exit code.

        A signal of SIGKILL goes to the whole group at once, as when a machine dies. Can be repeated.
        """
        if sign == signal.SIGKILL:
            self._kill_group()
        else:
            self.send_signal(sign)
            self.send_signal(signal.SIGCONT)  # a paused process takes no signal before it goes on
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._kill_group()
            self._process.wait()
        if not self._watchdog.stdin or self._watchdog.stdin.closed:
            return self._process.returncode
        self._kill_group()
        self._watchdog.communicate(b"\n")
        return self._process.returncode

    def _open_gate(self) -> None:
        gate = self._process.stdin
        assert gate is not None
        # A broken pipe: somebody has ended it already, and its exit code tells.
        with contextlib.suppress(BrokenPipeError), gate:
            gate.write(b"\n")

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # nobody is left in it
