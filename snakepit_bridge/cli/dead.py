"""``dead``: list, show, retry and drop the messages in the dead-letter list."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import dump_json, echo, print_table
from snakepit_bridge.cli.sessions import author
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.process.home_loop import run_blocking

if TYPE_CHECKING:
    from snakepit_bridge.delivery.dead_letters import DeadLetter, DeadLetters

dead = typer.Typer(
    name="dead",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="List, show, retry or drop the messages in the dead-letter list.",
)

Id = Annotated[str, typer.Argument(metavar="ID", help="Id that dead list shows.", show_default=False)]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Ids that dead list shows.", show_default=False)
]
All = Annotated[bool, typer.Option("--all", help="Apply to all dead messages.")]


@dead.command("list")
def list_messages(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest to list.")] = 100,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """List the dead messages, the newest first."""
    messages, count = run_blocking(_read_latest(_open_dead_letters(ctx, redis_url), limit))
    if json:
        echo(dump_json({"count": count, "messages": [_summarize(letter) for letter in messages]}))
        return
    columns = ("id", "given up", "reason", "task", "queue", "deliveries", "error")
    print_table(columns, [_row(letter) for letter in messages], numbers=("deliveries",))
    echo(f"{count} dead" + (f", {len(messages)} shown" if len(messages) < count else ""))


@dead.command()
def show(ctx: typer.Context, id: Id, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """Show one dead message in full."""
    shown = run_blocking(_open_dead_letters(ctx, redis_url).get(id)).as_dict()
    if json:
        echo(dump_json(shown))
        return
    message = shown.pop("message")
    print_table(("", ""), [(name, _format_time(value) if name == "at" else value) for name, value in shown.items()])
    echo(message)


@dead.command()
def retry(ctx: typer.Context, ids: Ids = None, every: All = False, redis_url: RedisUrl = None) -> None:
    """Put messages back into their queues, with their delivery counts reset."""
    run_blocking(_apply_to_each(_open_dead_letters(ctx, redis_url), "retry", ids, every))


@dead.command()
def drop(ctx: typer.Context, ids: Ids = None, every: All = False, redis_url: RedisUrl = None) -> None:
    """Delete messages permanently."""
    run_blocking(_apply_to_each(_open_dead_letters(ctx, redis_url), "drop", ids, every))


async def _read_latest(letters: DeadLetters, limit: int) -> tuple[list[DeadLetter], int]:
    return await letters.latest(limit), await letters.count()


async def _apply_to_each(letters: DeadLetters, verb: str, ids: list[str] | None, every: bool) -> None:
    if bool(ids) == every:
        raise BridgeError(f"Nothing to {verb}: name ids that 'dspex-fleet dead list' shows, or pass --all.")
    chosen = await letters.ids() if every else ids or []
    for id in chosen:
        if verb == "retry":
            found = await letters.retry(id, author=author())
            echo(f"{id} is back in queue {found.queue}")
        else:
            await letters.drop(id, author=author())
            echo(f"{id} is dropped")


def _open_dead_letters(ctx: typer.Context, redis_url: str | None) -> DeadLetters:
    return resolve_fleet(ctx, redis_url).fleet().dead_letters.aio


def _summarize(letter: DeadLetter) -> dict[str, object]:
    return {name: value for name, value in letter.as_dict().items() if name != "message"}


def _row(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.id,
        _format_time(letter.at),
        letter.reason,
        letter.task or "-",
        letter.queue,
        letter.deliveries,
        letter.error,
    )


def _format_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
