"""AuditClient: who changed what on a fleet, what is protected, and what waits for approval."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from snakepit_bridge.audit.entries import AuditEntry, AuditFilter, AuditOutcome
from snakepit_bridge.audit.trail import RedisAuditTrail
from snakepit_bridge.client.program_client import ProgramClient
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.redis.key_names import FleetKeys

if TYPE_CHECKING:
    from snakepit_bridge.client.approvals import Approvals
    from snakepit_bridge.client.protections import FleetProtections


class AuditClient(ProgramClient):
    """The part of :class:`Fleet` that shows and controls changes. It takes the Redis permissions of an operator."""

    @cached_property
    def audit_trail(self) -> RedisAuditTrail:
        """The audit trail, for callers that await; its ``follow`` yields each new entry."""
        return RedisAuditTrail(self.connection, namespace=self.namespace, source=self.source)

    def audit(
        self,
        *,
        session: str = "",
        actor: str = "",
        action: str = "",
        outcome: AuditOutcome | str | None = None,
        since_s: float | None = None,
        limit: int = 100,
        before: str = "",
    ) -> list[AuditEntry]:
        """Return the newest entries of the audit trail, the newest first.

        Args:
            session: only those of this session, its labels, rollouts and experiments.
            actor: only those of this author, or of the gateway's token of this name.
            action: only these, such as ``publish``, or ``rollout`` for all steps of rollouts.
            outcome: only ``done``, ``requested``, ``refused`` or ``denied`` ones.
            since_s: none older than so many seconds; None for no limit.
            limit: how many at most.
            before: the ``position`` of an entry, to read on from there.

        Raises:
            ValueError: there is no such outcome.
            StoreUnavailableError: Redis is away.
        """
        chosen = AuditFilter(session, actor, action, None if outcome is None else AuditOutcome(outcome))
        return run_blocking(self._audit(chosen, since_s, limit, before))

    async def _audit(self, chosen: AuditFilter, since_s: float | None, limit: int, before: str) -> list[AuditEntry]:
        since = 0.0 if since_s is None else await self.audit_trail.read_time() - since_s
        return await self.audit_trail.read(chosen, since=since, limit=limit, before=before)

    @cached_property
    def protections(self) -> FleetProtections:
        """The rules by which changes of sessions and labels need somebody else's approval."""
        from snakepit_bridge.client.protections import AsyncProtections, FleetProtections

        return FleetProtections(AsyncProtections(self.connection, self.namespace, self.source, self.cipher))

    @cached_property
    def approvals(self) -> Approvals:
        """The changes that wait for approval: list, show, approve and reject them."""
        from snakepit_bridge.client.approvals import Approvals, AsyncApprovals
        from snakepit_bridge.releases.index import RolloutIndex

        index = RolloutIndex(self.connection, FleetKeys(self.namespace))
        return Approvals(AsyncApprovals(self.store, lambda: self.registry, self.protections.aio, index))
