"""The report of an optimization: its figures and plots, also of one that has barely begun. It loads nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from snakepit_bridge.evaluations.optimization_report import MAX_TRIALS, render_optimization
from snakepit_bridge.evaluations.optimizations import OptimizationRecord, TrialRecord


def trial(number: int, score: float, examples: int = 10) -> TrialRecord:
    spent = 10 * (number - 1)
    return TrialRecord(number, f"{number:064x}", score, examples, spent, f"{spent / 100}", 1.0, 2, {"p": "Add <b>."})


TRIALS = (trial(1, 0.25), trial(2, 0.5), trial(3, 1.0, examples=3), trial(4, 0.375), trial(5, 0.75))
RECORD = OptimizationRecord(
    "run", "qa:3", TRIALS[0].digest, "COPRO", "exact", "train:1", "val:2", "default", "1.7", TRIALS, 50, "0.5", "0.1",
    9.0, TRIALS[4].digest, version=4, label="candidate", author="ann",
)  # fmt: skip


def plots(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def points(plot: ElementTree.Element) -> list[tuple[float, float]]:
    [line] = plot.findall("polyline")
    pairs = [pair.split(",") for pair in line.attrib["points"].split()]
    return [(float(x), float(y)) for x, y in pairs]


def test_it_tells_what_was_found_and_what_it_cost() -> None:
    html = render_optimization(RECORD)
    for text in (
        "25.0 % → 75.0 %", "+50.0 points", "The best program is version 4, labelled candidate.", "train:1", "val:2",
        "0.5 USD, 0.1 of it for the optimizer", "Add &lt;b&gt;.", "Cost in USD", "Hollow trials",
    ):  # fmt: skip
        assert text in html
    assert not re.search(r"<script|src=|href=|url\(", html)


def test_the_line_is_the_best_score_so_far_of_whole_evaluations() -> None:
    trajectory, costs = plots(render_optimization(RECORD))
    dots = trajectory.findall("circle")
    assert [dot.attrib["class"] for dot in dots] == ["a1", "a0", "partial", "a0", "better"]
    heights = [float(dot.attrib["cy"]) for dot in dots]
    line = points(trajectory)
    assert [y for _, y in line] == [
        heights[0], heights[0], heights[1], heights[1], heights[4], heights[4],
    ]  # fmt: skip
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    spent = [y for _, y in points(costs)]
    assert spent == sorted(spent, reverse=True)
    assert len(spent) == len(TRIALS) + 1


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"trials": (), "version": None, "best": ""}, "No trial has a score yet."),
        ({"trials": TRIALS[:1], "version": None}, "It goes on, or ended before a program was registered."),
        ({"best": TRIALS[0].digest, "usd": "0", "own_usd": "0"}, "Nothing better was found than qa:3."),
        ({"stopped": "50 predictions were made"}, "50 predictions were made"),
    ],
)
def test_one_that_has_little_to_tell_says_so(changed: dict[str, object], text: str) -> None:
    html = render_optimization(replace(RECORD, **changed))  # type: ignore[arg-type]
    assert text in html
    for plot in plots(html):
        assert all(x == x for x, _ in points(plot))
    if "usd" in changed:
        assert "Predictions" in html


def test_of_very_many_trials_the_first_and_the_best_are_shown() -> None:
    trials = tuple(trial(number, number / 2_000) for number in range(1, 1_001))
    html = render_optimization(replace(RECORD, trials=trials, best=trials[-1].digest))
    assert f"{1_000 - MAX_TRIALS} more trials are left out." in html
    assert html.count("<circle") == MAX_TRIALS
    assert "trial 1000:" in html
