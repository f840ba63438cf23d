"""``protect``: the rules by which changes of sessions and labels need somebody else's approval."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from snakepit_bridge.audit.protections import MAX_APPROVALS, ProtectionKind
from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import dump_json, echo, print_table
from snakepit_bridge.cli.sessions import author

protect = typer.Typer(
    name="protect",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Have changes of sessions and labels wait for somebody else's approval.",
)

Pattern = Annotated[
    str, typer.Argument(metavar="PATTERN", help="A name, in which * stands for any text.", show_default=False)
]
Needed = Annotated[int, typer.Option("--approvals", min=1, max=MAX_APPROVALS, help="How many people have to approve.")]


@protect.command()
def label(ctx: typer.Context, pattern: Pattern, approvals: Needed = 1, redis_url: RedisUrl = None) -> None:
    """Protect labels: stable for those of all programs and sessions, qa@prod for one of them."""
    _protect(ctx, ProtectionKind.LABEL, pattern, approvals, redis_url)


@protect.command()
def session(ctx: typer.Context, pattern: Pattern, approvals: Needed = 1, redis_url: RedisUrl = None) -> None:
    """Protect sessions: what is published there, rolled back, tried or deleted."""
    _protect(ctx, ProtectionKind.SESSION, pattern, approvals, redis_url)


@protect.command("list")
def list_rules(ctx: typer.Context, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """List the rules."""
    rules = resolve_fleet(ctx, redis_url).fleet().protections.list()
    if json:
        echo(dump_json([rule.as_dict() for rule in rules]))
        return
    if not rules:
        echo("protections: none; set one with: dspex-fleet protect label stable")
        return
    rows = [(r.kind, r.pattern, r.approvals, r.author or "-", _format_time(r.at)) for r in rules]
    print_table(("kind", "pattern", "approvals", "author", "since"), rows, numbers=("approvals",))


@protect.command()
def remove(
    ctx: typer.Context,
    kind: Annotated[ProtectionKind, typer.Argument(help="What the rule protects.", show_default=False)],
    pattern: Pattern,
    redis_url: RedisUrl = None,
) -> None:
    """Remove a rule, which waits for the approvals that it asks for."""
    resolve_fleet(ctx, redis_url).fleet().protections.unprotect(kind, pattern, author=author())
    echo(f"{kind}:{pattern} is protected no more")


def _protect(ctx: typer.Context, kind: ProtectionKind, pattern: str, approvals: int, redis_url: str | None) -> None:
    fleet = resolve_fleet(ctx, redis_url).fleet()
    rule = fleet.protections.protect(kind, pattern, approvals=approvals, author=author())
    people = "one other person" if approvals == 1 else f"{approvals} others"
    echo(f"{rule}: changes wait until {people} approved them")


def _format_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
