"""How evaluations and their comparisons look on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from snakepit_bridge.cli.output import echo, print_table, to_cell
from snakepit_bridge.costs.usage import format_usd
from snakepit_bridge.evaluations.metric import shorten_digest

if TYPE_CHECKING:
    from snakepit_bridge.evaluations.comparison import EvaluationComparison, PairedExample
    from snakepit_bridge.evaluations.records import EvaluationRecord, ExampleResult

_FIGURES = ("score", "95 %", "examples", "errors", "p50 ms", "p95 ms", "USD")
_MAX_FLIPPED = 20


def show_records(records: Sequence[EvaluationRecord], *, names: Sequence[str] = ()) -> None:
    """Print a table of evaluations.

    Args:
        records: the evaluations.
        names: of their arms, if they have any.
    """
    columns = (*(("arm",) if names else ()), "evaluation", "program", "session", "dataset", "metric", *_FIGURES)
    rows = [
        (*((names[place],) if names else ()), shorten_digest(record.id), *_describe(record), *_figures(record))
        for place, record in enumerate(records)
    ]
    print_table(columns, rows, numbers=_FIGURES)


def show_record(record: EvaluationRecord, results: Sequence[ExampleResult]) -> None:
    """Print an evaluation, and each example that failed or has no full score."""
    show_records([record])
    subject = record.subject
    echo(
        f"{record.id}: metric {subject.metric_reference} on {subject.ran_on}, token {subject.token or 'none'}, "
        f"{datetime.fromtimestamp(record.ended_at, UTC):%Y-%m-%d %H:%M} UTC, {record.usage.calls} LM calls "
        f"({record.metric_usage.calls} of the metric)"
    )
    shown = [result for result in results if result.score is None or float(result.score) < 1]
    rows = [(to_cell(dict(each.inputs)), to_cell(dict(each.outputs)), _outcome(each)) for each in shown[:_MAX_FLIPPED]]
    if rows:
        print_table(("inputs", "outputs", "score"), rows, title="below 1")
        if len(shown) > _MAX_FLIPPED:
            echo(f"and {len(shown) - _MAX_FLIPPED} more; --json has all of them")


def show_comparison(compared: EvaluationComparison) -> None:
    """Print a paired comparison, and the examples that flipped."""
    interval = compared.interval
    plausible = f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}"
    echo(
        f"{_name(compared.candidate)} against {_name(compared.baseline)}: "
        f"{100 * compared.difference:+.2f} ({plausible}), {compared.verdict}"
    )
    if compared.unpaired:
        echo(f"{compared.unpaired} examples are on one side only and don't count")
    flipped = compared.flipped
    shown = [*flipped[: _MAX_FLIPPED // 2], *flipped[_MAX_FLIPPED // 2 :][-(_MAX_FLIPPED // 2) :]]
    if shown:
        columns = ("inputs", "baseline", "candidate", "difference")
        title = f"{len(flipped)} of {len(compared.pairs)} examples flipped"
        print_table(columns, [_row(pair) for pair in shown], title=title, numbers=("difference",))


def _row(pair: PairedExample) -> tuple[Any, ...]:
    sides = (f"{_outcome(side)} {to_cell(dict(side.outputs))}" for side in (pair.baseline, pair.candidate))
    return (to_cell(dict(pair.candidate.inputs)), *sides, f"{pair.difference:+.3g}")


def _outcome(result: ExampleResult) -> str:
    return result.error if result.score is None else f"{float(result.score):.3g}"


def _name(record: EvaluationRecord) -> str:
    return f"{record.subject.program}:{record.subject.version}@{record.subject.token or 'unpublished'}"


def _describe(record: EvaluationRecord) -> tuple[str, ...]:
    subject = record.subject
    dataset = f"{subject.dataset}:{subject.dataset_version}" if subject.dataset_version else subject.dataset or "-"
    return (f"{subject.program}:{subject.version}", subject.session, dataset, subject.metric)


def _figures(record: EvaluationRecord) -> tuple[object, ...]:
    interval, usage = record.interval, record.usage
    plausible = f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
    times = ("-" if value is None else f"{value:.0f}" for value in (record.p50_ms, record.p95_ms))
    cost = "-" if usage.cost_usd is None else format_usd(usage.cost_pico)
    return (f"{record.score:g}", plausible, record.count, record.errors, *times, cost)
