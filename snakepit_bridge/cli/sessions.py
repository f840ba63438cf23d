"""``publish`` and ``variables``: a session's variables from a shell."""

from __future__ import annotations

import getpass
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from snakepit_bridge.cli.arguments import parse_assignments, parse_pairs
from snakepit_bridge.cli.connection_options import AsJson, Bridge, RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import dump_json, echo, echo_aside, print_table, to_cell
from snakepit_bridge.cli.staged import (
    describe_arms,
    describe_differences,
    describe_experiments,
    describe_publish,
    name_experiments,
    record_fields,
)
from snakepit_bridge.exceptions import SessionNotFoundError, suggest_name
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.rollouts.records import RESERVED_PREFIX
from snakepit_bridge.variables import Variable
from snakepit_bridge.variables.types import to_json

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet
    from snakepit_bridge.rollouts.records import RolloutRecord

SessionName = Annotated[str, typer.Argument(metavar="SESSION", help="Name of the session.", show_default=False)]


def publish(
    ctx: typer.Context,
    session: SessionName,
    values: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=VALUE...", help="Variables, as in temperature=0.3 or model:string=smart.", show_default=False
        ),
    ],
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

    known: Mapping[str, Variable] = {}

    def proposal(now: Mapping[str, Variable]) -> dict[str, Variable]:
        nonlocal known
        known = now
        return {each.name: each.apply_to(now.get(each.name)) for each in parse_assignments(values, types or [], now)}

    fleet = resolve_fleet(ctx, redis_url).fleet(bridge=bridge)
    context, staged = fleet.session(session, author=author()), read_rollout(fleet, session)
    echo(str(run_blocking(context.change(proposal, reason=reason))))
    warn_of_new_names(session, proposal(known), known)
    tell_staging(fleet, session, staged)


def read_rollout(fleet: Fleet, session: str) -> RolloutRecord | None:
    """Return the record of a session's rollout; None for none, also of a session that was never published."""
    try:
        return run_blocking(fleet.store.head(session)).rollout
    except SessionNotFoundError:
        return None


def tell_staging(fleet: Fleet, session: str, before: RolloutRecord | None) -> None:
    """Say on the standard error what a publish meant for a session's rollout, if it meant anything.

    Args:
        fleet: the fleet.
        session: that was published.
        before: the record of its rollout until then.
    """
    if line := describe_publish(f"session:{session}", before, run_blocking(fleet.store.read(session))):
        echo_aside(line)


def warn_of_new_names(session: str, published: Iterable[str], known: Collection[str], *, otherwise: str = "") -> None:
    """Say on the standard error which of the published variables are new, and which others they may be misspelt for.

    Args:
        session: that was published.
        published: the names, of which those of the fleet's own variables are left out.
        known: the names that it had before.
        otherwise: what to say of a name that is like no other; nothing is said of it if empty.
    """
    for name in published:
        is_new = name not in known and not name.startswith(RESERVED_PREFIX)
        if is_new and (hint := suggest_name(name, known) or otherwise):
            echo_aside(f"warning: session '{session}' had no variable '{name}' until now.{hint}")


def variables(ctx: typer.Context, session: SessionName, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """List a session's variables and its current token; of a staged one the candidate's and what differs."""
    snapshot = run_blocking(resolve_fleet(ctx, redis_url).store().read(session))
    found = [snapshot.variables[name] for name in sorted(snapshot.variables)]
    staged = record_fields(snapshot.rollout)
    before = describe_differences(snapshot) if staged else {}
    if json:
        shown = {v.name: {"type": v.type, "value": plain(v), "constraints": v.constraints.as_dict()} for v in found}
        arms = {"rollout": {**staged, "baseline_values": _plain_values(before)}} if staged else {}
        names = name_experiments(snapshot.experiments)
        tried = {"experiments": names} if names else {}
        echo(dump_json({"session": session, "token": str(snapshot.token), "variables": shown, **arms, **tried}))
        return
    rows = [(v.name, v.type, plain(v), v.constraints.as_dict() or "") for v in found]
    print_table(("name", "type", "value", "constraints"), rows)
    echo(f"token: {snapshot.token}")
    if snapshot.rollout is not None and staged:
        echo(describe_arms(f"session {session}", snapshot.rollout))
        echo(f"above are the candidate's values; the baseline's: {_list_values(before)}")
    if names := name_experiments(snapshot.experiments):
        echo(describe_experiments(session, names))


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
