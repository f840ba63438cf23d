"""Sessions, as tasks ask for them: out of the process's replica, and wished for where nobody follows them yet."""

from __future__ import annotations

import asyncio
import time

from snakepit_bridge.elixir.demand import WantedSessions
from snakepit_bridge.exceptions import AuthorityAwayError, SessionNotFoundError, StoreUnavailableError
from snakepit_bridge.protocol.messages import DEFAULT_SESSION, Requirement
from snakepit_bridge.snapshots.freshness import FreshnessPolicy, ServedSnapshot
from snakepit_bridge.snapshots.replica import Replica

_POLL_INTERVAL_S = 0.1
# For so long nobody waits again for a session whose authority nobody could reach.
_BACKOFF_S = 30.0
_MAX_BACKOFFS = 1_000


class SessionSnapshots:
    """The snapshots of the process's tasks.

    Args:
        replica: what the process holds.
        wanted: where refreshers look which sessions are in use; None where no Elixir server is followed.
        wait_s: seconds to wait for a refresher to bring a session that nobody had asked for before.
    """

    def __init__(self, replica: Replica, wanted: WantedSessions | None, wait_s: float) -> None:
        self.replica = replica
        self.wanted = wanted
        self._wait_s = wait_s
        self._backoff_until: dict[str, float] = {}

    async def serve(self, session: str, requirement: Requirement, policy: FreshnessPolicy) -> ServedSnapshot:
        """Return a snapshot that meets the requirement on these policy, and how old it is.

        Raises:
            what ``Replica.serve`` raises.
        """
        try:
            served = await self.replica.serve(session, requirement, policy)
        except SessionNotFoundError:
            if self.wanted is None or session == DEFAULT_SESSION:
                raise
            await self.wanted.want([session])
            return await self._wait_until_followed(session, requirement, policy)
        except AuthorityAwayError:
            if not await self._request_following(session):
                raise
            return await self._wait_until_followed(session, requirement, policy)
        if served.outage and not served.store_away and await self._request_following(session):
            return await self._wait_until_followed(session, requirement, policy)
        return served

    async def _request_following(self, session: str) -> bool:
        """Tell whether an authority seems away only since nobody had a use for its session: then it is wished for.

        Refreshers drop what isn't used for long. As long as one of them reaches Elixir, a session that is wanted is
        confirmed within seconds.
        """
        if self.wanted is None:
            return False
        try:
            await self.wanted.want([session])
            return time.monotonic() >= self._backoff_until.get(session, 0.0) and await self.wanted.refreshers_at_work()
        except StoreUnavailableError:
            return False

    async def _wait_until_followed(
        self, session: str, requirement: Requirement, policy: FreshnessPolicy
    ) -> ServedSnapshot:
        """Wait for the session to be followed, and return what there is then."""
        until = time.monotonic() + self._wait_s
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            over = time.monotonic() >= until
            try:
                served = await self.replica.serve(session, requirement, policy)
                if not served.outage or served.store_away:
                    return served
                if over:
                    self._back_off(session)
                    return served
            except SessionNotFoundError:
                if over:
                    raise
            except AuthorityAwayError:
                if over:
                    self._back_off(session)
                    raise

    def _back_off(self, session: str) -> None:
        self._backoff_until.pop(session, None)
        self._backoff_until[session] = time.monotonic() + _BACKOFF_S
        while len(self._backoff_until) > _MAX_BACKOFFS:
            self._backoff_until.pop(next(iter(self._backoff_until)))
