"""``approvals``: list, show, approve and reject the changes that wait for approval."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import dump_json, echo, print_table
from snakepit_bridge.cli.sessions import author

if TYPE_CHECKING:
    from snakepit_bridge.audit.requests import ApprovalRequest

approvals = typer.Typer(
    name="approvals",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="List, show, approve or reject the changes that wait for approval.",
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The id of the request.", show_default=False)]


@approvals.command("list")
def list_requests(ctx: typer.Context, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """List the changes that wait, the oldest first."""
    found = resolve_fleet(ctx, redis_url).fleet().approvals.list()
    if json:
        echo(dump_json([_summarize(request) for request in found]))
        return
    if not found:
        echo("approvals: nothing waits")
        return
    columns = ("id", "operation", "target", "author", "reason", "approvals", "expires")
    print_table(columns, [_row(request) for request in found], unbroken=("id",))


@approvals.command()
def show(ctx: typer.Context, id: Id, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """Show a request with what it would change."""
    shown = resolve_fleet(ctx, redis_url).fleet().approvals.get(id).as_dict()
    if json:
        echo(dump_json(shown))
        return
    changes = shown.pop("arguments")
    rows = [(name, _format_time(value) if name.endswith("_at") else value) for name, value in shown.items()]
    print_table(("", ""), rows)
    echo(dump_json(changes))


@approvals.command()
def approve(ctx: typer.Context, id: Id, redis_url: RedisUrl = None) -> None:
    """Approve a change that somebody else has requested; it is made by this if no approval is missing then."""
    found = resolve_fleet(ctx, redis_url).fleet().approvals.approve(id, author=author())
    request = found.request
    if found.applied:
        echo(f"{request.operation} of {request.target} is done{f': {found.result}' if found.result else ''}")
    else:
        echo(f"{request.operation} of {request.target} waits: {len(request.approvers)} of {request.needed} approvals")


@approvals.command()
def reject(
    ctx: typer.Context,
    id: Id,
    reason: Annotated[str, typer.Option(help="Reason, for the audit trail.", show_default=False)] = "",
    redis_url: RedisUrl = None,
) -> None:
    """Reject a change, also one's own."""
    request = resolve_fleet(ctx, redis_url).fleet().approvals.reject(id, author=author(), reason=reason)
    echo(f"{request.operation} of {request.target} is rejected")


def _summarize(request: ApprovalRequest) -> dict[str, object]:
    return {name: value for name, value in request.as_dict().items() if name != "arguments"}


def _row(request: ApprovalRequest) -> tuple[object, ...]:
    given = f"{len(request.approvers)} of {request.needed}"
    expires = _format_time(request.expires_at)
    return request.id, request.operation, request.target, request.author or "-", request.reason, given, expires


def _format_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
