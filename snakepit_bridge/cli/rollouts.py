"""``rollout``: start, list, show, watch and steer rollouts of sessions and of programs' labels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snakepit_bridge.cli.arguments import parse_assignments
from snakepit_bridge.cli.connection_options import (
    AsJson,
    Bridge,
    FleetAddress,
    RedisUrl,
    resolve_fleet,
    translate_value_errors,
)
from snakepit_bridge.cli.gates import (
    GatedProgram,
    GateMetrics,
    GateSession,
    Require,
    check_gates,
    name_metrics,
    need_program,
    require_gates,
)
from snakepit_bridge.cli.output import Whole, console, dump_json, echo, print_table
from snakepit_bridge.cli.rollout_view import describe_event, draw_report
from snakepit_bridge.cli.sessions import author, warn_of_new_names
from snakepit_bridge.cli.staged import describe_arms, describe_policy, format_share, name_arm
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.protocol.messages import DEFAULT_SESSION
from snakepit_bridge.releases.report import event_dict
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.rollouts.looks import MAX_LOOKS
from snakepit_bridge.rollouts.policy import RolloutPolicy, parse_policy
from snakepit_bridge.rollouts.records import POLICY_VARIABLE
from snakepit_bridge.rollouts.units import format_duration

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet
    from snakepit_bridge.client.rollouts import StagedTarget
    from snakepit_bridge.variables import Variable

rollout = typer.Typer(
    name="rollout",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Start, show, watch or steer rollouts of a session's revisions or a program's versions.",
)

Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="A session, or a label such as qa@prod.", show_default=False)
]
StepReason = Annotated[str, typer.Option("--reason", help="Reason, for the rollout's history.", show_default=False)]


@rollout.command()
def start(
    ctx: typer.Context,
    target: Target,
    candidate: Annotated[
        list[str],
        typer.Argument(
            metavar="CANDIDATE...",
            help="Of a session NAME=VALUE for each variable that changes; of a label the version.",
            show_default=False,
        ),
    ],
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON with stages and guards; the session's present policy if not given, or else the default one.",
            show_default=False,
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="Reason, for the history.", show_default=False)] = "",
    program: GatedProgram = None,
    require: Require = None,
    metric: GateMetrics = None,
    session: GateSession = DEFAULT_SESSION,
    bridge: Bridge = None,
    redis_url: RedisUrl = None,
) -> None:
    """Publish a candidate, and have it tried by stages.

    With --require the candidate is evaluated before its first stage, against the baseline; if a requirement isn't met,
    nothing is published, and the exit code is 1.
    """
    name, parsed = TargetName.parse(target), None if policy is None else _read_policy(policy)
    fleet = resolve_fleet(ctx, redis_url).fleet(bridge=bridge)
    known = _read_variables(fleet, name) if name.kind == "session" else {}
    with translate_value_errors():
        tried = _parse_variables(candidate, known) if name.kind == "session" else _parse_version(candidate)
        if require:
            _check_candidate(fleet, name, tried, require, metric or [], program, session)
        record = fleet.rollouts.start(str(name), tried, policy=parsed, author=author(), reason=reason)
    baseline, new = name_arm(record.baseline), name_arm(record.candidate)
    echo(f"rollout {record.id} of {name}: the baseline is {baseline}, the candidate {new}")
    echo(_name_policy(parsed, known.get(POLICY_VARIABLE)))
    if not isinstance(tried, int):
        # A misspelt one is read by no program, so that its rollout tries nothing.
        warn_of_new_names(name.name, tried, known, otherwise=" Only programs that bind it use it.")


@rollout.command("list")
def list_rollouts(ctx: typer.Context, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """List what is staged now."""
    found = resolve_fleet(ctx, redis_url).fleet().rollouts.list()
    if json:
        echo(
            dump_json(
                [{"target": staged.target, **staged.record.as_dict(), "stages": staged.stages} for staged in found]
            )
        )
        return
    if not found:
        echo("rollouts: none; start one with: dspex-fleet rollout start")
        return
    rows = [_row(staged) for staged in found]
    columns = ("target", "state", "stage", "share", "for", "baseline → candidate")
    print_table(columns, rows, numbers=("stage", "share"), unbroken=columns)


@rollout.command()
def show(ctx: typer.Context, target: Target, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """Show both arms side by side, what each guard says of them, and what the stage waits for."""
    report = resolve_fleet(ctx, redis_url).fleet().rollouts.show(target, looks=0 if json else MAX_LOOKS)
    if json:
        echo(dump_json(report.as_dict()))
    else:
        console().print(draw_report(report, console().width))


@rollout.command()
def watch(
    ctx: typer.Context,
    target: Target,
    count: Annotated[int, typer.Option(min=0, help="Stop after this many; 0 runs until Ctrl-C.")] = 0,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Print what has happened to a target's rollouts and then each new event, until Ctrl-C."""
    # Ctrl-C is how a watch ends, and nothing to complain about.
    with suppress(KeyboardInterrupt):
        asyncio.run(_watch(resolve_fleet(ctx, redis_url), target, count, as_json=json))


