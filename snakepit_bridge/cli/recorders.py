"""``record``: which programs' finished predictions are recorded, what of them, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snakepit_bridge.cli.arguments import parse_duration_s
from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import dump_json, echo, print_table
from snakepit_bridge.cli.sessions import author

if TYPE_CHECKING:
    from snakepit_bridge.client.recorders import RecorderReport

record = typer.Typer(
    name="record",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Record a share of a program's finished predictions, for datasets.",
)

Program = Annotated[str, typer.Argument(metavar="PROGRAM", help="Name of the program.", show_default=False)]
_NUMBERS = ("share", "records", "most", "days")


@record.command("set")
def set_recorder(
    ctx: typer.Context,
    program: Program,
    share: Annotated[float, typer.Option(help="Share of the predictions that is recorded.")] = 1.0,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Keep only inputs.FIELD or outputs.FIELD; repeatable.", show_default=False),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Keep nothing of a field; repeatable.", show_default=False)
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Keep the name of a field alone; repeatable.", show_default=False),
    ] = None,
    most: Annotated[int, typer.Option("--max", help="How many predictions are kept, the newest ones.")] = 10_000,
    expires: Annotated[str, typer.Option(metavar="DURATION", help="How long they are kept, at most 90d.")] = "7d",
    errors: Annotated[bool, typer.Option("--errors/--no-errors", help="Record those that failed too.")] = True,
    redis_url: RedisUrl = None,
) -> None:
    """Record finished predictions of a program, in place of what was set before."""
    expires_s = round(parse_duration_s(expires))
    resolve_fleet(ctx, redis_url).fleet().recorders.set(
        program,
        share=share,
        keep=keep or (),
        drop=drop or (),
        replace=replace or (),
        max_records=most,
        expires_s=expires_s,
        errors=errors,
        author=author(),
    )
    echo(f"predictions of {program} are recorded, from a few seconds on")


@record.command()
def show(ctx: typer.Context, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """Show what is recorded of which programs."""
    found = resolve_fleet(ctx, redis_url).fleet().recorders.list()
    if json:
        echo(dump_json([report.as_dict() for report in found]))
    elif found:
        print_table(("program", *_NUMBERS, "since", "fields", "errors"), map(_row, found), numbers=_NUMBERS)
    else:
        echo("record: nothing is recorded; begin with: dspex-fleet record set PROGRAM")


@record.command()
def remove(
    ctx: typer.Context,
    program: Program,
    erase: Annotated[bool, typer.Option("--erase", help="Also remove what is recorded.")] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Stop recording a program's predictions; what is recorded stays until it expires."""
    resolve_fleet(ctx, redis_url).fleet().recorders.remove(program, erase=erase, author=author())
    echo(f"predictions of {program} are not recorded any more" + (", and the records are removed" if erase else ""))


def _row(report: RecorderReport) -> tuple[Any, ...]:
    recorder, count = report.recorder, report.count
    since = (
        datetime.fromtimestamp(count.oldest, UTC).isoformat(sep=" ", timespec="minutes")[:16] if count.records else ""
    )
    fields = [", ".join(recorder.keep) or "all"]
    fields += [f"without {', '.join(recorder.drop)}"] if recorder.drop else []
    fields += [f"names of {', '.join(recorder.replace)}"] if recorder.replace else []
    days, errors = f"{recorder.expires_s / 86_400:g}", "yes" if recorder.errors else "no"
    numbers = (recorder.share, count.records, recorder.max_records, days)
    return (recorder.program, *numbers, since, "; ".join(fields), errors)
