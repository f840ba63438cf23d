"""The audit trail: who changed what, from where, and how that ended; newest first."""

from __future__ import annotations

from starlette.responses import Response

from snakepit_bridge.audit.entries import AuditOutcome
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.console.page import Page, Visit

_SHOWN = 100
_FILTERS = ("session", "actor", "action", "outcome")
OUTCOME_STATUS = {"done": "ok", "requested": "warn", "refused": "bad", "denied": "bad"}
"""The kinds of status by which outcomes are shown."""


async def show_audit(visit: Visit) -> Response:
    """Show the entries that match the filters, from a position on."""
    filters = {name: visit.query.get(name, "").strip() for name in _FILTERS}
    if filters["outcome"] not in list(AuditOutcome):
        filters["outcome"] = ""
    request = pb.ListAuditRequest(
        of_session=filters["session"],
        actor=filters["actor"],
        action=filters["action"],
        outcome=filters["outcome"],
        before=visit.query.get("before", ""),
        limit=_SHOWN,
    )
    entries = (await visit.call("Audit.List", request)).entries
    return visit.render(
        "audit.html.j2",
        entries=entries,
        filters=filters,
        given={name: value for name, value in filters.items() if value},
        outcomes=list(AuditOutcome),
        statuses=OUTCOME_STATUS,
        is_first="before" not in visit.query,
        next_before=entries[-1].position if len(entries) == _SHOWN else "",
    )


PAGES = (Page("/audit", show_audit, "Audit.List", menu="Audit", all_sessions=True),)
