"""Which sessions this refresher follows, of those that are followed at all: about as many as each of the others."""

from __future__ import annotations

import math
import random
from collections.abc import Set as AbstractSet

from workers.refresher.leases import RefresherLeases
from workers.refresher.schedule import boot_clock


class SessionAssignment:
    """The sessions whose lease this refresher holds.

    Args:
        leases: the leases.
        renew_s: how often they are renewed and shared out.
    """

    def __init__(self, leases: RefresherLeases, renew_s: float) -> None:
        self._leases = leases
        self._renew_s = renew_s
        self._renewed_at = 0.0
        self._sessions: AbstractSet[str] = frozenset()
        self.held: set[str] = set()

    async def rebalance(self, sessions: AbstractSet[str]) -> set[str]:
        """Renews, takes and passes on leases; returns the sessions that are this refresher's now.

        What is passed on is still held when this returns: stop following it, then ``give_back``.

        Raises:
            StoreUnavailableError
        """
        if sessions == self._sessions and boot_clock() - self._renewed_at < self._renew_s:
            return self.held & sessions
        began = boot_clock()
        fair = math.ceil(len(sessions) / max(1, await self._leases.register()))
        kept = await self._leases.acquire(sorted(self.held & sessions))
        if len(kept) > fair:
            kept = set(random.sample(sorted(kept), fair))
        elif len(kept) < fair:
            free = sorted(await self._leases.find_free(sorted(sessions - kept)))
            taken = random.sample(free, min(len(free), fair - len(kept)))
            kept |= await self._leases.acquire(taken, take_over=True)
        self._sessions, self._renewed_at = frozenset(sessions), began
        return kept

    async def release(self, sessions: AbstractSet[str]) -> None:
        """Ends leases; raises StoreUnavailableError."""
        if sessions:
            await self._leases.release(sorted(sessions))
        self.held -= sessions
