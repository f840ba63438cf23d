"""``status``: the workers, what waits for them, and where each session stands, at a glance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.fleet_state import (
    Worker,
    count_held_by,
    count_parked,
    find_consumed_queues,
    find_recent_stalls,
    find_workers,
)
from snakepit_bridge.cli.output import dump_json, echo, print_table
from snakepit_bridge.cli.staged import describe_experiments, name_experiments, record_fields
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import code_queue

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet
    from snakepit_bridge.snapshots import Head
    from snakepit_bridge.snapshots.acknowledgements import ProcessAck

# Sessions that are named per profile.
_SHOWN = 5


def status(ctx: typer.Context, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """Show which workers answer, how deep the queue is, and where each session stands."""
    found = collect_status(resolve_fleet(ctx, redis_url).fleet())
    if json:
        echo(dump_json(found))
        return
    _show_workers(found["workers"], found["silent_workers"])
    waits = ", ".join(f"{count} at priority {name}" for name, count in found["queue"]["by_priority"].items() if count)
    echo(f"queue {found['queue']['name']}: {found['queue']['waiting']} wait{f' ({waits})' if waits else ''}, "
        f"{found['queue']['taken']} taken by workers")  # fmt: skip
    _show_code(found["code"])
    _show_stalls(found["stalls"])
    _show_parked(found["limits"])
    _show_sessions(found["sessions"])


def collect_status(fleet: Fleet) -> dict[str, Any]:
    """Return what the fleet looks like now, as JSON values.

    Raises:
        StoreUnavailableError: Redis is away.
    """
    # Redis comes first: where it is away that is said at once, and workers are asked for as long as they may take.
    found = run_blocking(_collect_from_redis(fleet))
    code = found["code"]
    code["consumed"] = not code["waiting"] or code["name"] in find_consumed_queues(fleet)
    answers = find_workers(fleet)
    if fleet.on_rabbitmq:  # which tells nobody how many
        found["queue"]["taken"] = count_held_by(fleet, answers.workers)
    return {"workers": [_worker(worker) for worker in answers.workers], "silent_workers": answers.silent, **found}


async def _collect_from_redis(fleet: Fleet) -> dict[str, Any]:
    from snakepit_bridge.client.backlog import read_fleet_backlog

    name, code_name = fleet.queue, code_queue(fleet.queue)
    backlog = await read_fleet_backlog(fleet, [name, code_name])
    heads = dict(sorted((await fleet.store.sessions()).items()))
    acks = await fleet.acks.read_all(heads)
    sessions = {session: _session(head, acks[session]) for session, head in heads.items()}
    limits = await count_parked(fleet.connection, fleet.namespace)
    waits = backlog.by_priority(name)
    queue = {"name": name, "waiting": sum(waits.values()), "by_priority": waits, "taken": backlog.held}
    code = {"name": code_name, "waiting": sum(backlog.by_priority(code_name).values())}
    stalls = [asdict(stall) for stall in await find_recent_stalls(fleet)]
    return {"queue": queue, "code": code, "limits": limits, "sessions": sessions, "stalls": stalls}


def _worker(worker: Worker) -> dict[str, Any]:
    shown = ("name", "pool", "concurrency", "predictions", "loop_p99_ms", "newer_release")
    return {name: getattr(worker, name) for name in shown}


def _session(head: Head, applied: list[ProcessAck]) -> dict[str, Any]:
    processes = [{"process": ack.process, "token": str(ack.token), "error": ack.error} for ack in applied]
    age = max(0.0, time.time() - head.confirmed_at)
    return {
        "token": str(head.token),
        "authority": head.authority,
        "confirmed_s_ago": round(age, 3),
        "applied": processes,
        "rollout": record_fields(head.rollout),
        "experiments": name_experiments(head.experiments),
    }


def _show_workers(workers: list[dict[str, Any]], silent: Sequence[str]) -> None:
    if workers:
        columns = ("name", "pool", "concurrency", "predictions", "loop_p99_ms")
        rows = [["-" if worker[column] is None else worker[column] for column in columns] for worker in workers]
        print_table(("worker", *columns[1:-1], "loop p99 ms"), rows, numbers=columns[2:])
    elif not silent:
        echo("workers: none answers; start one with: dspex-fleet worker")
    for worker in workers:
        if worker["newer_release"]:
            echo(f"worker {worker['name']}: isn't ready: {worker['newer_release']}; upgrade it")
    for name in silent:
        echo(f"worker {name}: reported lately, and doesn't answer at once; it is busy, starting or stopping")
    names = [worker["name"] for worker in workers]
    for name in sorted({name for name in names if names.count(name) > 1}):
        echo(f"worker {name}: several have this name, so that remote control takes them for one; name each by -n")


def _show_code(code: dict[str, Any]) -> None:
    """Show how many messages wait for a process of their own; usually there are none."""
    if code["waiting"]:
        nobody = "" if code["consumed"] else "; no worker consumes it; start one: dspex-fleet worker --pool prefork"
        echo(f"queue {code['name']}: {code['waiting']} waiting that execute code{nobody}")


def _show_stalls(stalls: list[dict[str, Any]]) -> None:
    """Show the workers that hang, or were ended because they did."""
    for stall in stalls:
        place = f" at {stall['place']}" if stall["place"] else ""
        whose = f", in prediction {stall['task_id']}" if stall["task_id"] else ""
        what = "was ended by its watchdog" if stall["ended_at"] else "is blocked"
        ago = time.time() - (stall["ended_at"] or stall["since"])
        echo(f"worker {stall['worker']}, process {stall['pid']}: its event loop {what}{whose}{place} ({ago:.0f} s)")


def _show_parked(limits: dict[str, dict[str, int]]) -> None:
    """Show the profiles whose limits, or whose sessions' limits, delay predictions, and which sessions wait most."""
    for profile, sessions in limits.items():
        most = sorted(sessions.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{count} of {name}" for name, count in most[:_SHOWN])
        more = f" and {len(most) - _SHOWN} sessions more" if len(most) > _SHOWN else ""
        echo(f"limits of {profile}: {sum(sessions.values())} wait ({shown}{more})")
    echo("")


def _show_sessions(sessions: dict[str, dict[str, Any]]) -> None:
    if not sessions:
        echo("sessions: none is published")
        return
    rows = [
        (name, session["token"], session["authority"], f"{session['confirmed_s_ago']:.0f} s ago", *_applied(session))
        for name, session in sessions.items()
    ]
    columns = ("session", "token", "authority", "confirmed", "applied by", "refused by")
    print_table(columns, rows, unbroken=("token",))
    for name, session in sessions.items():
        if arms := session["rollout"]:
            echo(f"session {name} is staged ({arms['state'].replace('_', ' ')}): {100 * arms['share']:g} % get the "
                f"candidate {arms['candidate']}, the others the baseline {arms['baseline']}")  # fmt: skip
        if names := session["experiments"]:
            echo(describe_experiments(name, names))


def _applied(session: dict[str, Any]) -> tuple[str, str]:
    """How many of the processes that hold a session are on its token, and what the others say."""
    processes = session["applied"]
    there = [process for process in processes if process["token"] == session["token"] and not process["error"]]
    refused = [f"{process['process']}: {process['error']}" for process in processes if process["error"]]
    return f"{len(there)} of {len(processes)} processes" if processes else "-", "; ".join(refused) or "-"
