"""Sessions, as tasks ask for them: out of the process's replica, and wished for where nobody follows them yet."""

from __future__ import annotations

import asyncio

from snakepit_bridge.exceptions import SessionNotFoundError
from snakepit_bridge.messages import DEFAULT_SESSION, Requirement
from snakepit_bridge.replica import Replica, Served, Terms
from snakepit_bridge.wire.wanted import WantedSessions

_LOOK_EVERY_S = 0.1


class Sessions:
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

    async def serve(self, session: str, requirement: Requirement, terms: Terms) -> Served:
        """Returns a snapshot that meets the requirement on these terms, and how old it is.

        Raises:
            what ``Replica.serve`` raises.
        """
        try:
            return await self.replica.serve(session, requirement, terms)
        except SessionNotFoundError:
            if self.wanted is None or session == DEFAULT_SESSION:
                raise
            await self.wanted.want([session])
        return await self._awaited(session, requirement, terms)

    async def _awaited(self, session: str, requirement: Requirement, terms: Terms) -> Served:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._wait_s
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                return await self.replica.serve(session, requirement, terms)
            except SessionNotFoundError:
                if loop.time() >= until:
                    raise
