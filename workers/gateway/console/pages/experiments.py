"""The experiments: which run and which ended lately, and one of them with its arms side by side and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from starlette.responses import Response

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.variables.codec import parse
from workers.gateway.console.ended_releases import read_ended
from workers.gateway.console.interval_plot import plot_arms
from workers.gateway.console.page import Page, Visit
from workers.gateway.errors import MalformedError

ARM_ROWS = 6
"""Arms that the form has room for; the API takes more."""

_ENDS = {"experiment.decided": "decided", "experiment.stopped": "stopped"}
STATES = {
    pb.EXPERIMENT_STATE_RUNNING: ("warn", "Running"),
    pb.EXPERIMENT_STATE_DECIDED: ("ok", "Decided"),
    pb.EXPERIMENT_STATE_STOPPED: ("idle", "Stopped"),
}
"""How each state is shown: the kind of status, and its name."""


async def show_experiments(visit: Visit) -> Response:
    """Show what runs now, on one target or on all, and what has ended lately."""
    target = visit.query.get("target", "").strip()
    found, ended = await asyncio.gather(
        visit.call("Experiments.List", pb.ListExperimentsRequest(target=target)),
        read_ended(visit, _ENDS, lambda entry: (entry.target, *entry.names)),
    )
    running = {(each.target, each.name) for each in found.experiments}
    return visit.render(
        "experiments.html.j2",
        target=target,
        experiments=found.experiments,
        ended=[
            (entry, _ENDS[entry.action])
            for key, entry in ended.items()
            if entry.names and key not in running and not target
        ],
        arm_rows=ARM_ROWS,
    )


async def show_experiment(visit: Visit) -> Response:
    """Show one experiment."""
    return visit.render("experiment.html.j2", **await _read_report(visit))


async def show_progress(visit: Visit) -> Response:
    """Show how one experiment stands, as a fragment."""
    return visit.render("experiment_live.html.j2", **await _read_report(visit))


async def start_experiment(visit: Visit) -> Response:
    """Start an experiment."""
    request = pb.StartExperimentRequest(
        target=visit.form_value("target").strip(),
        name=visit.form_value("name").strip(),
        arms=_read_arms(visit),
        from_share=_parse_share(visit.form_value("from_share", "0"), "from"),
        to_share=_parse_share(visit.form_value("to_share", "1"), "to"),
        segment_json=visit.form_value("segment").strip().encode(),
        author=visit.author,
        reason=visit.form_value("reason"),
        request_id=visit.form_value("request_id"),
    )
    started = await visit.call("Experiments.Start", request)
    return visit.redirect("/experiment", target=started.target, name=started.name, done="experiment-started")


async def decide_experiment(visit: Visit) -> Response:
    """End an experiment, and give everybody one of its arms, once its name has been typed."""
    request = pb.DecideExperimentRequest(**_read_end(visit, "decide"), arm=visit.form_value("arm"))
    await visit.call("Experiments.Decide", request)
    return visit.redirect("/experiment", target=request.target, name=request.experiment, done="decided")


async def stop_experiment(visit: Visit) -> Response:
    """End an experiment without a decision, once its name has been typed."""
    request = pb.StopExperimentRequest(**_read_end(visit, "stop"))
    await visit.call("Experiments.Stop", request)
    return visit.redirect("/experiment", target=request.target, name=request.experiment, done="stopped")


async def _read_report(visit: Visit) -> dict[str, Any]:
    request = pb.ShowExperimentRequest(target=visit.query.get("target", ""), experiment=visit.query.get("name", ""))
    found = await visit.call("Experiments.Show", request)
    report: Any = parse(found.report_json)
    names = [arm.name for arm in found.experiment.arms]
    arms = [report["arms"][name] for name in names]
    return {
        "experiment": found.experiment,
        "is_running": found.experiment.state == pb.EXPERIMENT_STATE_RUNNING,
        "state": STATES[found.experiment.state],
        "arms": arms,
        "errors": sorted({kind for arm in arms for kind in arm["errors"]}),
        "scores": sorted({name for arm in arms for name in arm["scores"]}),
        "comparisons": [(each, plot_arms(each["figures"], each["unit"], names)) for each in report["comparisons"]],
        "events": report["events"],
    }


def _read_arms(visit: Visit) -> Iterator[pb.ExperimentArm]:
    """Yield the arms of the form, without the rows that are empty."""
    columns = [visit.form.get(f"arm_{column}", []) for column in ("name", "revision", "weight")]
    for name, revision, weight in zip(*columns, strict=False):
        if name.strip() or revision.strip() or weight.strip():
            share = _parse_share(weight, f"weight of {name.strip()[:64] or 'an arm'}")
            yield pb.ExperimentArm(name=name.strip(), revision=revision.strip(), weight=share)


def _read_end(visit: Visit, step: str) -> dict[str, str]:
    """Return the fields of a request that ends an experiment."""
    name = visit.form_value("name")
    if visit.form_value("confirm").strip() != name:
        raise MalformedError("confirmation", f"type {name} to {step} it")
    fields = {"target": visit.form_value("target"), "experiment": name, "author": visit.author}
    return {**fields, "reason": visit.form_value("reason"), "request_id": visit.form_value("request_id")}


def _parse_share(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise MalformedError(where, f"it is a number from 0 to 1; got {text[:40]!r}") from None


PAGES = (
    Page("/experiments", show_experiments, "Experiments.List", menu="Experiments", section="/experiment"),
    Page("/experiment", show_experiment, "Experiments.Show"),
    Page("/experiment/live", show_progress, "Experiments.Show", live=True),
    Page("/experiment/start", start_experiment, "Experiments.Start", method="POST"),
    Page("/experiment/decide", decide_experiment, "Experiments.Decide", method="POST"),
    Page("/experiment/stop", stop_experiment, "Experiments.Stop", method="POST"),
)
