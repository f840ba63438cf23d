"""The Audit service: who changed what, of all sessions."""

from __future__ import annotations

from snakepit_bridge.audit.entries import AuditEntry, AuditFilter, AuditOutcome
from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.converters import parse_position, timestamp_message
from workers.gateway.api.targets import require_all_sessions
from workers.gateway.call import ClientCall, require_seconds
from workers.gateway.errors import MalformedError

_DEFAULT_LIMIT, _MAX_LIMIT = 100, 1_000


class GatewayAudit:
    """The operation on the audit trail.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def list(self, request: pb.ListAuditRequest, call: ClientCall) -> pb.ListAuditResponse:
        """Return the newest entries, the newest first."""
        require_all_sessions(call, GrantScope.AUDIT)
        chosen = AuditFilter(request.of_session, request.actor, request.action, _parse_outcome(request.outcome))
        since = 0.0
        if request.HasField("since_s"):
            since = await self._fleet.audit_trail.read_time() - require_seconds(request.since_s, "since_s")
        found = await self._fleet.audit_trail.read(
            chosen,
            since=since,
            limit=min(request.limit or _DEFAULT_LIMIT, _MAX_LIMIT),
            before=parse_position(request.before, "entry"),
        )
        return pb.ListAuditResponse(entries=map(_entry_message, found))


def _parse_outcome(text: str) -> AuditOutcome | None:
    try:
        return AuditOutcome(text) if text else None
    except ValueError:
        raise MalformedError("outcome", f"it is {', '.join(AuditOutcome)} or empty") from None


def _entry_message(entry: AuditEntry) -> pb.AuditEntry:
    return pb.AuditEntry(
        action=entry.action,
        target=entry.target,
        actor=entry.actor,
        source=entry.source,
        reason=entry.reason,
        before=entry.before,
        after=entry.after,
        outcome=entry.outcome,
        problem=entry.problem,
        names=entry.names,
        changes=entry.changes,
        approval=entry.approval,
        approvers=entry.approvers,
        at=timestamp_message(entry.at),
        position=entry.position,
    )
