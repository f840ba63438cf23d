"""``history``, ``diff``, ``rollback``, ``watch``, ``mark`` and ``promote``: a session's revisions from a shell."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    Require,
    check_gates,
    name_metrics,
    need_program,
    require_gates,
)
from snakepit_bridge.cli.output import Whole, dump_json, echo, print_table, to_one_line
from snakepit_bridge.cli.sessions import SessionName, author, plain, read_rollout, tell_staging
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RESERVED_PREFIX
from snakepit_bridge.variables import Variable

if TYPE_CHECKING:
    from snakepit_bridge.snapshots import Change

# Variables of one revision that the history's table lists, and characters of a value there.
_CHANGES_SHOWN, _VALUE_SHOWN = 10, 40


def _check_revision(text: str) -> str:
    """Return a revision's name as it was given, if it can be one: what begins with a digit has to be a token."""
    if text[:1].isdigit():
        try:
            Token.parse(text)
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from None
    return text


Revision = Annotated[
    str, typer.Argument(metavar="REVISION", help="A token, a label or 'latest'.", callback=_check_revision)
]
Reason = Annotated[str, typer.Option(help="Reason, for the session's history.", show_default=False)]


def history(
    ctx: typer.Context,
    session: SessionName,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest.")] = 20,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """List a session's newest revisions: time, author, reason, and changes."""
    store = resolve_fleet(ctx, redis_url).store()
    changes = run_blocking(store.history(session, limit))
    labels = run_blocking(store.labels(session))
    named = {
        change.token: sorted(name for name, revision in labels.items() if revision.token == change.token)
        for change in changes
    }
    if json:
        echo(dump_json([{**_to_dict(change), "labels": named[change.token]} for change in changes]))
        return
    rows = [(", ".join(named[change.token]), *_row(change)) for change in changes]
    print_table(("labels", "token", "at", "author", "reason", "changed"), rows, unbroken=("token",))


def diff(
    ctx: typer.Context,
    session: SessionName,
    first: Revision,
    second: Revision = "latest",
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Show the variables that differ between two revisions of a session."""
    found = run_blocking(resolve_fleet(ctx, redis_url).store().diff(session, first, second))
    sides = {name: [_plain_value(left), _plain_value(right)] for name, (left, right) in sorted(found.items())}
    if json:
        echo(dump_json(sides))
    elif sides:
        print_table(("name", first, second), [(name, *both) for name, both in sides.items()])
    else:
        echo(f"diff: {first} and {second} hold the same variables")


def rollback(
    ctx: typer.Context,
    session: SessionName,
    to: Revision,
    reason: Reason = "",
    bridge: Bridge = None,
    redis_url: RedisUrl = None,
) -> None:
    """Publish an earlier revision's variables once more, and print the new token."""
    fleet = resolve_fleet(ctx, redis_url).fleet(bridge=bridge)
    context, staged = fleet.session(session, author=author()), read_rollout(fleet, session)
    echo(str(run_blocking(context.rollback(to, reason=reason or f"rollback to {to}"))))
    tell_staging(fleet, session, staged)


def watch(
    ctx: typer.Context,
    session: SessionName,
    count: Annotated[int, typer.Option(min=0, help="Stop after this many; 0 runs until Ctrl-C.")] = 0,
    redis_url: RedisUrl = None,
) -> None:
    """Print the session's newest token and then each change, one line of JSON each, until Ctrl-C."""
    # Ctrl-C is how a watch ends, and nothing to complain about.
    with suppress(KeyboardInterrupt):
        asyncio.run(_watch(resolve_fleet(ctx, redis_url), session, count))


def mark(
    ctx: typer.Context,
    session: SessionName,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="Such as stable or canary.", show_default=False)],
    at: Revision = "latest",
    remove: Annotated[bool, typer.Option("--remove", help="Remove the label instead.")] = False,
    reason: Reason = "",
    redis_url: RedisUrl = None,
) -> None:
    """Point a label at a revision of a session."""
    store = resolve_fleet(ctx, redis_url).store()
    if remove:
        run_blocking(store.unlabel(session, label, author=author(), reason=reason))
        echo(f"{session} has no label {label} now")
        return
    with translate_value_errors():
        token = run_blocking(store.label(session, label, at, author=author(), reason=reason))
    echo(f"{label} of {session} is {token}")


