"""The rollouts and experiments that ended lately, by the audit trail: nothing else lists them for all targets."""

from __future__ import annotations

from collections.abc import Callable, Collection

from snakepit_bridge.audit.entries import AuditOutcome
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.console.page import Visit

_ENTRIES_READ, _ENDED_SHOWN = 250, 20


async def read_ended(
    visit: Visit, actions: Collection[str], key_of: Callable[[pb.AuditEntry], tuple[str, ...]]
) -> dict[tuple[str, ...], pb.AuditEntry]:
    """Return the newest end of each rollout or experiment in the newest entries of the audit trail, the latest first.

    Args:
        visit: the visitor's, who sees none without a right to read the trail.
        actions: the actions that end one.
        key_of: returns what tells the rollout or experiment of an entry from others.
    """
    if not (visit.grant.covers_all and visit.can("Audit.List")):
        return {}
    # Without a filter, so that one page is read of a long trail.
    trail = await visit.call("Audit.List", pb.ListAuditRequest(limit=_ENTRIES_READ))
    ended = dict[tuple[str, ...], pb.AuditEntry]()
    for entry in trail.entries:
        if entry.action in actions and entry.outcome == AuditOutcome.DONE and len(ended) < _ENDED_SHOWN:
            ended.setdefault(key_of(entry), entry)
    return ended
