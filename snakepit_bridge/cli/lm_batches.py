"""``lm-batches``: list, show and cancel the batches of LM calls that predictions wait for."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import dump_json, echo, print_table
from snakepit_bridge.cli.sessions import author

if TYPE_CHECKING:
    from snakepit_bridge.client.lm_batches import LMBatches
    from snakepit_bridge.lm_batches.records import LMBatch

lm_batches = typer.Typer(
    name="lm-batches",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="List, show or cancel the batches of LM calls that predictions wait for.",
)

Id = Annotated[str, typer.Argument(metavar="ID", help="Id that lm-batches list shows.", show_default=False)]


@lm_batches.command("list")
def list_batches(ctx: typer.Context, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """List the batches that run, the latest that have ended, and what waits for one."""
    found = _open(ctx, redis_url).list()
    if json:
        waiting = {profile: asdict(each) for profile, each in found.waiting.items()}
        batches = [asdict(batch) for batch in found.batches]
        echo(dump_json({"parked": found.parked, "waiting": waiting, "batches": batches}))
        return
    columns = ("id", "profile", "created", "state", "provider", "answered", "requests", "problem")
    print_table(columns, [_row(batch) for batch in found.batches], numbers=("answered", "requests"))
    for profile, each in found.waiting.items():
        echo(f"Requests of '{profile}' waiting for the next batch: {each.count}")
    echo(f"Predictions waiting: {found.parked}")


@lm_batches.command()
def show(ctx: typer.Context, id: Id, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """Show one batch."""
    found = asdict(_open(ctx, redis_url).get(id))
    if json:
        echo(dump_json(found))
        return
    times = {name: _format_time(found[name]) for name in ("created_at", "sent_at")}
    print_table(("", ""), [(name, times.get(name, value)) for name, value in found.items()])


@lm_batches.command()
def cancel(ctx: typer.Context, id: Id, redis_url: RedisUrl = None) -> None:
    """Have a batch cancelled: predictions whose answers it doesn't have by then fail, or go to a fallback."""
    _open(ctx, redis_url).cancel(id, author=author())
    echo(f"{id} is to be cancelled; 'dspex-fleet lm-batches show {id}' says when it is")


def _open(ctx: typer.Context, redis_url: str | None) -> LMBatches:
    return resolve_fleet(ctx, redis_url).fleet().lm_batches


def _row(batch: LMBatch) -> tuple[object, ...]:
    state = "to be cancelled" if batch.cancel and not batch.state.is_over else batch.state.value
    seen = (batch.provider_status or "-", batch.answered, batch.requests, batch.problem or "-")
    return (batch.id, batch.profile, _format_time(batch.created_at), state, *seen)


def _format_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S") if at else "-"
