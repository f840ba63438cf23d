"""Serve sessions to tasks from the replica, and request those that no refresher follows yet."""

from __future__ import annotations

import asyncio
import time

from snakepit_bridge.elixir.demand import SessionDemand
from snakepit_bridge.exceptions import AuthorityAwayError, SessionNotFoundError, StoreUnavailableError
from snakepit_bridge.protocol.messages import DEFAULT_SESSION, Requirement
from snakepit_bridge.snapshots.freshness import FreshnessPolicy, ServedSnapshot
from snakepit_bridge.snapshots.replica import Replica

_POLL_INTERVAL_S = 0.1
# After a wait for a session whose authority stayed unreachable, don't wait for it again for this long.
_BACKOFF_S = 30.0
_MAX_BACKOFFS = 1_000


class SessionSnapshots:
    """The snapshots that the tasks of one process run under.

    Args:
        replica: the snapshots that the process holds.
        wanted: tells refreshers which sessions are in use; None without an Elixir server.
        wait_s: seconds to wait for a refresher to publish a session that was requested for the first time.
    """

    def __init__(self, replica: Replica, wanted: SessionDemand | None, wait_s: float) -> None:
        self.replica = replica
        self.wanted = wanted
        self._wait_s = wait_s
        self._backoff_until: dict[str, float] = {}

    async def serve(self, session: str, requirement: Requirement, policy: FreshnessPolicy) -> ServedSnapshot:
        """Return a snapshot that meets the requirement under a policy, and its staleness.

        Raises:
            BridgeError: as ``Replica.serve`` says.
        """
        try:
            served = await self.replica.serve(session, requirement, policy)
        except SessionNotFoundError:
            if self.wanted is None or session == DEFAULT_SESSION:
                raise
            await self.wanted.touch([session])
            return await self._wait_until_followed(session, requirement, policy)
        except AuthorityAwayError:
            if not await self._request_following(session):
                raise
            return await self._wait_until_followed(session, requirement, policy)
        if served.outage and not served.store_away and await self._request_following(session):
            return await self._wait_until_followed(session, requirement, policy)
        return served

    async def _request_following(self, session: str) -> bool:
        """Request a session; return whether waiting for it makes sense.

        Refreshers stop following unused sessions, whose authority then looks unreachable. While any refresher reaches
        Elixir, a requested session is confirmed within seconds.
        """
        if self.wanted is None:
            return False
        try:
            await self.wanted.touch([session])
            return time.monotonic() >= self._backoff_until.get(session, 0.0) and await self.wanted.has_live_refresher()
        except StoreUnavailableError:
            return False

    async def _wait_until_followed(
        self, session: str, requirement: Requirement, policy: FreshnessPolicy
    ) -> ServedSnapshot:
        """Wait for the session to be followed, and return what there is then."""
        until = time.monotonic() + self._wait_s
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            timed_out = time.monotonic() >= until
            try:
                served = await self.replica.serve(session, requirement, policy)
                if not served.outage or served.store_away:
                    return served
                if timed_out:
                    self._back_off(session)
                    return served
            except SessionNotFoundError:
                if timed_out:
                    raise
            except AuthorityAwayError:
                if timed_out:
                    self._back_off(session)
                    raise

    def _back_off(self, session: str) -> None:
        self._backoff_until.pop(session, None)
        self._backoff_until[session] = time.monotonic() + _BACKOFF_S
        while len(self._backoff_until) > _MAX_BACKOFFS:
            self._backoff_until.pop(next(iter(self._backoff_until)))