def promote(
    ctx: typer.Context,
    session: SessionName,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="Such as stable or canary.", show_default=False)],
    at: Revision = "latest",
    wait: Annotated[float, typer.Option(min=0.0, metavar="SECONDS", help="How long to wait for the workers.")] = 30.0,
    program: GatedProgram = None,
    require: Require = None,
    metric: GateMetrics = None,
    redis_url: RedisUrl = None,
) -> None:
    """Point a label at a revision once every worker process that holds the session applies it.

    With --require the revision is evaluated first, against the one that the label points at; if a requirement isn't
    met, the label stays, and the exit code is 1.
    """
    fleet = resolve_fleet(ctx, redis_url).fleet()
    with translate_value_errors():
        if require:
            evaluated, metrics = need_program(require, program), name_metrics(metric or [])
            baseline = label if label in run_blocking(fleet.store.labels(session)) else None
            outcomes = check_gates(fleet, require, evaluated, metrics, session=session, candidate=at, baseline=baseline)
            require_gates(outcomes, f"{label} of {session} stays")
        token = fleet.promote(session, label, at, wait_s=wait, author=author())
    echo(f"{label} of {session} is {token}")


async def _watch(chosen: FleetAddress, session: str, count: int) -> None:
    store = chosen.store()
    before: Mapping[str, Variable] = {}
    seen = 0
    try:
        async for token in store.watch(session):
            snapshot = await store.read(session)
            names = [*before, *(name for name in snapshot.variables if name not in before)]
            both = {name: (before.get(name), snapshot.variables.get(name)) for name in names}
            changed = {name: [_plain_value(a), _plain_value(b)] for name, (a, b) in both.items() if a != b}
            before, seen = snapshot.variables, seen + 1
            echo(dump_json({"token": str(max(token, snapshot.token)), "changed": changed}))
            if seen == count:
                return
    finally:
        await store.aclose()


def _to_dict(change: Change) -> dict[str, Any]:
    return {
        "token": str(change.token),
        "at": _format_time(change.at),
        "author": change.author,
        "reason": change.reason,
        "changed": {
            name: [_plain_value(change.before.get(name)), _plain_value(change.after.get(name))]
            for name in sorted({*change.before, *change.after})
        },
    }


def _row(change: Change) -> tuple[Any, ...]:
    fields = _to_dict(change)
    # What steers the fleet comes last: a policy is long, and seldom what a revision is about.
    changes = sorted(fields["changed"].items(), key=lambda item: (item[0].startswith(RESERVED_PREFIX), item[0]))
    listed = [_describe_change(name, *sides) for name, sides in changes[:_CHANGES_SHOWN]]
    if len(changes) > _CHANGES_SHOWN:
        listed.append(f"… {len(changes) - _CHANGES_SHOWN} more: dspex-fleet history --json")
    at = datetime.fromtimestamp(change.at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return (fields["token"], at, fields["author"], fields["reason"], Whole("\n".join(listed)))


def _describe_change(name: str, before: Any, after: Any) -> str:
    if name == POLICY_VARIABLE:
        return f"rollout policy {'set' if before is None else 'removed' if after is None else 'changed'}"
    return f"{name}: {_shorten(before)} → {_shorten(after)}"


def _shorten(value: Any) -> str:
    text = to_one_line(_format_value(value))
    return text if len(text) <= _VALUE_SHOWN else f"{text[: _VALUE_SHOWN - 1]}…"


def _plain_value(variable: Variable | None) -> Any:
    return None if variable is None else plain(variable)


def _format_value(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else dump_json(value)


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
