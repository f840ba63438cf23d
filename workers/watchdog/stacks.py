"""Stacks of another process's threads, written by that process's signal handler in C, and its busiest thread."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

SIGNAL = signal.SIGVTALRM
"""The signal that makes a thread write its stack; nothing else is known to use it, and debuggers can ignore it."""

_WAIT_S = 0.5
_POLL_S = 0.02
_MOST = 65_536
_PROC = Path("/proc")
# Of Linux, in glibc since 2.30.
_tgkill: Any = getattr(ctypes.CDLL(None), "tgkill", None)


class Stacks:
    """Captures stacks of threads of another process.

    Args:
        fd: the file to which that process's threads write them, shared with it.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def capture(self, pid: int, thread: int) -> str:
        """Return a thread's stack as ``faulthandler`` writes it; empty if the thread is gone or doesn't respond.

        Args:
            pid: the thread's process.
            thread: its native id.
        """
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        if not _send_signal(pid, thread):
            return ""
        size, deadline = -1, time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            time.sleep(_POLL_S)
            last, size = size, os.fstat(self._fd).st_size
            if size and size == last:
                break
        return os.pread(self._fd, _MOST, 0).decode(errors="replace")


def _send_signal(pid: int, thread: int) -> bool:
    """Send the signal to a thread; return whether it is there.

    It goes to the thread itself: of the signals to a process, each thread takes what is there as it handles another, as
    the main thread does when a worker is told to end.
    """
    if _tgkill is not None:
        return _tgkill(pid, thread, SIGNAL) == 0
    try:
        os.kill(thread, SIGNAL)
    except ProcessLookupError:
        return False
    return True


def is_stopped(pid: int) -> bool:
    """Check whether a process was stopped by a signal such as SIGSTOP, which is no fault of its code."""
    return _state(_PROC / str(pid) / "stat") in ("T", "t")


def find_busiest_thread(pid: int, before: dict[int, int]) -> tuple[int | None, dict[int, int]]:
    """Return the thread that used most CPU time since an earlier call, and the state for the next call.

    Args:
        pid: the process.
        before: the state that the earlier call returned; empty for the first call, which returns no thread.
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
    """Return the fields after the name, which may contain blanks and brackets."""
    try:
        return stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
