"""``audit``: who changed what on a fleet."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from snakepit_bridge.audit.entries import AuditFilter, AuditOutcome
from snakepit_bridge.cli.arguments import parse_duration_s
from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import Whole, dump_json, echo, print_table

if TYPE_CHECKING:
    from snakepit_bridge.audit.entries import AuditEntry
    from snakepit_bridge.client import Fleet

_NAMES_SHOWN = 5


def audit(
    ctx: typer.Context,
    session: Annotated[
        str, typer.Option("--session", "-s", metavar="NAME", help="Only this session, its labels and rollouts.")
    ] = "",
    actor: Annotated[str, typer.Option(metavar="NAME", help="Only this author, or this token of a gateway.")] = "",
    action: Annotated[
        str, typer.Option(metavar="NAME", help="Only these, such as publish, or rollout for all steps of rollouts.")
    ] = "",
    outcome: Annotated[
        AuditOutcome | None, typer.Option(help="Only changes that ended so.", show_default=False)
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DURATION", help="None older than 90m, 24h or 7d.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", help="Print each new one, until Ctrl-C.")] = False,
    count: Annotated[int, typer.Option(min=0, help="With --follow: stop after this many; 0 for never.")] = 0,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Show who changed what, from where and why, the newest first."""
    fleet = resolve_fleet(ctx, redis_url).fleet()
    if follow:
        # Ctrl-C is how following ends, and nothing to complain about.
        with suppress(KeyboardInterrupt):
            asyncio.run(_follow(fleet, AuditFilter(session, actor, action, outcome), count, as_json=json))
        return
    found = fleet.audit(
        session=session,
        actor=actor,
        action=action,
        outcome=outcome,
        since_s=None if since is None else parse_duration_s(since),
        limit=limit,
    )
    if json:
        echo(dump_json([entry.as_dict() for entry in found]))
        return
    columns = ("at", "action", "target", "actor", "from", "before → after", "outcome", "what")
    print_table(columns, [_row(entry) for entry in found], unbroken=("at", "before → after"))


async def _follow(fleet: Fleet, chosen: AuditFilter, count: int, *, as_json: bool) -> None:
    seen = 0
    async for entry in fleet.audit_trail.follow(chosen):
        echo(dump_json(entry.as_dict()) if as_json else "  ".join(_text(cell) for cell in _row(entry)))
        seen += 1
        if seen == count:
            return


def _row(entry: AuditEntry) -> tuple[object, ...]:
    at = datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    moved = Whole(" → ".join(filter(None, (entry.before, entry.after))))
    ended = f"{entry.outcome} {entry.approval}".strip()
    return at, entry.action, entry.target, entry.actor or "-", entry.source, moved, ended, Whole(_describe(entry))


def _describe(entry: AuditEntry) -> str:
    """Return what changed, why, and who approved it or why it was refused or denied."""
    if entry.outcome is AuditOutcome.DENIED:
        return f"{entry.problem} ({entry.changes} calls)" if entry.changes > 1 else entry.problem
    names = ", ".join(entry.names[:_NAMES_SHOWN])
    more = f" and {entry.changes - _NAMES_SHOWN} more" if entry.changes > _NAMES_SHOWN else ""
    by = f"approved by {', '.join(entry.approvers)}" if entry.approvers else ""
    return "; ".join(filter(None, (f"{names}{more}", entry.reason, by, entry.problem)))


def _text(cell: object) -> str:
    return cell.text if isinstance(cell, Whole) else str(cell)
