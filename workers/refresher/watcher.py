"""Being told of changes, where the server does that: a hint to look, never the truth, and dropped if it misses one."""

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

# A hint may come a little later than the look that was faster; after that it isn't coming.
_HINT_GRACE_S = 1.0


class WatchSupport:
    """Whether watching is worth a try.

    Args:
        wanted: whether to watch at all.
        retry_s: seconds after which a refusal is forgotten.
    """

    def __init__(self, *, enabled: bool, retry_s: float) -> None:
        self.retry_s = retry_s
        self._enabled = enabled
        self._failed_at: float | None = None

    def should_try(self) -> bool:
        """Tells whether to try."""
        return self._enabled and (self._failed_at is None or boot_clock() - self._failed_at >= self.retry_s)

    def record_failure(self) -> None:
        """Notes that it didn't work."""
        self._failed_at = boot_clock()


class SessionWatcher:
    """The watch on one session.

    Args:
        client: the way to the server.
        session: the session.
        served: whether the server serves watching; all sessions share what one of them found out.
        told: rung at each change.
        poll_s, poll_max_s: the intervals without it. An open stream is believed once it has told something, or after
            the longer one.
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
        """Whether changes are told, so that looking often is needless."""
        if self._task is None or self._task.done() or not self._opened_at:
            return False
        return self._notified_at >= self._opened_at or boot_clock() - self._opened_at > self._poll_max_s

    def watch(self, ids: frozenset[str]) -> None:
        """Watches these variables from here on, if watching is worth a try."""
        if not (ids and self._server_support.should_try() and self._session_support.should_try()):
            self._stop()
        elif self._task is None or self._task.done() or ids != self._ids:
            self._stop()
            self._ids = ids
            self._task = asyncio.get_running_loop().create_task(self._run(ids))

    def record_read(self, *, hinted: bool, changed: bool) -> None:
        """Notes what a look found, so that a stream which misses changes is found out."""
        if changed and not hinted and self.is_reliable:
            self._missed_at = self._missed_at or boot_clock()
        elif self._missed_at is not None and boot_clock() - self._missed_at > _HINT_GRACE_S:
            _log.warning("session %r: the watch missed a change; polling instead", self._session)
            self._session_support.record_failure()
            self._missed_at = None
            self._stop()

    async def aclose(self) -> None:
        """Ends the watch."""
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
        pace = PollSchedule(self._poll_s, self._poll_max_s)
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
                pace = PollSchedule(self._poll_s, self._poll_max_s)
            self._opened_at = 0.0
            self._wake_up.set()
            await asyncio.sleep(pace.delay_after_failure_s())

    async def _consume(self, ids: frozenset[str]) -> None:
        async with aclosing(self._client.watch(self._session, sorted(ids))) as updates:
            async for _ in updates:
                self._notified_at, self._missed_at = boot_clock(), None
                self._wake_up.set()
