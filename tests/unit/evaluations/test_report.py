"""The report of evaluations: what it shows, that it loads nothing, and that content is text in it."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from snakepit_bridge.costs.usage import LMUsage
from snakepit_bridge.evaluations.comparison import compare_results
from snakepit_bridge.evaluations.records import EvaluationKey, EvaluationRecord, EvaluationSubject, ExampleResult
from snakepit_bridge.evaluations.report import MAX_ROWS, ReportedArm, render_report

SUBJECT = EvaluationSubject("qa", 3, "default", "1.2", "golden", 1, "exact", "mypkg:exact", "workers")
SCRIPT = "<script>alert(1)</script>"


def arm(name: str, scores: Sequence[float | bool | None], **parts: str) -> ReportedArm:
    results = [
        ExampleResult(
            f"e{number}",
            score,
            "" if score is not None else "LMRefusedError",
            inputs={"question": f"question {number}"},
            labels={"answer": "42"},
            outputs={"answer": f"{name} {number}"},
            run_ms=100.0 + 10 * number,
            usage=LMUsage(calls=1, input_tokens=20, output_tokens=5, cost_pico=10**9),
        )
        for number, score in enumerate(scores)
    ]
    results[0] = replace(results[0], **parts)
    key = EvaluationKey(name, "values", "dataset", "metric")
    return name, EvaluationRecord.build(key, SUBJECT, results, started_at=0.0, ended_at=1e9), results


class Elements(HTMLParser):
    """Collects the elements of a page, and fails where they aren't nested."""

    VOID = frozenset({"meta", "br", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


@pytest.fixture
def page() -> str:
    generator = random.Random(1)
    before = arm("stable", [generator.random() for _ in range(40)], problem=SCRIPT)
    after = arm("latest", [*[generator.random() for _ in range(39)], None], feedback=SCRIPT)
    return render_report([before, after], [compare_results(*before[1:], *after[1:])])


def test_it_shows_figures_plots_and_examples_of_each_arm(page: str) -> None:
    elements = Elements(page).found
    assert sum(tag == "svg" for tag, _ in elements) == 4
    for text in (
        "exact of qa on golden",
        "stable",
        "latest",
        "40 flipped examples",
        "LMRefusedError",
        "$0.04",
        "mypkg:exact",
    ):
        assert text in page


def test_it_loads_nothing_and_runs_no_script(page: str) -> None:
    elements = Elements(page).found
    assert not {tag for tag, _ in elements} & {"script", "link", "img", "iframe", "object"}
    assert not [attrs for _, attrs in elements if attrs.keys() & {"src", "href", "onload", "onclick"}]
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page


def test_what_examples_say_is_text(page: str) -> None:
    assert SCRIPT not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize(
    "scores", [[True], [False, True], [0.5, 0.5, 0.5], [-3.0, 40.0, 7.5], [None, None], [1e-9, 2e-9]]
)
def test_any_scores_can_be_plotted(scores: list[float | bool | None]) -> None:
    shown = arm("only", scores)
    page = render_report([shown], [compare_results(*shown[1:], *shown[1:])])
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", page)
    assert Elements(page).found


def test_places_are_within_the_picture(page: str) -> None:
    for tag, attrs in Elements(page).found:
        if tag in ("rect", "circle", "line"):
            for name in {"x", "y", "cx", "cy", "x1", "x2", "y1", "y2"} & attrs.keys():
                assert -1 <= float(attrs[name] or "nan") <= 721
            assert float(attrs.get("height") or 0) >= 0


def test_long_tables_are_cut() -> None:
    shown = arm("only", [None] * (MAX_ROWS + 50))
    assert render_report([shown]).count("LMRefusedError") == MAX_ROWS
