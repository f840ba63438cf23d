"""``dead``: the messages that the fleet has given up, for an operator to look at, to try again or to drop."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, target
from snakepit_bridge.cli.output import as_json, say, table
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.process.home_loop import run_blocking

if TYPE_CHECKING:
    from snakepit_bridge.delivery.dead_letters import DeadLetter, DeadLetters

app = typer.Typer(no_args_is_help=True, help="List, show, retry or drop the messages that the fleet has given up.")

Id = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


@app.command("list")
def listed(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """List the dead messages, the newest first."""
    messages, count = run_blocking(_look(_dead(ctx, redis_url), limit))
    if json:
        say(as_json({"count": count, "messages": [_short(one) for one in messages]}))
        return
    columns = ("id", "given up", "reason", "task", "queue", "deliveries", "error")
    table(columns, [_row(one) for one in messages], numbers=("deliveries",))
    say(f"{count} dead" + (f", {len(messages)} shown" if len(messages) < count else ""))


@app.command()
def show(ctx: typer.Context, id: Id, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """Show one, with the whole message."""
    told = run_blocking(_dead(ctx, redis_url).get(id)).told()
    if json:
        say(as_json(told))
        return
    message = told.pop("message")
    table(("", ""), [(name, _time(value) if name == "at" else value) for name, value in told.items()])
    say(message)


@app.command()
def retry(ctx: typer.Context, ids: Ids = None, every: All = False, redis_url: RedisUrl = None) -> None:
    """Put messages back to their queues, as if they had never been given out."""
    from snakepit_bridge.client.rabbitmq import send_again

    fleet = target(ctx, redis_url).fleet()
    send = partial(send_again, fleet.app) if fleet.on_rabbitmq else None
    run_blocking(_each(_dead(ctx, redis_url), "retry", ids, every, send))


@app.command()
def drop(ctx: typer.Context, ids: Ids = None, every: All = False, redis_url: RedisUrl = None) -> None:
    """Forget messages for good."""
    run_blocking(_each(_dead(ctx, redis_url), "drop", ids, every))


async def _look(dead: DeadLetters, limit: int) -> tuple[list[DeadLetter], int]:
    return await dead.latest(limit), await dead.count()


async def _each(
    dead: DeadLetters,
    verb: str,
    ids: list[str] | None,
    every: bool,
    send: Callable[[DeadLetter], None] | None = None,
) -> None:
    if bool(ids) == every:
        raise BridgeError(f"Nothing to {verb}: name the ids that 'dspex-fleet dead list' shows, or say --all.")
    chosen = await dead.ids() if every else ids or []
    for id in chosen:
        if verb == "retry":
            found = await dead.retry(id, send)
            say(f"{id} waits in {found.queue} again")
        else:
            await dead.drop(id)
            say(f"{id} is dropped")


def _dead(ctx: typer.Context, redis_url: str | None) -> DeadLetters:
    from snakepit_bridge.delivery.dead_letters import DeadLetters

    chosen = target(ctx, redis_url)
    return DeadLetters(chosen.connection(), namespace=chosen.namespace)


def _short(one: DeadLetter) -> dict[str, object]:
    return {name: value for name, value in one.told().items() if name != "message"}


def _row(one: DeadLetter) -> tuple[object, ...]:
    return (one.id, _time(one.at), one.reason, one.task or "-", one.queue, one.deliveries, one.error)


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
