"""Divide the followed sessions among the running refreshers, about as many for each."""

from __future__ import annotations

import math
import random
from collections.abc import Set as AbstractSet

from workers.refresher.leases import RefresherLeases
from workers.refresher.schedule import boot_clock


class SessionAssignment:
    """The sessions whose lease this refresher holds.

    Args:
        leases: the leases in Redis.
        renew_s: seconds between renewals.

    Attributes:
        held: sessions whose lease was held after the last call.
    """

    def __init__(self, leases: RefresherLeases, renew_s: float) -> None:
        self._leases = leases
        self._renew_s = renew_s
        self._renewed_at = 0.0
        self._sessions: AbstractSet[str] = frozenset()
        self.held: set[str] = set()

    async def rebalance(self, sessions: AbstractSet[str]) -> set[str]:
        """Renew and acquire leases up to a fair share; return the sessions that this refresher should follow now.

        Leases above the fair share are still held when this returns: stop following those sessions, then call
        ``release``.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        if sessions == self._sessions and boot_clock() - self._renewed_at < self._renew_s:
            return self.held & sessions
        began_at = boot_clock()
        fair = math.ceil(len(sessions) / max(1, await self._leases.register()))
        kept = await self._leases.acquire(sorted(self.held & sessions))
        if len(kept) > fair:
            kept = set(random.sample(sorted(kept), fair))
        elif len(kept) < fair:
            free = sorted(await self._leases.find_free(sorted(sessions - kept)))
            chosen = random.sample(free, min(len(free), fair - len(kept)))
            kept |= await self._leases.acquire(chosen, take_over=True)
        self._sessions, self._renewed_at = frozenset(sessions), began_at
        return kept

    async def release(self, sessions: AbstractSet[str]) -> None:
        """Release leases.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        if sessions:
            await self._leases.release(sorted(sessions))
        self.held -= sessions
