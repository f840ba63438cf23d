"""The format of what a fleet keeps in Redis: one number for each namespace, which processes check when they connect.

A release whose data an older one would misread has a larger number, and writes such data only once the fleet's number
says so. Without a number the format is 1, which the first releases wrote.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from snakepit_bridge.exceptions import DataFormatError, StoreForbiddenError, StoreUnavailableError
from snakepit_bridge.redis.key_names import FleetKeys

DATA_FORMAT: Final = 1
"""The newest format that this release reads, and the one that it writes."""

RECHECK_S: Final = 10.0
"""Seconds after which a process looks at the number again, which nothing waits for."""

# Of a number that somebody wrote by mistake, so many characters are read and shown.
_MAX_DIGITS = 20


class DataFormatGuard:
    """What one connection knows of its fleet's format.

    Args:
        namespace: the fleet's.
        clock: monotonic seconds.

    Attributes:
        command: reads the number.
        is_readable: whether the number was read, and this release reads that format.
    """

    def __init__(self, namespace: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._namespace = namespace
        self._clock = clock
        self._due_at = float("-inf")
        self._found: bytes | None = None
        self.is_readable = False
        self.command = ("GET", FleetKeys(namespace).data_format)

    @property
    def is_due(self) -> bool:
        """Whether it is time to look at the number again."""
        return self._clock() >= self._due_at

    def note(self, found: bytes | None) -> None:
        """Remember the number that was read."""
        self._found, self._due_at = found, self._clock() + RECHECK_S
        self.is_readable = found is None or (found.isdigit() and int(found[:_MAX_DIGITS]) <= DATA_FORMAT)

    def read_later(self, execute: Callable[[tuple[str, str]], asyncio.Future[Any]]) -> None:
        """Read the number without waiting for it; an error instead of it changes nothing.

        Args:
            execute: sends a command with the next round trip of others.
        """
        self._due_at = self._clock() + RECHECK_S

        def note(reply: asyncio.Future[Any]) -> None:
            if not reply.cancelled() and reply.exception() is None:
                self.note(reply.result())

        execute(self.command).add_done_callback(note)

    def forget(self) -> None:
        """Look at the number before anything else is read: another server may answer now."""
        self._due_at, self.is_readable = float("-inf"), False

    async def check_before(self, answer: Awaitable[Any], execute: Callable[..., Awaitable[Any]]) -> None:
        """Check the format before a reply is awaited; read the number first if it is time to.

        Args:
            answer: the reply. What isn't sent for an error is closed, so that nobody misses its end.
            execute: sends a command and returns its reply.

        Raises:
            DataFormatError: a newer release wrote what is there.
        """
        try:
            if self.is_due:
                self.note(await execute(*self.command))
            self.check()
        except BaseException:
            if inspect.iscoroutine(answer):
                answer.close()
            raise

    def check(self) -> None:
        """Check that this release reads the format.

        Raises:
            DataFormatError: it doesn't.
        """
        if not self.is_readable:
            found = b"" if self._found is None else self._found
            raise DataFormatError(self._namespace, found[:_MAX_DIGITS].decode(errors="replace"), DATA_FORMAT)


async def mark_data_format(execute: Callable[..., Awaitable[Any]], namespace: str) -> None:
    """Check when a process of the fleet starts that it reads the fleet's format; write the number if there is none.

    An unreachable server is ignored: it is asked again with the first thing that is read.

    Args:
        execute: sends a command to the fleet's Redis and returns its reply.
        namespace: the fleet's.

    Raises:
        DataFormatError: an older release would misread what is there.
        StoreForbiddenError: this user may not read or write the number.
    """
    guard = DataFormatGuard(namespace)
    try:
        await execute("SETNX", FleetKeys(namespace).data_format, DATA_FORMAT)
        guard.note(await execute(*guard.command))
        guard.check()
    except StoreUnavailableError as exc:
        if isinstance(exc, StoreForbiddenError):
            raise
