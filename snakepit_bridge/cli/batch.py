"""``batch``: one prediction per line of a file of any length, resumed exactly after an interruption."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snakepit_bridge.cli.batch_view import describe_cost, list_errors, show_progress
from snakepit_bridge.cli.connection_options import (
    AtLeast,
    Exactly,
    MaxStaleness,
    OnOutage,
    RedisUrl,
    RequestAttributes,
    Session,
    TargetingKey,
    build_options,
    build_targeting,
    resolve_fleet,
    translate_value_errors,
)
from snakepit_bridge.cli.fleet_state import find_workers
from snakepit_bridge.cli.output import echo, echo_aside
from snakepit_bridge.cli.predict import Program
from snakepit_bridge.cli.remote_control import find_running
from snakepit_bridge.exceptions import ConfigurationError, StoreForbiddenError
from snakepit_bridge.protocol.messages import DEFAULT_SESSION

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet
    from snakepit_bridge.client.bulk.progress import BulkReport

_FORMATS = "JSON lines, CSV or Parquet, by its suffix"


def batch(
    ctx: typer.Context,
    program: Program,
    source: Annotated[
        Path,
        typer.Option(
            "--input", metavar="X.jsonl", help=f'{_FORMATS}. Each line the inputs, or {{"id": …, "inputs": …}}.'
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="Y.jsonl", help=f"One line per input line, in its order. {_FORMATS}.")
    ],
    session: Session = DEFAULT_SESSION,
    in_flight: Annotated[int, typer.Option(min=1, help="How many to keep on the fleet at a time.")] = 1_000,
    together: Annotated[
        int | None, typer.Option("--batch", min=1, help="How many to send in one message.", show_default="up to 100")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Answer N lines, drawn at random, and say what all would cost."),
    ] = None,
    limit_spend: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="USD", help="Stop before the run costs more; run it again to go on."),
    ] = None,
    failed: Annotated[
        Path | None, typer.Option(metavar="Z.jsonl", help="Write the lines that failed here, to be run as an input.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id", metavar="COLUMN", help="Column that the output repeats as id.")
    ] = None,
    priority: Annotated[int, typer.Option(min=0, max=9, help="0 to 9, the most urgent.")] = 3,
    at_least: AtLeast = None,
    exactly: Exactly = None,
    max_staleness: MaxStaleness = None,
    outage: OnOutage = None,
    key: TargetingKey = None,
    attributes: RequestAttributes = None,
    timeout: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="Stop if no line has ended for so long.")
    ] = 600.0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the lines that failed once more, each in its place.")
    ] = False,
    keep_results: Annotated[
        bool, typer.Option("--keep-results", help="Keep results in Redis until they expire, for scores and replays.")
    ] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Make a prediction for each line of a file.

    Run it again after it was ended by whatever: no line is missing or twice, and what was predicted isn't paid again.
    It keeps how far it has come in OUTPUT.checkpoint. A failed line keeps its error in its place; while there is one,
    the exit code is 1.
    """
    demanded = build_options(at_least, exactly, max_staleness, outage) | build_targeting(key, attributes)
    fleet = resolve_fleet(ctx, redis_url).fleet()
    echo(f"batch: reading {source}")
    with translate_value_errors(), show_progress(program, partial(_has_workers, fleet)) as on_progress:
        try:
            report = fleet.map_file(
                program,
                source,
                output,
                session=session,
                priority=priority,
                in_flight=in_flight if together is None else max(in_flight, together),
                batch=together,
                sample=sample,
                limit_usd=None if limit_spend is None else Decimal(str(limit_spend)),
                failed=failed,
                id_column=id_column,
                retry_failed=retry_failed,
                keep_results=keep_results,
                timeout_s=timeout,
                on_progress=on_progress,
                **demanded,
            )
        except KeyboardInterrupt:
            echo_aside("batch: interrupted; what is on the fleet is finished there, and the next run finds it")
            raise
    _print_report(report, output, sample)
    _exit(report, fleet, timeout)


def _has_workers(fleet: Fleet) -> bool:
    """Check whether a worker reports that it runs; a user who may not look isn't bothered with that."""
    try:
        return bool(find_running(fleet))
    except StoreForbiddenError:
        return True


def _print_report(report: BulkReport, output: Path, sample: int | None) -> None:
    answered = report.done - report.failed
    counts = f"{report.done} of {report.total} lines" if report.done < report.total else f"{report.total} lines"
    echo(f"batch: {counts}, {answered} answered, {report.failed} failed, {describe_cost(report)}: {output}")
    for line in list_errors(report):
        echo(f"batch: {line}")
    if sample is not None and answered and report.is_complete:
        echo(f"batch: {report.cost_usd / answered * 1_000_000:.2f} USD per million lines at this rate")
    if report.failed and report.is_complete:
        echo(f"batch: retry the {report.failed} failed lines with --retry-failed")


def _exit(report: BulkReport, fleet: Fleet, timeout_s: float) -> None:
    """End with an exit code of 1 unless every line was answered.

    Raises:
        ConfigurationError: no worker is there to answer.
    """
    if report.stopped == "limit":
        echo("batch: stopped at --limit-spend; run it again with a higher one to go on")
    elif report.stopped == "stalled" and not find_workers(fleet).workers:
        raise ConfigurationError(
            f"No worker answers, and no prediction arrived within {timeout_s:g} s. "
            "Start one: dspex-fleet worker; then run the batch again: it resumes where it stopped."
        )
    elif report.stopped:
        echo(f"batch: no line has ended for {timeout_s:g} s; run it again to resume it")
    if report.failed or report.stopped:
        raise typer.Exit(1)
