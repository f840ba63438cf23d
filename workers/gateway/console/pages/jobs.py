"""Jobs: evaluations and optimizations that run on workers; an optimization with the trajectory of what it tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.variables.codec import parse
from workers.gateway.console.page import Page, Visit
from workers.gateway.console.trajectory_plot import plot_trajectory
from workers.gateway.errors import MalformedError

_STATES = {
    pb.JOB_STATE_QUEUED: ("idle", "Queued"),
    pb.JOB_STATE_RUNNING: ("warn", "Running"),
    pb.JOB_STATE_SUCCEEDED: ("ok", "Succeeded"),
    pb.JOB_STATE_FAILED: ("bad", "Failed"),
    pb.JOB_STATE_CANCELLED: ("idle", "Cancelled"),
}


async def show_job(visit: Visit) -> Response:
    """Show a job."""
    return visit.render("job.html.j2", **await _read_job(visit))


async def show_progress(visit: Visit) -> Response:
    """Show how a job stands, as a fragment."""
    return visit.render("job_live.html.j2", **await _read_job(visit))


async def cancel_job(visit: Visit) -> Response:
    """Cancel a job, once the program's name has been typed."""
    job = await visit.call("Jobs.Get", pb.JobRequest(id=visit.form_value("id")))
    if visit.form_value("confirm").strip() != job.program:
        raise MalformedError("confirmation", f"type {job.program} to cancel the job")
    await visit.call("Jobs.Cancel", pb.JobRequest(id=job.id))
    return visit.redirect("/evaluations/job", id=job.id, done="stepped")


async def _read_job(visit: Visit) -> dict[str, Any]:
    job = await visit.call("Jobs.Get", pb.JobRequest(id=visit.query.get("id", "")))
    progress: Any = parse(job.progress_json or b"{}")
    result: Any = parse(job.result_json or b"{}")
    record: Mapping[str, Any] | None = (result or progress or None) if job.kind == pb.JOB_KIND_OPTIMIZATION else None
    return {
        "job": job,
        "state": _STATES.get(job.state, ("idle", "Unknown")),
        "is_open": job.state in (pb.JOB_STATE_QUEUED, pb.JOB_STATE_RUNNING),
        "arguments": parse(job.arguments_json or b"{}"),
        "progress": progress,
        "result": result,
        "record": record,
        "plot": plot_trajectory(record["trials"]) if record and record["trials"] else None,
    }


PAGES = (
    Page("/evaluations/job", show_job, "Jobs.Get", all_sessions=True),
    Page("/evaluations/job/live", show_progress, "Jobs.Get", all_sessions=True, live=True),
    Page("/evaluations/job/cancel", cancel_job, "Jobs.Cancel", method="POST", all_sessions=True),
)
