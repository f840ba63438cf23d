"""Bounds the audit trail: the workers delete its oldest entries, so that nobody who writes to it has to."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context

from snakepit_bridge.audit.trail import RedisAuditTrail
from snakepit_bridge.process.aio import OutageLog, cancel_tasks, every

INTERVAL_S = 60.0
"""Seconds between two times that a process trims the trail, which is cheap if another one has just done so."""

_log = logging.getLogger(__name__)


class AuditTrimmer:
    """Trims the audit trail of a fleet, in every worker process. Lives on the home loop.

    Args:
        trail: of the fleet.
        entries: how many entries stay, about.
    """

    def __init__(self, trail: RedisAuditTrail, entries: int) -> None:
        self._trail = trail
        self._entries = entries
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start trimming on the running loop, unless it does so already."""
        if self._running is None or self._running.done():
            outage = OutageLog(_log, "Can't trim the audit trail")
            loop = asyncio.get_running_loop()
            self._running = loop.create_task(every(INTERVAL_S, self._trim, outage), context=Context())

    async def aclose(self) -> None:
        """Stop."""
        await cancel_tasks(self._running)

    async def _trim(self) -> None:
        await self._trail.trim(self._entries)
