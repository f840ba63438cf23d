"""The rollouts: what is staged, and one of them with both arms side by side, its guards, its events and its steps."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import RevisionLostError
from snakepit_bridge.variables.codec import parse
from workers.gateway.console.ended_releases import read_ended
from workers.gateway.console.interval_chart import chart_guard
from workers.gateway.console.interval_plot import plot_guard
from workers.gateway.console.page import Page, Visit
from workers.gateway.errors import MalformedError

# As many as a chart is wide enough for.
_LOOKS = 120
_ENDS = {"rollout.promoted": "promoted", "rollout.rolled_back": "rolled_back", "rollout.superseded": "superseded"}
_STEPS = {"advance": "Advance", "pause": "Pause", "resume": "Resume", "abort": "Abort"}
_CONFIRMED = ("advance", "abort")
_OPEN = ("new", "running", "paused")
_STATES = {"running": "warn", "new": "warn", "paused": "idle", "promoted": "ok", "rolled_back": "bad"}


async def show_rollouts(visit: Visit) -> Response:
    """Show what is staged now, and what has ended lately."""
    found, ended = await asyncio.gather(
        visit.call("Rollouts.List", pb.ListRolloutsRequest()), read_ended(visit, _ENDS, lambda entry: (entry.target,))
    )
    # One that has ended may stay in the list; it is shown there where the trail doesn't tell of it.
    staged = [each for each in found.rollouts if name_state(each) in _OPEN or (each.target,) not in ended]
    shown = {rollout.target for rollout in staged}
    return visit.render(
        "rollouts.html.j2",
        rollouts=staged,
        ended=[(entry, _ENDS[entry.action]) for (target,), entry in ended.items() if target not in shown],
        state_of=name_state,
        states=_STATES,
    )


async def show_rollout(visit: Visit) -> Response:
    """Show one rollout."""
    values = await _read_report(visit)
    return visit.render("rollout.html.j2", changes=await _read_changes(visit, values["rollout"]), **values)


async def show_progress(visit: Visit) -> Response:
    """Show how one rollout stands, as a fragment."""
    return visit.render("rollout_live.html.j2", **await _read_report(visit))


async def start_rollout(visit: Visit) -> Response:
    """Start a rollout."""
    target = visit.form_value("target").strip()
    request = pb.StartRolloutRequest(
        target=target,
        policy_json=visit.form_value("policy").strip().encode(),
        reason=visit.form_value("reason"),
        author=visit.author,
    )
    if version := visit.form_value("version").strip():
        request.version = _parse_version(version)
    elif values := visit.form_value("values").strip():
        request.values_json = values.encode()
    started = await visit.call("Rollouts.Start", request)
    return visit.redirect("/rollout", target=started.target, done="started")


async def step_rollout(visit: Visit) -> Response:
    """Advance, pause, resume or abort a rollout; what changes who gets what needs the target typed."""
    target, step = visit.form_value("target"), visit.form_value("step")
    if step not in _STEPS:
        raise MalformedError("step", f"it is one of {', '.join(_STEPS)}")
    if step in _CONFIRMED and visit.form_value("confirm").strip() != target:
        raise MalformedError("confirmation", f"type {target} to {step} it")
    request = pb.StepRolloutRequest(target=target, reason=visit.form_value("reason"), author=visit.author)
    await visit.call(f"Rollouts.{_STEPS[step]}", request)
    return visit.redirect("/rollout", target=target, done="stepped")


async def _read_report(visit: Visit) -> dict[str, Any]:
    found = await visit.call("Rollouts.Show", pb.ShowRolloutRequest(target=visit.query.get("target", ""), looks=_LOOKS))
    report: Any = parse(found.report_json)
    stages = (report["policy"] or {}).get("stages", [])
    stage = found.rollout.stage
    return {
        "rollout": found.rollout,
        "report": report,
        "state": report["rollout"]["state"],
        "states": _STATES,
        "stages": stages,
        "stage": stages[min(stage, len(stages)) - 1] if stages and stage else None,
        "errors": sorted({kind for arm in report["arms"].values() for kind in arm["errors"]}),
        "scores": sorted({name for arm in report["arms"].values() for name in arm["scores"]}),
        "guards": [
            (guard, plot_guard(guard), chart_guard(guard["guard"], report["looks"])) for guard in report["guards"]
        ],
        "steps": _STEPS,
        "confirmed": _CONFIRMED,
    }


async def _read_changes(visit: Visit, rollout: pb.Rollout) -> list[pb.VariableChange]:
    """Return what a session's candidate changes, as long as both revisions can be read."""
    kind, _, session = rollout.target.partition(":")
    if kind != "session" or not visit.can("Variables.Diff"):
        return []
    request = pb.DiffRequest(session=session, before=rollout.baseline, after=rollout.candidate)
    try:
        return list((await visit.call("Variables.Diff", request)).changes)
    except RevisionLostError:
        return []


def name_state(rollout: pb.Rollout) -> str:
    """Return the state of a rollout, as the report has it."""
    return pb.RolloutState.Name(rollout.state).removeprefix("ROLLOUT_STATE_").lower()


def _parse_version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise MalformedError("version", f"it is the number of a version; got {text[:40]!r}")
    return int(text)


PAGES = (
    Page("/rollouts", show_rollouts, "Rollouts.List", menu="Rollouts", section="/rollout"),
    Page("/rollout", show_rollout, "Rollouts.Show"),
    Page("/rollout/live", show_progress, "Rollouts.Show", live=True),
    Page("/rollout/start", start_rollout, "Rollouts.Start", method="POST"),
    Page("/rollout/step", step_rollout, "Rollouts.Advance", method="POST"),
)
