"""Changes of a session: publish its variables, roll it back, and set its labels."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from snakepit_bridge.elixir.errors import ElixirUnavailableError
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import (
    RevisionLostError,
    SessionNotFoundError,
    SessionOwnedElsewhereError,
    StaleTokenError,
    ValidationError,
    VariableNotFoundError,
)
from workers.gateway.console.edits import (
    TYPES,
    CheckedEdit,
    VariableEdit,
    check_edits,
    edits_of,
    read_edits,
    rebase_edits,
)
from workers.gateway.console.page import Page, Visit
from workers.gateway.errors import MalformedError

# Variables that a form shows; others are found by their names.
_MAX_SHOWN = 100
_NOTHING = "0.0"
_STORE = ("", "store")
_NO_BRIDGE = "This gateway has no bridge to it: publish in the application, or start the gateway with --bridge."
_UNKNOWN = "Whether it has the change is unknown; your values are kept below."


@dataclass(frozen=True, slots=True)
class _Conflict:
    """What somebody else has published meanwhile."""

    token: str
    changes: Sequence[Any]


async def show_publish(visit: Visit) -> Response:
    """Show the form that publishes variables of a session, or of a new one."""
    name, chosen = visit.query.get("name", ""), visit.query.get("variable", "")
    snapshot = await _read_snapshot(visit, name) if name else pb.Snapshot(token=_NOTHING)
    variables = [variable for variable in snapshot.variables if not chosen or variable.name == chosen]
    edits = edits_of(variables[:_MAX_SHOWN])
    return _render_publish(visit, name, snapshot, edits, hidden=len(snapshot.variables) - len(edits))


async def validate(visit: Visit) -> Response:
    """Show what a publish would change, and the problems that it would have, while the form is filled in."""
    name = visit.form_value("name").strip()
    shown = await _read_shown(visit, name)
    return visit.render("publish_preview.html.j2", checked=_check_form(visit, shown))


async def publish(visit: Visit) -> Response:
    """Publish what the form changes, on top of the revision that it showed."""
    name = visit.form_value("name").strip()
    shown = await _read_shown(visit, name)
    edits, checked = read_edits(visit.form, edits_of(shown.variables)), _check_form(visit, shown)
    if problem := _find_problem(name, checked):
        return _render_publish(visit, name, shown, edits, problem=problem, status=400)
    request = pb.PublishRequest(
        session=name,
        changes=[edit.change for edit in checked if edit.change is not None],
        expected=_expected(visit, shown),
        reason=visit.form_value("reason"),
        request_id=visit.form_value("request_id"),
    )
    try:
        await visit.call("Variables.Publish", request)
    except StaleTokenError:
        return await _show_conflict(visit, name, edits, checked)
    except (ValidationError, VariableNotFoundError) as exc:
        return _render_publish(visit, name, shown, edits, problem=str(exc), status=400)
    except SessionOwnedElsewhereError as exc:
        return _render_publish(visit, name, shown, edits, problem=f"{exc} {_NO_BRIDGE}", status=409)
    except ElixirUnavailableError as exc:
        return _render_publish(visit, name, shown, edits, problem=f"{exc} {_UNKNOWN}", status=503)
    return visit.redirect("/session", name=name, done="published")


async def show_rollback(visit: Visit) -> Response:
    """Show what a rollback would change."""
    name, to = visit.query.get("name", ""), visit.query.get("to", "")
    session, difference = await asyncio.gather(
        visit.call("Sessions.Get", pb.SessionRequest(session=name)),
        visit.call("Variables.Diff", pb.DiffRequest(session=name, before="latest", after=to)),
    )
    return visit.render("rollback.html.j2", name=name, to=to, session=session, changes=difference.changes)


async def roll_back(visit: Visit) -> Response:
    """Publish a past state as a new revision, once the session's name has been typed."""
    name, to = visit.form_value("name"), visit.form_value("to")
    _require_typed(visit, name)
    snapshot = await _read_snapshot(visit, name)
    request = pb.RollbackRequest(
        session=name,
        to=to,
        expected=_expected(visit, snapshot),
        reason=visit.form_value("reason"),
        request_id=visit.form_value("request_id"),
    )
    await visit.call("Variables.Rollback", request)
    return visit.redirect("/session", name=name, done="rolled-back")


async def show_label(visit: Visit) -> Response:
    """Show the form that labels a revision."""
    name, at = visit.query.get("name", ""), visit.query.get("at", "")
    found = await visit.call("Sessions.ListLabels", pb.SessionRequest(session=name))
    return visit.render("label.html.j2", name=name, at=at, labels=found.labels)


