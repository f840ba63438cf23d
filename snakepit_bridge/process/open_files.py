"""Open files: how many a process may have, and what becomes of work that needs one when none is left.

Every connection is one. Under the usual soft limit of 1,024 a worker that holds thousands of predictions can't connect
to its LMs, nor to Redis to say so. So the soft limit is raised to the hard one at start, connections to LMs share what
that leaves, and where there is none in spite of that, work waits until there is: nothing was sent, so nothing failed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar
from weakref import WeakSet

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None

T = TypeVar("T")

# Larger limits are as good as none, and tables of some programs are as large as the limit.
_ENOUGH = 1 << 20
# What is kept for Redis, the broker, look-ups of names, and the files of programs: at most so many, or this share.
_RESERVE = 96
_RESERVE_SHARE = 1 / 3
_LEAST_ROOM = 8
# Pauses before work is tried again for which no file was left, and how long it is tried.
_PAUSE_S = (0.05, 0.5)
_PATIENCE_S = 60.0
# An outage is logged once in so many seconds.
_LOG_EVERY_S = 10.0

_log = logging.getLogger(__name__)


class HoldsIdle(Protocol):
    """What keeps connections open that nobody uses at the moment."""

    def close_idle(self) -> None:
        """Close them; those in use stay."""
        ...


@dataclass(frozen=True, slots=True)
class FileUse:
    """How a process stands.

    Attributes:
        limit: files that it may have open; 0 where the system sets no limit.
        open: files that it has open; -1 where the system doesn't tell.
        room: connections to LMs that it opens at a time, at most; 0 for any number.
        lacked_s_ago: seconds since none was left; None if that never was.
    """

    limit: int
    open: int
    room: int
    lacked_s_ago: float | None


def raise_open_file_limit() -> int:
    """Raise the soft limit of this process and those that it starts to the hard one, and return it; 0 for no limit."""
    if resource is None:
        return 0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return min(soft, wanted) if soft != resource.RLIM_INFINITY else 0
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as exc:  # macOS has a lower one beside it
        _log.warning("The limit of open files stays at %d, since it can't be raised to %d: %s", soft, wanted, exc)
        return soft
    return wanted


def open_file_limit() -> int:
    """Return how many files this process may have open; 0 for no limit."""
    if resource is None:
        return 0
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if soft == resource.RLIM_INFINITY else soft


def count_open_files() -> int:
    """Return how many files this process has open; -1 where the system doesn't tell."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1  # the listing itself is one
        except OSError:
            continue
    return -1


def lacks_files(exc: BaseException | None) -> bool:
    """Check whether an error says, by itself or by its causes, that no file was left for the process or the system."""
    seen = 0
    while exc is not None and seen < 16:
        if isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE):
            return True
        exc, seen = exc.__cause__ or exc.__context__, seen + 1
    return False


class OpenFiles:
    """What a process has of open files, for those who open connections. ``OPEN_FILES`` is the process's."""

    def __init__(self) -> None:
        self._rooms: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None
        self._room = 0
        self._idle: WeakSet[HoldsIdle] = WeakSet()
        self._lacked_at: float | None = None
        self._logged_at = float("-inf")

    def register_idle(self, holder: HoldsIdle) -> None:
        """Have a holder of idle connections close them where files run out. It is held weakly."""
        self._idle.add(holder)

    def use(self) -> FileUse:
        """Return how the process stands."""
        ago = None if self._lacked_at is None else round(time.monotonic() - self._lacked_at, 1)
        return FileUse(open_file_limit(), count_open_files(), self._room, ago)

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[None]:
        """Hold the place of one connection to an LM, and wait for it where all that the limit leaves are held."""
        room = self._semaphore()
        if room is None:
            yield
            return
        async with room:
            yield

    async def wait_for_files(self, work: Callable[[], Awaitable[T]], patience_s: float = _PATIENCE_S) -> T:
        """Return what some work returns; where no file is left for it, close idle connections and try it again.

        Args:
            work: what needs a file, and has done nothing where there is none.
            patience_s: seconds from the first such failure after which the last one is raised.
        """
        until: float | None = None
        while True:
            try:
                return await work()
            except Exception as exc:
                if not lacks_files(exc):
                    raise
                self.lack(exc)
                now, pause_s = time.monotonic(), random.uniform(*_PAUSE_S)
                until = until or now + patience_s
                if now + pause_s > until:
                    raise
            await asyncio.sleep(pause_s)

    def lack(self, exc: BaseException) -> None:
        """Note that no file was left, and close idle connections."""
        now = self._lacked_at = time.monotonic()
        for holder in list(self._idle):
            holder.close_idle()
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            _log.error(
                "No open file is left (%d of %d); what needs one waits. Raise the limit (ulimit -n): %s",
                count_open_files(), open_file_limit(), exc,
            )  # fmt: skip

    def _semaphore(self) -> asyncio.Semaphore | None:
        """The places of the event loop that the process makes its LM calls on; others are left uncounted."""
        loop = asyncio.get_running_loop()
        if self._rooms is None or self._rooms[0].is_closed():
            limit = open_file_limit()
            if not limit:
                return None
            reserve = min(_RESERVE, round(limit * _RESERVE_SHARE))
            self._room = max(_LEAST_ROOM, limit - max(0, count_open_files()) - reserve)
            self._rooms = (loop, asyncio.Semaphore(self._room))
        return self._rooms[1] if self._rooms[0] is loop else None

    def forget(self) -> None:
        """Begin anew, as a forked child must."""
        self.__init__()


OPEN_FILES = OpenFiles()

os.register_at_fork(after_in_child=OPEN_FILES.forget)
