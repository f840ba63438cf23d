"""``publish`` and ``variables``: a session's variables from a shell."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import Annotated

import typer

from snakepit_bridge.cli.arguments import parse_assignments, parse_pairs
from snakepit_bridge.cli.connection_options import AsJson, Bridge, RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import dump_json, echo, print_table, to_cell
from snakepit_bridge.cli.staged import describe_arms, describe_differences, record_fields
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.variables import Variable
from snakepit_bridge.variables.types import to_json

SessionName = Annotated[str, typer.Argument(metavar="SESSION", show_default=False)]


def publish(
    ctx: typer.Context,
    session: SessionName,
    values: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", show_default=False)],
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="NAME=TYPE", help="Type of a new variable; same as name:type=value."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Reason, for the session's history.", show_default=False)] = "",
    bridge: Bridge = None,
    redis_url: RedisUrl = None,
) -> None:
    """Publish variables as one revision and print its token.

    Values are parsed as JSON where possible, else used as text. Existing variables keep their type and constraints.
    """
    parse_pairs(values)  # reject malformed arguments before connecting to Redis

    def proposal(now: Mapping[str, Variable]) -> Mapping[str, Variable]:
        return {each.name: each.apply_to(now.get(each.name)) for each in parse_assignments(values, types or [], now)}

    context = resolve_fleet(ctx, redis_url).fleet(bridge=bridge).session(session, author=author())
    echo(str(run_blocking(context.change(proposal, reason=reason))))


def variables(ctx: typer.Context, session: SessionName, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """List a session's variables and its current token; of a staged one the candidate's and what differs."""
    snapshot = run_blocking(resolve_fleet(ctx, redis_url).store().read(session))
    found = [snapshot.variables[name] for name in sorted(snapshot.variables)]
    staged = record_fields(snapshot.rollout)
    before = describe_differences(snapshot) if staged else {}
    if json:
        shown = {v.name: {"type": v.type, "value": plain(v), "constraints": v.constraints.as_dict()} for v in found}
        arms = {"rollout": {**staged, "baseline_values": _plain_values(before)}} if staged else {}
        echo(dump_json({"session": session, "token": str(snapshot.token), "variables": shown, **arms}))
        return
    rows = [(v.name, v.type, plain(v), v.constraints.as_dict() or "") for v in found]
    print_table(("name", "type", "value", "constraints"), rows)
    echo(f"token: {snapshot.token}")
    if snapshot.rollout is not None and staged:
        echo(describe_arms(f"session {session}", snapshot.rollout))
        echo(f"above are the candidate's values; the baseline's: {_list_values(before)}")


def _plain_values(variables: Mapping[str, Variable | None]) -> dict[str, object]:
    return {name: None if variable is None else plain(variable) for name, variable in sorted(variables.items())}


def _list_values(variables: Mapping[str, Variable | None]) -> str:
    values = _plain_values(variables).items()
    return ", ".join(f"{name} {'missing' if value is None else to_cell(value)}" for name, value in values) or "the same"


def plain(variable: Variable) -> object:
    """Return a variable's value as JSON holds it."""
    return to_json(variable.type, variable.value)


def author() -> str:
    """Return who publishes, for the history."""
    try:
        return f"{getpass.getuser()} by dspex-fleet"
    except (OSError, KeyError):  # a container's user need not have a name
        return "dspex-fleet"
