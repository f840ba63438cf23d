"""The sessions, and one session: its values, who applies them, its labels and its history."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import SessionNotFoundError
from snakepit_bridge.protocol.messages import DEFAULT_SESSION
from workers.gateway.console.edits import describe_type
from workers.gateway.console.page import Page, Visit

_PAGE_SIZE = 50
_HISTORY, _MAX_HISTORY = 20, 1_000
_TEXT = "text/plain; charset=utf-8"


async def show_sessions(visit: Visit) -> Response:
    """Show the sessions that the visitor's grant covers, by name."""
    prefix, after = visit.query.get("prefix", ""), visit.query.get("after", "")
    request = pb.ListSessionsRequest(prefix=prefix, page_size=_PAGE_SIZE, page_token=after)
    found = await visit.call("Sessions.List", request)
    return visit.render("sessions.html.j2", found=found, prefix=prefix, is_first=not after)


async def show_session(visit: Visit) -> Response:
    """Show one session."""
    name = visit.query.get("name", "")
    limit = _parse_limit(visit.query.get("history", ""))
    by_name = pb.SessionRequest(session=name)
    try:
        session, snapshot, labels, history = await asyncio.gather(
            visit.call("Sessions.Get", by_name),
            visit.call("Variables.Get", pb.GetVariablesRequest(session=name)),
            visit.call("Sessions.ListLabels", by_name),
            visit.call("Variables.History", pb.HistoryRequest(session=name, limit=limit)),
        )
    except SessionNotFoundError:
        if name != DEFAULT_SESSION:
            raise
        return visit.render("session_unpublished.html.j2", name=name)  # it is there without a publish
    labels_by_token: dict[str, list[str]] = {}
    for label in labels.labels:
        labels_by_token.setdefault(label.token, []).append(label.name)
    return visit.render(
        "session.html.j2",
        session=session,
        snapshot=snapshot,
        labels=labels.labels,
        labels_by_token=labels_by_token,
        revisions=history.revisions,
        history=limit,
        more=min(4 * limit, _MAX_HISTORY) if len(history.revisions) >= limit < _MAX_HISTORY else None,
        type_of=describe_type,
    )


async def show_value(visit: Visit) -> Response:
    """Show the whole value of a variable, or of its constraints, as plain text."""
    name, variable = visit.query.get("name", ""), visit.query.get("variable", "")
    request = pb.GetVariablesRequest(session=name, names=[variable], exactly=visit.query.get("at") or None)
    snapshot = await visit.call("Variables.Get", request)
    (found,) = snapshot.variables
    text = found.constraints_json if visit.query.get("part") == "constraints" else found.value_json
    headers = {"content-security-policy": "sandbox"}
    return Response(text, 200, headers, _TEXT)


def _parse_limit(text: str) -> int:
    return min(max(1, int(text)), _MAX_HISTORY) if text.isascii() and text.isdigit() and len(text) < 6 else _HISTORY


PAGES = (
    Page("/sessions", show_sessions, "Sessions.List", menu="Sessions", section="/session"),
    Page("/session", show_session, "Variables.Get"),
    Page("/session/value", show_value, "Variables.Get"),
)
