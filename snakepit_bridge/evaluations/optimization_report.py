"""The report of an optimization as one HTML file: what was tried, how it did, and what it cost. It loads nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from snakepit_bridge.evaluations.optimizations import OptimizationRecord, TrialRecord
from snakepit_bridge.evaluations.plots import LEFT, RIGHT, PlotAxis, render

MAX_TRIALS = 500
"""The most trials that are shown; the first ones and the best are among them."""

_TOP, _BOTTOM = 14.0, 214.0
_COST_TOP, _COST_BOTTOM = 10.0, 130.0
_SMALLEST, _LARGEST = 3.0, 6.5
_TICKS = 8


def render_optimization(record: OptimizationRecord) -> str:
    """Return the report of an optimization as HTML, also of one that goes on.

    Args:
        record: with at least one trial, or without any.
    """
    trials = _choose(record)
    return render(
        "optimization_report.html.j2",
        title=f"{record.optimizer or 'Optimization'} of {record.program}",
        record=record,
        outcome=_outcome(record),
        subject=_subject(record),
        trajectory=_trajectory(record, trials) if trials else None,
        costs=_costs(record, trials) if trials else None,
        rows=[_row(record, trial) for trial in trials],
        omitted=len(record.trials) - len(trials),
    )


def _choose(record: OptimizationRecord) -> list[TrialRecord]:
    """Return the trials that are shown, in their order."""
    if len(record.trials) <= MAX_TRIALS:
        return list(record.trials)
    best = sorted(record.trials, key=lambda trial: trial.score, reverse=True)[: MAX_TRIALS // 2]
    chosen = {trial.number for trial in (*record.trials[: MAX_TRIALS // 2], *best)}
    return [trial for trial in record.trials if trial.number in chosen]


def _outcome(record: OptimizationRecord) -> dict[str, str]:
    """Return the headline: the score at the start and at the end, and what became of it."""
    before, after = record.parent_score, record.score
    difference = "" if before is None or after is None else f"{100 * (after - before):+.1f}"
    if record.version is None:
        what = "It goes on, or ended before a program was registered."
    elif record.best == record.digest:
        what = f"Nothing better was found than {record.program}."
    else:
        labelled = f", labelled {record.label}" if record.label else ""
        what = f"The best program is version {record.version}{labelled}."
    return {"before": _percent(before), "after": _percent(after), "difference": difference, "what": what}


def _subject(record: OptimizationRecord) -> list[tuple[str, str]]:
    money = f"{record.usd} USD"
    if Decimal(record.own_usd):
        money += f", {record.own_usd} of it for the optimizer's own LM calls"
    rows = [
        ("run", record.run_id),
        ("started by", record.author),
        ("metric", record.metric),
        ("training set", record.trainset),
        ("validation set", record.valset),
        ("session", f"{record.session} at {record.token or 'no revision'}"),
        ("predictions", str(record.predictions)),
        ("cost", money),
        ("time", f"{record.elapsed_s:.0f} s"),
        ("ended early", record.stopped),
    ]
    return [(name, value) for name, value in rows if value]


def _trajectory(record: OptimizationRecord, trials: Sequence[TrialRecord]) -> dict[str, Any]:
    """Return the plot of each trial's score, with the best so far as a line."""
    across = _across(trials)
    scores = [trial.score for trial in trials]
    low, high = min(0.0, *scores), max(1.0, *scores)
    upward = PlotAxis(low, high, _BOTTOM, _TOP)
    comparable = {trial.number for trial in record.comparable}
    most = max(trial.examples for trial in trials)
    dots = [
        {
            "x": across.place(trial.number),
            "y": upward.place(trial.score),
            "r": round(_SMALLEST + (_LARGEST - _SMALLEST) * trial.examples / most, 2),
            "is_comparable": trial.number in comparable,
            "is_best": trial.digest == record.best,
            "is_parent": trial.digest == record.digest,
            "title": f"trial {trial.number}: {_percent(trial.score)} on {trial.examples} examples",
        }
        for trial in trials
    ]
    return {
        "dots": dots,
        "line": _best_so_far([trial for trial in trials if trial.number in comparable], across, upward),
        "ticks": _whole_ticks(trials, across),
        "scores": [(y, f"{100 * float(text):g} %") for y, text in upward.ticks(4)],
        "base": _BOTTOM,
        "has_minibatches": len(comparable) < len(record.trials),
    }


def _best_so_far(trials: Sequence[TrialRecord], across: PlotAxis, upward: PlotAxis) -> str:
    """Return the corners of the line of the best score so far, up to the right edge."""
    points: list[str] = []
    best: float | None = None
    for trial in trials:
        x = across.place(trial.number)
        if best is None:
            points.append(f"{x},{upward.place(trial.score)}")
        elif trial.score > best:
            points += [f"{x},{upward.place(best)}", f"{x},{upward.place(trial.score)}"]
        best = trial.score if best is None else max(best, trial.score)
    return " ".join(points) if best is None else " ".join([*points, f"{across.end},{upward.place(best)}"])


def _costs(record: OptimizationRecord, trials: Sequence[TrialRecord]) -> dict[str, Any]:
    """Return the plot of what was spent when each trial began: money if its LMs have prices, otherwise predictions."""
    is_priced = Decimal(record.usd) > 0
    spent = [float(trial.usd) if is_priced else float(trial.predictions) for trial in trials]
    total = float(record.usd) if is_priced else float(record.predictions)
    across = _across(trials)
    upward = PlotAxis(0.0, _round_up(max(total, *spent)), _COST_BOTTOM, _COST_TOP)
    points = [f"{across.place(trial.number)},{upward.place(value)}" for trial, value in zip(trials, spent, strict=True)]
    return {
        "title": "Cost in USD" if is_priced else "Predictions",
        "line": " ".join([*points, f"{across.end},{upward.place(total)}"]),
        "amounts": upward.ticks(4),
        "ticks": _whole_ticks(trials, across),
        "base": _COST_BOTTOM,
    }


def _round_up(amount: float) -> float:
    """Return the least amount of which the quarters are round too; 1 for nothing."""
    if amount <= 0:
        return 1.0
    magnitude = 10.0 ** math.floor(math.log10(amount))
    return next(factor * magnitude for factor in (1, 2, 4, 8, 10) if factor * magnitude >= amount)


def _across(trials: Sequence[TrialRecord]) -> PlotAxis:
    """Return the scale of trials' numbers, with room at its end for the last one."""
    return PlotAxis(trials[0].number, trials[-1].number + 0.6, LEFT + 10, RIGHT)


def _whole_ticks(trials: Sequence[TrialRecord], across: PlotAxis) -> list[tuple[float, str]]:
    first, last = trials[0].number, trials[-1].number
    step = max(1, -(-(last - first) // _TICKS))
    return [(across.place(number), str(number)) for number in range(first, last + 1, step)]


def _row(record: OptimizationRecord, trial: TrialRecord) -> dict[str, Any]:
    return {
        "number": trial.number,
        "score": _percent(trial.score),
        "examples": trial.examples,
        "demos": trial.demos,
        "predictions": trial.predictions,
        "usd": trial.usd,
        "elapsed": f"{trial.elapsed_s:.0f} s",
        "digest": trial.digest[:12],
        "instructions": sorted((trial.instructions or {}).items()),
        "is_best": trial.digest == record.best,
        "is_parent": trial.digest == record.digest,
    }


def _percent(score: float | None) -> str:
    return "?" if score is None else f"{100 * score:.1f} %"