async def set_label(visit: Visit) -> Response:
    """Point a label at a revision."""
    name = visit.form_value("name")
    request = pb.SetLabelRequest(
        session=name, label=visit.form_value("label"), at=visit.form_value("at"), reason=visit.form_value("reason")
    )
    await visit.call("Sessions.SetLabel", request)
    return visit.redirect("/session", name=name, done="labelled")


async def remove_label(visit: Visit) -> Response:
    """Remove a label, once its name has been typed."""
    name, label = visit.form_value("name"), visit.form_value("label")
    _require_typed(visit, label)
    await visit.call("Sessions.RemoveLabel", pb.RemoveLabelRequest(session=name, label=label))
    return visit.redirect("/session", name=name, done="unlabelled")


async def _read_snapshot(visit: Visit, name: str) -> pb.Snapshot:
    """Return a session's newest snapshot; an empty one if it isn't there yet."""
    try:
        return await visit.call("Variables.Get", pb.GetVariablesRequest(session=name))
    except SessionNotFoundError:
        return pb.Snapshot(session=name, token=_NOTHING)


async def _read_shown(visit: Visit, name: str) -> pb.Snapshot:
    """Return the snapshot that a form was shown with, or the newest one if its revision isn't kept any more."""
    expected = visit.form_value("expected")
    if not name or expected == _NOTHING:
        return pb.Snapshot(session=name, token=_NOTHING)
    try:
        return await visit.call("Variables.Get", pb.GetVariablesRequest(session=name, exactly=expected))
    except (RevisionLostError, SessionNotFoundError):
        return await _read_snapshot(visit, name)


def _check_form(visit: Visit, snapshot: pb.Snapshot) -> list[CheckedEdit]:
    edits = read_edits(visit.form, edits_of(snapshot.variables))
    return check_edits(edits, {variable.name: variable for variable in snapshot.variables})


def _find_problem(name: str, checked: Sequence[CheckedEdit]) -> str:
    if not name:
        return "Give the session a name."
    if not checked:
        return "Nothing has been changed."
    return next((edit.problem for edit in checked if edit.problem), "")


def _expected(visit: Visit, snapshot: pb.Snapshot) -> str:
    """Return the revision that a form was shown with; nothing for Elixir's sessions, which compare no revisions."""
    return visit.form_value("expected") if snapshot.authority in _STORE else ""


async def _show_conflict(
    visit: Visit, name: str, edits: Sequence[VariableEdit], checked: Sequence[CheckedEdit]
) -> Response:
    """Show what was published meanwhile, and the form on top of it."""
    newest = await _read_snapshot(visit, name)
    before = visit.form_value("expected")
    if before == _NOTHING:
        changes = [pb.VariableChange(name=variable.name, after=variable) for variable in newest.variables]
    else:
        found = await visit.call("Variables.Diff", pb.DiffRequest(session=name, before=before))
        changes = list(found.changes)
    rebased = rebase_edits(edits, checked, edits_of(newest.variables))
    return _render_publish(visit, name, newest, rebased, conflict=_Conflict(newest.token, changes), status=409)


def _render_publish(
    visit: Visit,
    name: str,
    snapshot: pb.Snapshot,
    edits: Sequence[VariableEdit],
    *,
    hidden: int = 0,
    problem: str = "",
    conflict: _Conflict | None = None,
    status: int = 200,
) -> Response:
    form: Mapping[str, str] = {"reason": visit.form_value("reason")}
    known = [edit for edit in edits if not edit.is_new]
    return visit.render(
        "publish.html.j2",
        status=status,
        name=name,
        snapshot=snapshot,
        edits=known,
        added=next((edit for edit in edits if edit.is_new), VariableEdit(is_new=True)),
        types=TYPES,
        hidden=hidden,
        problem=problem,
        conflict=conflict,
        form=form,
        request_id=visit.new_id(),
        by_elixir=snapshot.authority not in _STORE,
    )


def _require_typed(visit: Visit, name: str) -> None:
    """Check that a name was typed to confirm what can't be undone by a click.

    Raises:
        MalformedError: it wasn't.
    """
    if visit.form_value("confirm").strip() != name:
        raise MalformedError("confirmation", f"type {name!r} to confirm")


PAGES = (
    Page("/session/publish", show_publish, "Variables.Publish"),
    Page("/session/publish", publish, "Variables.Publish", method="POST"),
    Page("/session/validate", validate, "Variables.Publish", method="POST"),
    Page("/session/rollback", show_rollback, "Variables.Rollback"),
    Page("/session/rollback", roll_back, "Variables.Rollback", method="POST"),
    Page("/session/label", show_label, "Sessions.SetLabel"),
    Page("/session/label", set_label, "Sessions.SetLabel", method="POST"),
    Page("/session/unlabel", remove_label, "Sessions.RemoveLabel", method="POST"),
)
