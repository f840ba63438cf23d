"""The report of evaluations as one HTML file: figures, plots, flipped and failed examples. It loads nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from snakepit_bridge.costs.usage import format_usd
from snakepit_bridge.evaluations.comparison import EvaluationComparison
from snakepit_bridge.evaluations.plots import LEFT, RIGHT, PlotAxis, choose_axis, render
from snakepit_bridge.evaluations.records import EvaluationRecord, ExampleResult, score_of
from snakepit_bridge.variables.codec import encode_json

MAX_ROWS = 200
"""The most rows of each table of examples."""

ReportedArm = tuple[str, EvaluationRecord, Sequence[ExampleResult]]
"""An arm's name, record and results."""

_BINS, _PLOT_HEIGHT = 10, 150.0
_MAX_TEXT = 2_000


def render_report(arms: Sequence[ReportedArm], comparisons: Sequence[EvaluationComparison] = ()) -> str:
    """Return the report as HTML.

    Args:
        arms: the evaluations, at least one.
        comparisons: of arms in pairs.
    """
    return render(
        "report.html.j2",
        title=_title(arms),
        arms=[_describe_arm(place, *arm) for place, arm in enumerate(arms)],
        forest=_forest(arms),
        histogram=_histogram(arms),
        latency=_latency(arms),
        comparisons=[_describe_comparison(compared) for compared in comparisons],
        failed=[_describe_failure(name, result) for name, _, results in arms for result in results if result.error][
            :MAX_ROWS
        ],
        max_rows=MAX_ROWS,
    )


def _title(arms: Sequence[ReportedArm]) -> str:
    subject = arms[0][1].subject
    return f"{subject.metric} of {subject.program} on {subject.dataset or 'examples'}"


def _describe_arm(place: int, name: str, record: EvaluationRecord, results: Sequence[ExampleResult]) -> dict[str, Any]:
    subject, used = record.subject, record.usage
    ended = f"{datetime.fromtimestamp(record.ended_at, UTC):%Y-%m-%d %H:%M} UTC"
    return {
        "place": place,
        "name": name,
        "score": f"{record.score:g}",
        "interval": f"{100 * record.interval.low:.1f} to {100 * record.interval.high:.1f} ({record.interval.method})",
        "count": record.count,
        "errors": record.errors,
        "latency": _milliseconds(record),
        "cost": "unknown" if used.cost_usd is None else f"${format_usd(used.cost_pico)}",
        "tokens": f"{used.input_tokens} in, {used.output_tokens} out",
        "calls": f"{used.calls} LM calls, {record.metric_usage.calls} of the metric",
        "subject": [
            ("evaluation", record.id),
            ("program", f"{subject.program}:{subject.version} ({record.key.program_digest[:12]})"),
            ("session", f"{subject.session} at {subject.token or 'no revision'} ({record.key.values_digest[:12]})"),
            (
                "dataset",
                f"{subject.dataset or 'examples'}:{subject.dataset_version} ({record.key.dataset_digest[:12]})",
            ),
            ("metric", f"{subject.metric_reference} on {subject.ran_on} ({record.key.metric_digest[:12]})"),
            ("run", f"{ended} by {record.author}" if record.author else ended),
        ],
    }


def _milliseconds(record: EvaluationRecord) -> str:
    if record.p50_ms is None or record.p95_ms is None:
        return "unknown"
    return f"{record.p50_ms:.0f} / {record.p95_ms:.0f} ms"


def _forest(arms: Sequence[ReportedArm]) -> dict[str, Any]:
    """Return the plot of each arm's mean with its interval."""
    bounds = [value for _, record, _ in arms for value in (record.interval.low, record.interval.high, record.mean)]
    axis = choose_axis([*bounds, 0.0, 1.0] if all(0 <= value <= 1 for value in bounds) else bounds)
    rows = [
        {
            "place": place,
            "name": name[:24],
            "y": 24 + 34 * place,
            "low": axis.place(record.interval.low),
            "mean": axis.place(record.mean),
            "high": axis.place(record.interval.high),
            "text": f"{record.score:g}",
        }
        for place, (name, record, _) in enumerate(arms)
    ]
    return {"rows": rows, "ticks": axis.ticks(), "height": 24 + 34 * len(arms), "end": axis.end}


