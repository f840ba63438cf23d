"""``experiment``: start, list, show, decide and stop experiments on sessions and on programs' labels."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer

from snakepit_bridge.cli.connection_options import AsJson, Bridge, RedisUrl, resolve_fleet, translate_value_errors
from snakepit_bridge.cli.experiment_view import describe_part, draw_experiment
from snakepit_bridge.cli.output import Whole, console, dump_json, echo, print_table
from snakepit_bridge.cli.rollouts import Target
from snakepit_bridge.cli.sessions import author
from snakepit_bridge.cli.staged import format_share, name_arm
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.releases.running_experiments import RunningExperiment
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.rollouts.experiments import Experiment

experiment = typer.Typer(
    name="experiment",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Start, show or end experiments of revisions of a session or versions of a program.",
)

Name = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Name of the experiment.", show_default=False)]
EndReason = Annotated[str, typer.Option("--reason", help="Reason, for the experiment's history.", show_default=False)]


@experiment.command()
def start(
    ctx: typer.Context,
    target: Target,
    name: Name,
    arm: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=REVISION:WEIGHT",
            help="An arm: of a session its token, label or latest, of a program's label a version; weights sum to 1.",
            show_default=False,
        ),
    ],
    share: Annotated[
        str | None,
        typer.Option(
            metavar="0..1", help="Share of the requests; all from --from on if not given.", show_default=False
        ),
    ] = None,
    begin: Annotated[
        str, typer.Option("--from", metavar="0..1", help="Where its range of the target's requests begins.")
    ] = "0",
    segment: Annotated[
        str | None,
        typer.Option(metavar="JSON|@FILE", help="JSON schema for the attributes of requests.", show_default=False),
    ] = None,
    reason: Annotated[str, typer.Option(help="Reason, for the history.", show_default=False)] = "",
    redis_url: RedisUrl = None,
) -> None:
    """Divide requests between arms, until somebody decides."""
    parsed, first = TargetName.parse(target), _parse_number(begin, "--from")
    last = 1 if share is None else first + _parse_number(share, "--share")
    if last > 1:
        raise BridgeError(
            f"From {begin} a share of {share} ends at {last}, and requests end at 1. Give --share {1 - first} or less."
        )
    plan: dict[str, Any] = {
        "name": name,
        "from_share": float(first),
        "to_share": float(last),
        "arms": [_parse_arm(text) for text in arm],
        "segment": None if segment is None else _read_segment(segment),
    }
    with translate_value_errors():
        fleet = resolve_fleet(ctx, redis_url).fleet()
        started = fleet.experiments.start(str(parsed), plan, author=author(), reason=reason)
    arms = ", ".join(
        f"{each.name} ({format_share(each.weight)}) gets {name_arm(each.revision)}" for each in started.arms
    )
    echo(f"experiment {started.name} on {parsed}: {arms}")


@experiment.command("list")
def list_experiments(
    ctx: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]", help="A session, or a label such as qa@prod; all if none.", show_default=False
        ),
    ] = None,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """List the experiments that run, on one target or on all."""
    experiments = resolve_fleet(ctx, redis_url).fleet().experiments
    with translate_value_errors():
        if target is None:
            found = experiments.list_all()
        else:
            found = [RunningExperiment(str(TargetName.parse(target)), each) for each in experiments.list(target)]
    if json:
        echo(dump_json([{"target": each.target, **each.experiment.encode()} for each in found]))
    elif not found:
        echo("experiments: none; start one with: dspex-fleet experiment start")
    else:
        rows = [
            (each.target, each.experiment.name, describe_part(each.experiment), Whole(_name_arms(each.experiment)))
            for each in found
        ]
        print_table(("target", "name", "requests", "arms"), rows, unbroken=("target", "name"))


@experiment.command()
def show(ctx: typer.Context, target: Target, name: Name, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """Show the arms of an experiment side by side, also of one that has ended."""
    with translate_value_errors():
        report = resolve_fleet(ctx, redis_url).fleet().experiments.show(target, name)
    if json:
        echo(dump_json(report.as_dict()))
    else:
        console().print(draw_experiment(report, console().width))


@experiment.command()
def decide(
    ctx: typer.Context,
    target: Target,
    name: Name,
    arm: Annotated[str, typer.Argument(metavar="ARM", help="Arm whose revision everybody gets.", show_default=False)],
    reason: EndReason,
    bridge: Bridge = None,
    redis_url: RedisUrl = None,
) -> None:
    """End an experiment, and give everybody the revision of one of its arms."""
    fleet = resolve_fleet(ctx, redis_url).fleet(bridge=bridge)
    with translate_value_errors():
        ended = fleet.experiments.decide(target, name, arm, author=author(), reason=reason)
    revision = name_arm(ended.arm(arm).revision)
    gets = "the variables of " if TargetName.parse(target).kind == "session" else ""
    echo(
        f"experiment {ended.name} on {TargetName.parse(target)} was decided for {arm}: everybody gets {gets}{revision}"
    )


@experiment.command()
def stop(ctx: typer.Context, target: Target, name: Name, reason: EndReason, redis_url: RedisUrl = None) -> None:
    """End an experiment without a decision."""
    with translate_value_errors():
        ended = resolve_fleet(ctx, redis_url).fleet().experiments.stop(target, name, author=author(), reason=reason)
    echo(f"experiment {ended.name} on {TargetName.parse(target)} was stopped: everybody gets what they got before it")


def _name_arms(each: Experiment) -> str:
    return "\n".join(f"{arm.name} {format_share(arm.weight)} → {name_arm(arm.revision)}" for arm in each.arms)


def _parse_arm(text: str) -> dict[str, Any]:
    name, equals, rest = text.partition("=")
    revision, colon, weight = rest.rpartition(":")
    if not (equals and colon):
        raise BridgeError(f"An arm must be NAME=REVISION:WEIGHT, such as warm=latest:0.5; got {text!r}.")
    return {"name": name, "revision": revision, "weight": float(_parse_number(weight, f"the weight of arm {name!r}"))}


def _parse_number(text: str, what: str) -> Decimal:
    """Return a number as it is written, so that 0.1 and 0.2 are 0.3."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise BridgeError(f"{what[0].upper()}{what[1:]} must be a number from 0 to 1; got {text!r}.")
    return number


def _read_segment(text: str) -> Any:
    from snakepit_bridge.variables.codec import parse

    try:
        return parse(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
    except (OSError, ValueError) as exc:
        raise BridgeError(f"The segment can't be read: {exc}. Give a JSON schema, or @FILE with one.") from None
