"""Stacks of another process's threads, written by that process's own signal handler in C, and which thread is busy."""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
import time
from pathlib import Path

SIGNAL = signal.SIGVTALRM
"""By which a thread is asked for its stack; nothing else is known to use it, and a debugger can be kept off it."""

_WAIT_S = 0.5
_POLL_S = 0.02
_MOST = 65_536
_PROC = Path("/proc")


class Stacks:
    """Asks threads for their stacks. Made in the process that will be asked, before it is forked from."""

    def __init__(self) -> None:
        # Without a name in any folder; the asker and the asked write to and read from the same one.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (open for as long as the process)
        faulthandler.register(SIGNAL, file=self._file, all_threads=False)

    def capture(self, thread: int) -> str:
        """Returns the stack of a thread of a process that inherited this, as ``faulthandler`` writes it.

        Empty if the thread is gone or doesn't answer.
        """
        fd = self._file.fileno()
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        try:
            # The kernel takes a thread's number here as well, and has that thread handle the signal if it can.
            os.kill(thread, SIGNAL)
        except ProcessLookupError:
            return ""
        size, deadline = -1, time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            time.sleep(_POLL_S)
            last, size = size, os.fstat(fd).st_size
            if size and size == last:
                break
        return os.pread(fd, _MOST, 0).decode(errors="replace")


def is_stopped(pid: int) -> bool:
    """Tells whether a process was stopped by a signal, such as SIGSTOP: that is no fault of its code."""
    return _state(_PROC / str(pid) / "stat") in ("T", "t")


def find_busiest_thread(pid: int, before: dict[int, int]) -> tuple[int | None, dict[int, int]]:
    """Returns the thread of a process that computed most since an earlier call, and what the next call is given.

    Args:
        pid: the process.
        before: what the earlier call returned; empty for the first, which finds none.
    """
    now: dict[int, int] = {}
    for task in _tasks(pid):
        fields = _fields(task / "stat")
        if len(fields) > 12:
            now[int(task.name)] = int(fields[11]) + int(fields[12])
    used = {thread: ticks - before[thread] for thread, ticks in now.items() if thread in before}
    most = max(used, key=lambda thread: used[thread], default=None)
    return (most if most is not None and used[most] > 0 else None), now


def _tasks(pid: int) -> list[Path]:
    try:
        return list((_PROC / str(pid) / "task").iterdir())
    except OSError:  # no such process, or a system without /proc
        return []


def _state(stat: Path) -> str:
    return next(iter(_fields(stat)), "")


def _fields(stat: Path) -> list[str]:
    """What follows the name, which may hold blanks and brackets."""
    try:
        return stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
