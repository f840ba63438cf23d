"""``evaluations``: list, show and compare the records of evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.evaluate import write_text
from snakepit_bridge.cli.evaluation_view import show_comparison, show_record, show_records
from snakepit_bridge.cli.output import dump_json, echo

evaluations = typer.Typer(
    name="evaluations",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="List, show or compare the records of evaluations.",
)

EvaluationId = Annotated[
    str, typer.Argument(metavar="ID", help="The id, or its first characters, at least six.", show_default=False)
]
Report = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a report with plots.", show_default=False)
]


@evaluations.command("list")
def list_evaluations(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest.")] = 20,
    program: Annotated[str, typer.Option(help="Only those of the program of this name.", show_default=False)] = "",
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """List the newest evaluations."""
    found = resolve_fleet(ctx, redis_url).fleet().evaluations.list(limit=limit, program=program)
    if json:
        echo(dump_json([record.as_dict() for record in found]))
    elif found:
        show_records(found)
    else:
        echo("evaluations: none; run one with: dspex-fleet evaluate")


@evaluations.command()
def show(
    ctx: typer.Context, evaluation: EvaluationId, html: Report = None, json: AsJson = False, redis_url: RedisUrl = None
) -> None:
    """Show an evaluation, and the examples that failed or have no full score."""
    known = resolve_fleet(ctx, redis_url).fleet().evaluations
    record = known.get(evaluation)
    results = known.results(record.id)
    if html is not None:
        from snakepit_bridge.evaluations.report import render_report

        write_text(html, render_report([(record.subject.program, record, results)], []))
    if json:
        echo(dump_json({**record.as_dict(), "examples": [result.encode() for result in results]}))
    else:
        show_record(record, results)


@evaluations.command()
def compare(
    ctx: typer.Context,
    baseline: EvaluationId,
    candidate: EvaluationId,
    html: Report = None,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Compare two evaluations of the same examples by the same metric, example by example."""
    known = resolve_fleet(ctx, redis_url).fleet().evaluations
    compared = known.compare(baseline, candidate)
    if html is not None:
        from snakepit_bridge.evaluations.report import render_report

        sides = {"baseline": compared.baseline, "candidate": compared.candidate}
        arms = [(name, record, known.results(record.id)) for name, record in sides.items()]
        write_text(html, render_report(arms, [compared]))
    if json:
        echo(dump_json(compared.as_dict()))
    else:
        show_records([compared.baseline, compared.candidate], names=("baseline", "candidate"))
        show_comparison(compared)