@rollout.command()
def advance(ctx: typer.Context, target: Target, reason: StepReason, redis_url: RedisUrl = None) -> None:
    """Begin the next stage at once; after the last one, give the candidate to everybody."""
    with translate_value_errors():
        record = resolve_fleet(ctx, redis_url).fleet().rollouts.advance(target, author=author(), reason=reason)
    echo(describe_arms(str(TargetName.parse(target)), record))


@rollout.command()
def pause(ctx: typer.Context, target: Target, reason: StepReason, redis_url: RedisUrl = None) -> None:
    """Keep a rollout in its stage; guards hold meanwhile."""
    with translate_value_errors():
        record = resolve_fleet(ctx, redis_url).fleet().rollouts.pause(target, author=author(), reason=reason)
    echo(describe_arms(str(TargetName.parse(target)), record))


@rollout.command()
def resume(ctx: typer.Context, target: Target, reason: StepReason, redis_url: RedisUrl = None) -> None:
    """Let a paused rollout go on in its stage."""
    with translate_value_errors():
        record = resolve_fleet(ctx, redis_url).fleet().rollouts.resume(target, author=author(), reason=reason)
    echo(describe_arms(str(TargetName.parse(target)), record))


@rollout.command()
def abort(ctx: typer.Context, target: Target, reason: StepReason, redis_url: RedisUrl = None) -> None:
    """Roll back: everybody stays with the baseline."""
    with translate_value_errors():
        record = resolve_fleet(ctx, redis_url).fleet().rollouts.abort(target, author=author(), reason=reason)
    echo(describe_arms(str(TargetName.parse(target)), record))


def _check_candidate(
    fleet: Fleet,
    target: TargetName,
    candidate: Mapping[str, Variable] | int,
    gates: list[str],
    metrics: list[str],
    program: str | None,
    session: str,
) -> None:
    """Check the gates before a rollout's first stage, and end the command if one isn't passed."""
    named = name_metrics(metrics)
    if isinstance(candidate, int):
        tried, baseline = f"{target.name}:{candidate}", f"{target.name}@{target.label}"
        outcomes = check_gates(fleet, gates, target.name, named, session=session, candidate=tried, baseline=baseline)
    else:
        evaluated = need_program(gates, program)
        outcomes = check_gates(
            fleet, gates, evaluated, named, session=target.name, candidate="", values=candidate, baseline="latest"
        )
    require_gates(outcomes, "no rollout was started")


def _read_policy(path: Path) -> RolloutPolicy:
    try:
        return parse_policy(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise BridgeError(f"The policy's file {path} can't be read: {exc}. Name a file with JSON.") from None


def _read_variables(fleet: Fleet, target: TargetName) -> dict[str, Variable]:
    return {variable.name: variable for variable in fleet.session(target.name).blocking.list_variables()}


def _parse_variables(arguments: list[str], known: Mapping[str, Variable]) -> dict[str, Variable]:
    """Return the variables that change; those that exist keep their type and constraints."""
    return {each.name: each.apply_to(known.get(each.name)) for each in parse_assignments(arguments, (), known)}


def _name_policy(chosen: RolloutPolicy | None, kept: Variable | None) -> str:
    """Return which policy applies: the one that was given, or else the session's own, or else the default."""
    if chosen is not None:
        return f"policy: {describe_policy(chosen)}"
    which = "default policy" if kept is None else "the session's policy"
    return f"{which}: {describe_policy(parse_policy({} if kept is None else str(kept.value)))}"


def _parse_version(arguments: list[str]) -> int:
    if len(arguments) != 1 or not arguments[0].isdecimal():
        raise BridgeError(f"The candidate of a label is the number of a version; got {' '.join(arguments)!r}.")
    return int(arguments[0])


async def _watch(chosen: FleetAddress, target: str, count: int, *, as_json: bool) -> None:
    fleet, seen = chosen.fleet(), 0
    async for event in fleet.rollouts.aio.watch(target):
        echo(dump_json(event_dict(event)) if as_json else describe_event(event))
        seen += 1
        if seen == count:
            return


def _row(staged: StagedTarget) -> tuple[object, ...]:
    """Return a target, and its rollout's state, stage, share, for how long it has that, and both arms."""
    record = staged.record
    stage = f"{record.stage} of {staged.stages}" if staged.stages else str(record.stage)
    age = format_duration(max(0.0, time.time() - record.since_us / 1e6)) if record.since_us else "-"
    arms = Whole(f"{name_arm(record.baseline)}\n→ {name_arm(record.candidate)}")
    return staged.target, record.state.value.replace("_", " "), stage, format_share(record.share), age, arms
