"""``evaluate``: run a program on a dataset by a metric, alone or as several arms side by side."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snakepit_bridge.cli.arguments import parse_pairs
from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, Session, resolve_fleet, translate_value_errors
from snakepit_bridge.cli.evaluation_view import show_comparison, show_records
from snakepit_bridge.cli.gates import Require, check_gates, name_metrics, show_gates
from snakepit_bridge.cli.output import dump_json, echo
from snakepit_bridge.cli.predict import Program
from snakepit_bridge.cli.sessions import author
from snakepit_bridge.protocol.messages import DEFAULT_SESSION

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet
    from snakepit_bridge.client.evaluation import Evaluation
    from snakepit_bridge.client.evaluation_run import OnProgress, Progress
    from snakepit_bridge.evaluations.comparison import EvaluationComparison
    from snakepit_bridge.evaluations.jobs import Job
    from snakepit_bridge.evaluations.metric import MetricSpec

_IN_FLIGHT = 1_000


def evaluate(
    ctx: typer.Context,
    program: Program,
    dataset: Annotated[
        str, typer.Option(metavar="DATASET", help="A stored dataset: golden, or golden:3.", show_default=False)
    ],
    metric: Annotated[
        str,
        typer.Option(
            metavar="METRIC",
            help="mypkg.metrics:exact, one of DSPy's own such as SemanticF1, or program:NAME, which judges.",
            show_default=False,
        ),
    ],
    arm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARM",
            help="A token or label of the session, 'latest', or a label or version of the program; repeatable. "
            "The first is what the others are compared with.",
            show_default=False,
        ),
    ] = None,
    session: Session = DEFAULT_SESSION,
    judge_input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="FIELD=PATH",
            help="Of a judging program its input, from inputs.FIELD, labels.FIELD or outputs.FIELD; repeatable.",
            show_default=False,
        ),
    ] = None,
    judge_output: Annotated[
        str, typer.Option("--output", metavar="FIELD", help="Of a judging program its output that is the score.")
    ] = "score",
    require: Require = None,
    failure_score: Annotated[float, typer.Option(help="Score of an example that fails.")] = 0.0,
    repeat: Annotated[int, typer.Option(min=0, help="Number of a repetition; another number is run anew.")] = 0,
    in_flight: Annotated[int, typer.Option(min=1, help="How many examples to keep on their way.")] = _IN_FLIGHT,
    timeout: Annotated[float, typer.Option(min=0.0, metavar="SECONDS", help="How long to wait for progress.")] = 600.0,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a report with plots.", show_default=False)
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Run it on a worker, print the job's id, and end at once.")
    ] = False,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Evaluate a program on a dataset by a metric that runs on the workers.

    What was evaluated before is shown from its record. After an interruption, run it again: it goes on where it was,
    and pays for nothing twice. If a requirement isn't met, the exit code is 1.
    """
    fleet, arms = resolve_fleet(ctx, redis_url).fleet(wait_s=timeout), arm or ["latest"]
    with translate_value_errors():
        spec = _build_metric(metric, judge_input, judge_output)
        options: dict[str, Any] = {
            "failure_score": failure_score, "repeat": repeat, "in_flight": in_flight, "author": author(),
        }  # fmt: skip
        if detach:
            refuse_report(html, require)
            _start(fleet, program, dataset, spec, session, arms, options, json=json)
            return
        with _progress(program) as on_progress:
            found = fleet.evaluate(
                program, dataset, spec, session=session, arms=arms, on_progress=on_progress, **options
            )
        compared = [fleet.evaluations.compare(found[arms[0]], found[other]) for other in arms[1:]]
        outcomes = check_gates(
            fleet,
            require,
            program,
            name_metrics([spec]),
            session=session,
            candidate=arms[-1],
            baseline=arms[0] if arms[1:] else None,
            options=options,
        )
    if html is not None:
        _write_report(html, fleet, found, compared)
    if json:
        figures = {name: evaluation.record.as_dict() for name, evaluation in found.items()}
        gates = [outcome.as_dict() for outcome in outcomes]
        echo(dump_json({"arms": figures, "comparisons": [each.as_dict() for each in compared], "gates": gates}))
    else:
        show_records([evaluation.record for evaluation in found.values()], names=arms)
        for each in compared:
            show_comparison(each)
        show_gates(outcomes)
    if not all(outcome.passed for outcome in outcomes):
        raise typer.Exit(1)


def _start(
    fleet: Fleet,
    program: str,
    dataset: str,
    metric: MetricSpec,
    session: str,
    arms: Sequence[str],
    options: dict[str, Any],
    *,
    json: bool,
) -> None:
    from snakepit_bridge.client.evaluation_options import EvaluationOptions

    chosen = EvaluationOptions(**options)
    show_started(fleet.jobs.evaluate(program, dataset, metric, session=session, arms=arms, options=chosen), json=json)


def refuse_report(html: Path | None, require: Sequence[str] | None = None) -> None:
    """Refuse what a command that ends at once can't give.

    Raises:
        BridgeError: a report or a check is wanted.
    """
    from snakepit_bridge.exceptions import BridgeError

    if html is not None or require:
        raise BridgeError("With --detach there is nothing to report or to check yet: wait with dspex-fleet jobs watch.")


def show_started(job: Job, *, json: bool) -> None:
    """Print a job that was started."""
    echo(dump_json(job.as_dict()) if json else f"{job.id} is {job.state}; follow it: dspex-fleet jobs watch {job.id}")


def _build_metric(reference: str, inputs: Sequence[str] | None, output: str) -> MetricSpec:
    from snakepit_bridge.evaluations.metric import MetricSpec

    return MetricSpec.parse(MetricSpec(reference, inputs=dict(parse_pairs(inputs or [])), output=output))


@contextmanager
def _progress(program: str) -> Generator[OnProgress]:
    """Show a progress bar on a terminal while the block runs."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    errors = Console(stderr=True, markup=False)
    with Bar(*columns, console=errors, disable=not errors.is_terminal, transient=True) as bar:
        task = bar.add_task(program, total=None)

        def update(progress: Progress) -> None:
            failed = f", {progress.errors} failed" if progress.errors else ""
            text = f"{program}: {100 * progress.scores / max(progress.ended, 1):.1f}{failed}"
            bar.update(task, completed=progress.ended, total=progress.total, description=text)

        yield update


def _write_report(
    path: Path, fleet: Fleet, found: dict[str, Evaluation], compared: Sequence[EvaluationComparison]
) -> None:
    from snakepit_bridge.evaluations.report import render_report

    arms: list[Any] = [(name, evaluation.record, evaluation.examples) for name, evaluation in found.items()]
    write_text(path, render_report(arms, compared))


def write_text(path: Path, text: str) -> None:
    """Write a report's file.

    Raises:
        BridgeError: it can't be written.
    """
    from snakepit_bridge.exceptions import BridgeError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise BridgeError(f"The report {path} can't be written: {exc.strerror}. Name another file.") from None
