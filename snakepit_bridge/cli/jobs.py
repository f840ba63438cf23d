"""``jobs``: list, show, watch and cancel the evaluations and optimizations that run on workers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import dump_json, echo, echo_aside, print_table
from snakepit_bridge.cli.sessions import author
from snakepit_bridge.evaluations.jobs import Job

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet
    from snakepit_bridge.evaluations.optimizations import OptimizationRecord

jobs = typer.Typer(
    name="jobs",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="List, show, watch or cancel evaluations and optimizations that run on workers.",
)

JobId = Annotated[str, typer.Argument(metavar="ID", help="The id that --detach has printed.", show_default=False)]


@jobs.command("list")
def list_jobs(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest.")] = 20,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """List the newest jobs."""
    found = resolve_fleet(ctx, redis_url).fleet().jobs.list(limit=limit)
    if json:
        echo(dump_json([job.as_dict() for job in found]))
    elif found:
        columns = ("id", "job", "program", "state", "progress", "started by", "at")
        print_table(
            columns,
            [
                (job.id, job.kind, job.program, job.state, _describe(job), job.author, _time(job.created_at))
                for job in found
            ],
        )
    else:
        echo("jobs: none; start one with: dspex-fleet evaluate … --detach, or optimize … --detach")


@jobs.command()
def show(
    ctx: typer.Context,
    job: JobId,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a report with plots, of an optimization.", show_default=False),
    ] = None,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Show how a job stands, or how it ended."""
    fleet = resolve_fleet(ctx, redis_url).fleet()
    found = fleet.jobs.get(job)
    if html is not None:
        _write_report(html, found)
    if json:
        echo(dump_json(found.as_dict()))
    else:
        show_job(fleet, found)


@jobs.command()
def watch(ctx: typer.Context, job: JobId, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """Follow a job until it has ended, and show it; the exit code is 1 unless it succeeded."""
    import asyncio

    fleet = resolve_fleet(ctx, redis_url).fleet()

    async def follow() -> Job:
        found, line = await fleet.jobs.aio.get(job), ""
        async for found in fleet.jobs.aio.watch(job):
            if (described := f"{found.state} {_describe(found)}".strip()) != line:
                line = described
                echo_aside(line)
        return found

    ended = asyncio.run(follow())
    if json:
        echo(dump_json(ended.as_dict()))
    else:
        show_job(fleet, ended)
    if ended.state != "succeeded":
        raise typer.Exit(1)


@jobs.command()
def cancel(ctx: typer.Context, job: JobId, redis_url: RedisUrl = None) -> None:
    """Cancel a job, unless it has ended; predictions that it has sent are finished."""
    found = resolve_fleet(ctx, redis_url).fleet().jobs.cancel(job, author=author())
    echo(f"{found.id}: {found.state}")


def show_job(fleet: Fleet, job: Job) -> None:
    """Print a job, with the evaluations or the trials that it has so far."""
    from snakepit_bridge.cli.evaluation_view import show_records
    from snakepit_bridge.cli.optimization_view import show_optimization

    echo(f"{job.id}: {job.kind} of {job.program} under {job.session}, {job.state} {_describe(job)}".rstrip())
    if job.end is not None and job.end.error:
        echo(f"{job.end.error}: {job.end.problem}")
    if job.kind == "optimization":
        if (record := read_optimization(job)) is not None:
            show_optimization(record)
    elif job.end is not None and job.end.result:
        arms = job.end.result["arms"]
        show_records([fleet.evaluations.get(arm["id"]) for arm in arms.values()], names=list(arms))


def read_optimization(job: Job) -> OptimizationRecord | None:
    """Return the record of an optimization, as it stands; None before its first prediction."""
    from snakepit_bridge.evaluations.optimizations import OptimizationRecord

    found = job.progress if job.end is None else (job.end.result or job.progress)
    return OptimizationRecord.decode(found) if found else None


def _write_report(path: Path, job: Job) -> None:
    from snakepit_bridge.cli.evaluate import write_text
    from snakepit_bridge.evaluations.optimization_report import render_optimization
    from snakepit_bridge.exceptions import BridgeError

    record = read_optimization(job) if job.kind == "optimization" else None
    if record is None:
        raise BridgeError(f"Job {job.id} has no trials to report. Evaluations: dspex-fleet evaluations show ID --html.")
    write_text(path, render_optimization(record))


def _describe(job: Job) -> str:
    """Return a job's progress in a few words."""
    from snakepit_bridge.cli.optimization_view import describe_progress

    if job.kind == "optimization":
        record = read_optimization(job)
        return "" if record is None else describe_progress(record)
    if not job.progress:
        return ""
    mean = job.progress["mean"]
    score = "" if mean is None else f", mean {mean:.3g}"
    return f"{job.progress['ended']} of {job.progress['total']} examples{score}"


def _time(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M} UTC"
