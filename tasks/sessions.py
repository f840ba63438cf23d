"""Sessions, as tasks ask for them: out of the process's replica, and wished for where nobody follows them yet."""

from __future__ import annotations

import asyncio
import time

from snakepit_bridge.elixir.demand import WantedSessions
from snakepit_bridge.exceptions import AuthorityAwayError, SessionNotFoundError, StoreUnavailableError
from snakepit_bridge.protocol.messages import DEFAULT_SESSION, Requirement
from snakepit_bridge.snapshots.freshness import FreshnessPolicy, ServedSnapshot
from snakepit_bridge.snapshots.replica import Replica

_LOOK_EVERY_S = 0.1
# For so long nobody waits again for a session whose authority nobody could reach.
_IN_VAIN_S = 30.0
_REMEMBERED = 1_000


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
        self._in_vain: dict[str, float] = {}

    async def serve(self, session: str, requirement: Requirement, terms: FreshnessPolicy) -> ServedSnapshot:
        """Return a snapshot that meets the requirement on these terms, and how old it is.

        Raises:
            what ``Replica.serve`` raises.
        """
        try:
            served = await self.replica.serve(session, requirement, terms)
        except SessionNotFoundError:
            if self.wanted is None or session == DEFAULT_SESSION:
                raise
            await self.wanted.want([session])
            return await self._awaited(session, requirement, terms)
        except AuthorityAwayError:
            if not await self._may_be_followed(session):
                raise
            return await self._awaited(session, requirement, terms)
        if served.outage and not served.store_away and await self._may_be_followed(session):
            return await self._awaited(session, requirement, terms)
        return served

    async def _may_be_followed(self, session: str) -> bool:
        """Tell whether an authority seems away only since nobody had a use for its session: then it is wished for.

        Refreshers drop what isn't used for long. As long as one of them reaches Elixir, a session that is wanted is
        confirmed within seconds.
        """
        if self.wanted is None:
            return False
        try:
            await self.wanted.want([session])
            return time.monotonic() >= self._in_vain.get(session, 0.0) and await self.wanted.refreshers_at_work()
        except StoreUnavailableError:
            return False

    async def _awaited(self, session: str, requirement: Requirement, terms: FreshnessPolicy) -> ServedSnapshot:
        """Wait for the session to be followed, and return what there is then."""
        until = time.monotonic() + self._wait_s
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            over = time.monotonic() >= until
            try:
                served = await self.replica.serve(session, requirement, terms)
                if not served.outage or served.store_away:
                    return served
                if over:
                    self._waited_in_vain(session)
                    return served
            except SessionNotFoundError:
                if over:
                    raise
            except AuthorityAwayError:
                if over:
                    self._waited_in_vain(session)
                    raise

    def _waited_in_vain(self, session: str) -> None:
        self._in_vain.pop(session, None)
        self._in_vain[session] = time.monotonic() + _IN_VAIN_S
        while len(self._in_vain) > _REMEMBERED:
            self._in_vain.pop(next(iter(self._in_vain)))
