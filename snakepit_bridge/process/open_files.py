"""Open files: raising the process's limit, and waiting when no file descriptor is left.

Every connection is an open file. Under the usual soft limit of 1,024 a worker with thousands of predictions can't
connect to its LMs, nor to Redis to report it. So the soft limit is raised to the hard limit at start, connections to
LMs share what that leaves, and if none is left even so, work waits and is retried: nothing was sent, so nothing failed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar
from weakref import WeakSet

from snakepit_bridge.process.forking import after_fork_in_child

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None

T = TypeVar("T")

# Larger limits are as good as none, and some programs allocate tables as large as the limit.
_MAX_LIMIT = 1 << 20
# Files reserved for Redis, the broker, DNS lookups and programs: at most this many, or this share of the limit.
_RESERVED_FILES = 96
_RESERVED_SHARE = 1 / 3
_MIN_CONNECTIONS = 8
# Range of the random backoff before work that lacked a file is retried, and how long it is retried.
_BACKOFF_S = (0.05, 0.5)
_MAX_WAIT_S = 60.0
# Minimum seconds between two log messages of a shortage.
_LOG_EVERY_S = 10.0

_log = logging.getLogger(__name__)


class IdleConnectionHolder(Protocol):
    """Holds idle connections open."""

    def close_idle(self) -> None:
        """Close the idle connections; those in use stay open."""
        ...


@dataclass(frozen=True, slots=True)
class FileUsage:
    """A process's use of open files.

    Attributes:
        limit: maximum number of open files; 0 if the system sets no limit.
        open: number of open files; -1 if unknown.
        room: maximum number of concurrent connections to LMs; 0 for no maximum.
        lacked_s_ago: seconds since the last shortage; None if there was none.
    """

    limit: int
    open: int
    room: int
    lacked_s_ago: float | None


def raise_open_file_limit() -> int:
    """Raise the soft limit of this process and its children to the hard limit and return it; 0 for no limit."""
    if resource is None:
        return 0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_LIMIT if hard == resource.RLIM_INFINITY else min(hard, _MAX_LIMIT)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return min(soft, wanted) if soft != resource.RLIM_INFINITY else 0
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as exc:  # macOS enforces a lower one besides
        _log.warning("Open file limit stays at %d, raising it to %d failed: %s", soft, wanted, exc)
        return soft
    return wanted


def open_file_limit() -> int:
    """Return the maximum number of open files of this process; 0 for no limit."""
    if resource is None:
        return 0
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if soft == resource.RLIM_INFINITY else soft


def count_open_files() -> int:
    """Return the number of open files of this process; -1 if unknown."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1  # the listing itself is one
        except OSError:
            continue
    return -1


def is_out_of_files(exc: BaseException | None) -> bool:
    """Check whether an error or one of its causes is EMFILE or ENFILE (no file descriptor left)."""
    seen = 0
    while exc is not None and seen < 16:
        if isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE):
            return True
        exc, seen = exc.__cause__ or exc.__context__, seen + 1
    return False


class OpenFiles:
    """Coordinates this process's open files among its connections. ``OPEN_FILES`` is the instance."""

    def __init__(self) -> None:
        self._rooms: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None
        self._room = 0
        self._idle: WeakSet[IdleConnectionHolder] = WeakSet()
        self._lacked_at: float | None = None
        self._logged_at = float("-inf")

    def register_idle(self, holder: IdleConnectionHolder) -> None:
        """Register a holder of idle connections, which closes them when files run out. It is held weakly."""
        self._idle.add(holder)

    def usage(self) -> FileUsage:
        """Return the process's current use of open files."""
        ago = None if self._lacked_at is None else round(time.monotonic() - self._lacked_at, 1)
        return FileUsage(open_file_limit(), count_open_files(), self._room, ago)

    def connection(self) -> AbstractAsyncContextManager[None]:
        """Hold one of the places for connections to LMs within the block; wait for one if all are taken."""
        return self._semaphore() or nullcontext()

    async def wait_for_files(self, work: Callable[[], Awaitable[T]], patience_s: float = _MAX_WAIT_S) -> T:
        """Await some work and return its result; if no file is left, close idle connections and retry.

        Args:
            work: needs a file; must have had no effect if it fails for lack of one.
            patience_s: seconds after the first such failure for which to retry.
        """
        until: float | None = None
        while True:
            try:
                return await work()
            except Exception as exc:
                if not is_out_of_files(exc):
                    raise
                self.note_shortage(exc)
                now, pause_s = time.monotonic(), random.uniform(*_BACKOFF_S)
                until = until or now + patience_s
                if now + pause_s > until:
                    raise
            await asyncio.sleep(pause_s)

    def note_shortage(self, exc: BaseException) -> None:
        """Record that no file was left, and close idle connections."""
        now = self._lacked_at = time.monotonic()
        for holder in list(self._idle):
            holder.close_idle()
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            _log.error(
                "No open file is left (%d of %d), waiting for one. Raise the limit (ulimit -n): %s",
                count_open_files(), open_file_limit(), exc,
            )  # fmt: skip

    def _semaphore(self) -> asyncio.Semaphore | None:
        """Return the semaphore of the loop that makes the LM calls; other loops aren't limited."""
        loop = asyncio.get_running_loop()
        if self._rooms is None or self._rooms[0].is_closed():
            limit = open_file_limit()
            if not limit:
                return None
            reserve = min(_RESERVED_FILES, round(limit * _RESERVED_SHARE))
            self._room = max(_MIN_CONNECTIONS, limit - max(0, count_open_files()) - reserve)
            self._rooms = (loop, asyncio.Semaphore(self._room))
        return self._rooms[1] if self._rooms[0] is loop else None

    def forget(self) -> None:
        """Reset the state, for a forked child."""
        self.__init__()


OPEN_FILES = OpenFiles()

after_fork_in_child(OPEN_FILES.forget)
