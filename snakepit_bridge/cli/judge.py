"""``judge``: which programs score whose predictions, and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from snakepit_bridge.cli.arguments import parse_pairs
from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import dump_json, echo, print_table, to_one_line
from snakepit_bridge.cli.sessions import author

if TYPE_CHECKING:
    from snakepit_bridge.client.judges import JudgeReport

judge = typer.Typer(
    name="judge",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Have programs score a sampled share of other programs' predictions.",
)

Judged = Annotated[
    str, typer.Argument(metavar="PROGRAM", help="Name of the program that is judged.", show_default=False)
]
_NUMBERS = ("share", "USD/h", "judged", "failed", "USD", "no money", "busy", "open")


@judge.command()
def add(
    ctx: typer.Context,
    judged: Judged,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the scores.", show_default=False)],
    program: Annotated[
        str,
        typer.Option(metavar="PROGRAM", help="The judging program: judge, judge:3 or judge@prod.", show_default=False),
    ],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="FIELD=PATH",
            help="Its input field, from inputs.FIELD or outputs.FIELD of the judged prediction; repeatable.",
            show_default=False,
        ),
    ],
    output: Annotated[str, typer.Option(metavar="FIELD", help="Its output field that is the score.")] = "score",
    comment: Annotated[
        str, typer.Option(metavar="FIELD", help="Its output field that says why.", show_default=False)
    ] = "",
    share: Annotated[float, typer.Option(help="Share of the predictions that is judged.")] = 0.1,
    usd_per_hour: Annotated[float, typer.Option(help="What judging may cost in an hour by the clock.")] = 1.0,
    concurrency: Annotated[int, typer.Option(help="How many judging predictions may wait or run.")] = 8,
    redis_url: RedisUrl = None,
) -> None:
    """Have a program score a share of another program's predictions, in place of the judge of the same name."""
    resolve_fleet(ctx, redis_url).fleet().judges.add(
        judged,
        name=name,
        program=program,
        inputs=parse_pairs(inputs, "FIELD=PATH"),
        output=output,
        comment=comment,
        share=share,
        usd_per_hour=usd_per_hour,
        concurrency=concurrency,
        author=author(),
    )
    echo(f"judge {name} of {judged} was added")


@judge.command()
def remove(
    ctx: typer.Context,
    judged: Judged,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of its scores.", show_default=False)],
    redis_url: RedisUrl = None,
) -> None:
    """Remove a judge; what waits or runs for it is finished."""
    resolve_fleet(ctx, redis_url).fleet().judges.remove(judged, name, author=author())
    echo(f"judge {name} of {judged} was removed")


@judge.command("list")
def list_judges(ctx: typer.Context, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """List the judges, and what each did and spent in this hour; also what can't judge, and why."""
    found = resolve_fleet(ctx, redis_url).fleet().judges.list()
    if json:
        echo(dump_json(found.encode()))
        return
    print_table(
        ("program", "score", "judge", *_NUMBERS), map(_row, found.judges), numbers=_NUMBERS, unbroken=("score", "judge")
    )
    for report in found.judges:
        if report.hour.problem:
            echo(f"last problem of {report.judge.judged}.{report.judge.name}: {to_one_line(report.hour.problem)}")
    for error in found.invalid:
        echo(f"invalid: {error}")


def _row(report: JudgeReport) -> tuple[Any, ...]:
    judge, hour = report.judge, report.hour
    skipped = (hour.unaffordable, hour.unattended, hour.open)
    settings = (judge.judged, judge.name, judge.program, judge.share, judge.usd_per_hour)
    return (*settings, hour.judged, hour.failed, f"{hour.cost_usd:f}", *skipped)
