"""Watch a session for changes, if the server supports it.

A notification is only a hint to read the session. A watch that misses a change is given up in favor of polling.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress

from snakepit_bridge.elixir.client import BridgeClient
from snakepit_bridge.elixir.errors import ElixirMethodNotServedError
from snakepit_bridge.exceptions import BridgeError
from workers.refresher.schedule import PollSchedule, boot_clock
from workers.refresher.timed_event import TimedEvent

_log = logging.getLogger(__name__)

# A notification may arrive this much later than the read that found the change; after that it was missed.
_HINT_GRACE_S = 1.0


class WatchSupport:
    """Decides whether to try watching.

    Args:
        enabled: whether to watch at all.
        retry_s: seconds after a failure until watching is tried again.
    """

    def __init__(self, *, enabled: bool, retry_s: float) -> None:
        self.retry_s = retry_s
        self._enabled = enabled
        self._failed_at: float | None = None

    def should_try(self) -> bool:
        """Check whether to try watching now."""
        return self._enabled and (self._failed_at is None or boot_clock() - self._failed_at >= self.retry_s)

    def record_failure(self) -> None:
        """Record that watching failed, so that it isn't tried for ``retry_s``."""
        self._failed_at = boot_clock()


class SessionWatcher:
    """Watches one session.

    Args:
        client: the client of the Elixir server.
        session: the session's name.
        support: whether the server supports watching, shared by all sessions.
        wake_up: set at each change.
        poll_s, poll_max_s: the polling intervals in seconds. An open stream counts as reliable once it has delivered a
            notification, or after ``poll_max_s``.
    """

    def __init__(
        self,
        client: BridgeClient,
        session: str,
        support: WatchSupport,
        wake_up: TimedEvent,
        *,
        poll_s: float,
        poll_max_s: float,
    ) -> None:
        self._client, self._session, self._wake_up = client, session, wake_up
        self._poll_s, self._poll_max_s = poll_s, poll_max_s
        self._server_support = support
        self._session_support = WatchSupport(enabled=True, retry_s=support.retry_s)
        self._task: asyncio.Task[None] | None = None
        self._ids: frozenset[str] = frozenset()
        self._opened_at = self._notified_at = 0.0
        self._missed_at: float | None = None

    @property
    def is_reliable(self) -> bool:
        """Whether the stream delivers changes, so that polling can be slow."""
        if self._task is None or self._task.done() or not self._opened_at:
            return False
        return self._notified_at >= self._opened_at or boot_clock() - self._opened_at > self._poll_max_s

    def watch(self, ids: frozenset[str]) -> None:
        """Watch these variables from now on, if watching should be tried."""
        if not (ids and self._server_support.should_try() and self._session_support.should_try()):
            self._stop()
        elif self._task is None or self._task.done() or ids != self._ids:
            self._stop()
            self._ids = ids
            self._task = asyncio.get_running_loop().create_task(self._run(ids))

    def record_read(self, *, hinted: bool, changed: bool) -> None:
        """Record the result of a read, to detect a stream that misses changes.

        Args:
            hinted: whether a notification preceded the read.
            changed: whether the read found a change.
        """
        if changed and not hinted and self.is_reliable:
            self._missed_at = self._missed_at or boot_clock()
        elif self._missed_at is not None and boot_clock() - self._missed_at > _HINT_GRACE_S:
            _log.warning("session %r: the watch missed a change; polling instead", self._session)
            self._session_support.record_failure()
            self._missed_at = None
            self._stop()

    async def aclose(self) -> None:
        """Stop watching."""
        task = self._task
        self._stop()
        if task is not None:
            with suppress(asyncio.CancelledError):
                await task

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task, self._ids, self._opened_at = None, frozenset(), 0.0

    async def _run(self, ids: frozenset[str]) -> None:
        schedule = PollSchedule(self._poll_s, self._poll_max_s)
        while True:
            self._opened_at = boot_clock()
            try:
                await self._consume(ids)
            except ElixirMethodNotServedError:
                self._server_support.record_failure()
                return
            except BridgeError as exc:
                _log.debug("session %r: the watch ended: %s", self._session, exc)
            if self._notified_at >= self._opened_at:
                schedule = PollSchedule(self._poll_s, self._poll_max_s)
            self._opened_at = 0.0
            self._wake_up.set()
            await asyncio.sleep(schedule.delay_after_failure_s())

    async def _consume(self, ids: frozenset[str]) -> None:
        async with aclosing(self._client.watch(self._session, sorted(ids))) as updates:
            async for _ in updates:
                self._notified_at, self._missed_at = boot_clock(), None
                self._wake_up.set()