def _histogram(arms: Sequence[ReportedArm]) -> dict[str, Any]:
    """Return the plot of how many examples have which score, the arms next to each other."""
    scored = [[score_of(each, record.key.failure_score) for each in results] for _, record, results in arms]
    values = [score for scores in scored for score in scores]
    axis = choose_axis([*values, 0.0, 1.0] if all(0 <= value <= 1 for value in values) else values)
    counts = [_count(scores, axis) for scores in scored]
    step = _round_step(max(count for each in counts for count in each))
    tallest = step * math.ceil(max(count for each in counts for count in each) / step)
    slot = (axis.end - axis.start) / _BINS
    bar = (slot - 6) / len(arms)
    bars = [
        {
            "place": place,
            "x": round(axis.start + bin_ * slot + 3 + place * bar, 2),
            "height": round(_PLOT_HEIGHT * count / tallest, 2),
            "width": round(bar, 2),
            "title": f"{arms[place][0]}: {count} examples",
        }
        for place, each in enumerate(counts)
        for bin_, count in enumerate(each)
        if count
    ]
    upward = PlotAxis(0, tallest, _PLOT_HEIGHT + 10, 10)
    return {
        "bars": bars,
        "ticks": axis.ticks(_BINS),
        "counts": upward.ticks(tallest // step),
        "base": _PLOT_HEIGHT + 10,
    }


def _round_step(count: int) -> int:
    """Return the distance of whole round numbers of which about four reach a count."""
    magnitude = 10 ** max(0, math.floor(math.log10(count / 4)) if count > 4 else 0)
    return next(factor * magnitude for factor in (1, 2, 5, 10) if 5 * factor * magnitude >= count)


def _count(scores: Sequence[float], axis: PlotAxis) -> list[int]:
    span = (axis.high - axis.low) or 1.0
    counts = [0] * _BINS
    for score in scores:
        counts[min(_BINS - 1, int((score - axis.low) / span * _BINS))] += 1
    return counts


def _latency(arms: Sequence[ReportedArm]) -> dict[str, Any] | None:
    """Return the plot of the share of examples that ended within a time; None if no time is known."""
    times = [sorted(each.run_ms for each in results if each.run_ms is not None) for _, _, results in arms]
    longest = max((values[-1] for values in times if values), default=0.0)
    if not longest:
        return None
    across, upward = PlotAxis(0, longest, LEFT, RIGHT), PlotAxis(0, 1, _PLOT_HEIGHT + 10, 10)
    lines = [
        {"place": place, "points": " ".join(_step(values, across.place, upward.place))}
        for place, values in enumerate(times)
        if values
    ]
    shares = [(position, f"{100 * float(text):g} %") for position, text in upward.ticks(4)]
    return {"lines": lines, "ticks": across.ticks(), "shares": shares, "base": _PLOT_HEIGHT + 10}


def _step(values: Sequence[float], across: Callable[[float], float], upward: Callable[[float], float]) -> list[str]:
    """Return the corners of a step function, a few hundred at most."""
    stride = max(1, len(values) // 200)
    points = [f"{across(0)},{upward(0)}"]
    before = 0.0
    for place in sorted({*range(0, len(values), stride), len(values) - 1}):
        points += [
            f"{across(values[place])},{upward(before)}",
            f"{across(values[place])},{upward((place + 1) / len(values))}",
        ]
        before = (place + 1) / len(values)
    return points


def _describe_comparison(compared: EvaluationComparison) -> dict[str, Any]:
    interval, flipped = compared.interval, compared.flipped
    differences = sorted(pair.difference for pair in compared.pairs)
    return {
        "baseline": _name(compared.baseline),
        "candidate": _name(compared.candidate),
        "difference": f"{100 * compared.difference:+.2f}",
        "interval": f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f} ({interval.method})",
        "verdict": compared.verdict,
        "paired": len(compared.pairs),
        "unpaired": compared.unpaired,
        "worse": sum(difference < 0 for difference in differences),
        "better": sum(difference > 0 for difference in differences),
        "plot": _difference_plot(differences),
        "flipped": [
            {
                "inputs": _describe_fields(pair.candidate.inputs),
                "labels": _describe_fields(pair.candidate.labels),
                "baseline": _side(pair.baseline),
                "candidate": _side(pair.candidate),
                "difference": f"{pair.difference:+.3g}",
                "is_worse": pair.difference < 0,
            }
            for pair in [*flipped[: MAX_ROWS // 2], *flipped[MAX_ROWS // 2 :][-(MAX_ROWS // 2) :]]
        ],
        "flips": len(flipped),
    }


def _difference_plot(differences: Sequence[float]) -> dict[str, Any]:
    """Return the plot of each example's difference, in their order."""
    most = max(map(abs, differences)) or 1.0
    upward = PlotAxis(-most, most, 130, 10)
    slot = (RIGHT - LEFT) / len(differences)
    bars = [
        {
            "x": round(LEFT + place * slot, 3),
            "y": min(upward.place(0), upward.place(difference)),
            "width": round(max(0.5, slot * 0.85), 3),
            "height": round(abs(upward.place(difference) - upward.place(0)), 2),
            "is_worse": difference < 0,
        }
        for place, difference in enumerate(differences)
        if difference
    ]
    return {"bars": bars, "zero": upward.place(0), "ticks": upward.ticks(2)}


def _describe_failure(name: str, result: ExampleResult) -> dict[str, str]:
    return {
        "arm": name,
        "inputs": _describe_fields(result.inputs),
        "error": result.error,
        "problem": result.problem[:_MAX_TEXT],
    }


def _side(result: ExampleResult) -> dict[str, str]:
    score = result.error if result.score is None else f"{float(result.score):.3g}"
    return {"score": score, "outputs": _describe_fields(result.outputs), "feedback": result.feedback[:_MAX_TEXT]}


def _name(record: EvaluationRecord) -> str:
    return f"{record.subject.program}:{record.subject.version} at {record.subject.token or 'no revision'}"


def _describe_fields(fields: Any) -> str:
    """Return fields as text, one a line."""
    lines = [
        f"{name}: {value if isinstance(value, str) else encode_json(value).decode()}" for name, value in fields.items()
    ]
    text = "\n".join(lines)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}… ({len(text)} characters)"
