"""Metrics by reference, their versions, and what is refused before anything runs."""

from __future__ import annotations

import functools
from typing import Any

import dspy
import pytest
from dspy.evaluate import SemanticF1, answer_exact_match

from snakepit_bridge.evaluations.metric import MetricSpec, PinnedMetric
from snakepit_bridge.evaluations.metric_source import digest_source
from snakepit_bridge.exceptions import MetricError


def test_a_reference_says_the_name_and_names_of_dspy_may_stand_alone() -> None:
    assert MetricSpec.parse("mypkg.metrics:exact").name == "exact"
    assert MetricSpec.parse("answer_exact_match").reference == "dspy.evaluate:answer_exact_match"
    judge = MetricSpec.parse(MetricSpec("program:my-judge@prod", inputs={"answer": "outputs.answer"}))
    assert (judge.name, judge.program) == ("my_judge", "my-judge@prod")


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        ("mypkg.exact", "neither package.module:name nor program:NAME"),
        ("program:judge", "inputs map each field"),
        (MetricSpec("program:judge", inputs={"answer": "answer"}), "inputs map each field"),
        (MetricSpec("mypkg:exact", inputs={"a": "outputs.a"}), "only a judging program"),
        (MetricSpec("mypkg:exact", name="9 lives"), "a metric's name is"),
        (MetricSpec("mypkg:exact", arguments={"a": object()}), "JSON values"),
    ],
)
def test_what_can_be_no_metric_is_refused(metric: str | MetricSpec, problem: str) -> None:
    with pytest.raises(MetricError, match=problem):
        MetricSpec.parse(metric)


def test_a_judge_gets_the_fields_that_it_names() -> None:
    judge = MetricSpec("program:j", inputs={"q": "inputs.question", "gold": "labels.answer", "got": "outputs.answer"})
    selected = judge.select({"question": "6 x 7?"}, {"answer": "42"}, {"answer": "41"})
    assert selected == {"q": "6 x 7?", "gold": "42", "got": "41"}
    with pytest.raises(MetricError, match=r"there is no labels.answer, only \['note'\]"):
        judge.select({"question": "?"}, {"note": ""}, {"answer": ""})


def test_a_pinned_metric_crosses_a_message() -> None:
    pinned = PinnedMetric(
        MetricSpec.parse(MetricSpec("a.b:c", arguments={"frac": 0.5})), "digest", "s", "1.2", "values"
    )
    assert PinnedMetric.decode(pinned.encode()) == pinned
    for message in ("text", {"reference": 3}, {"reference": "a:b", "arguments": []}):
        with pytest.raises(MetricError):
            PinnedMetric.decode(message)


def test_the_digest_changes_with_whatever_changes_scores_and_with_nothing_else() -> None:
    plain = PinnedMetric(MetricSpec.parse("a.b:c"), "v1")
    assert plain.digest == PinnedMetric(MetricSpec.parse(MetricSpec("a.b:c", name="other")), "v1").digest
    others = [
        PinnedMetric(MetricSpec.parse("a.b:c"), "v2"),
        PinnedMetric(MetricSpec.parse("a.b:d"), "v1"),
        PinnedMetric(MetricSpec.parse(MetricSpec("a.b:c", arguments={"frac": 1})), "v1"),
        PinnedMetric(MetricSpec.parse(MetricSpec("a.b:c", version="1")), "v1"),
    ]
    assert len({plain.digest, *(other.digest for other in others)}) == 5
    versioned = MetricSpec.parse(MetricSpec("a.b:c", version="1"))
    assert PinnedMetric(versioned, "v1").digest == PinnedMetric(versioned, "v2").digest


def threshold(limit: float) -> Any:
    def metric(example: Any, prediction: Any) -> bool:
        return len(prediction.answer) > limit

    return metric


class Graded:
    """A metric with state."""

    def __init__(self, scale: Any) -> None:
        self.scale = scale

    def __call__(self, example: Any, prediction: Any) -> float:
        """Return a score."""
        return self.scale


def test_the_version_of_code_covers_its_source_and_what_it_was_given() -> None:
    digests = {
        digest_source(metric, name="m")
        for metric in (
            answer_exact_match,
            functools.partial(answer_exact_match, frac=0.5),
            functools.partial(answer_exact_match, frac=0.6),
            threshold(1),
            threshold(2),
            Graded(1),
            Graded(2),
            SemanticF1(),
            SemanticF1(decompositional=True),
            SemanticF1,
        )
    }
    assert len(digests) == 10
    assert digest_source(threshold(1), name="m") == digest_source(threshold(1), name="m")
    assert digest_source(SemanticF1(), name="m") == digest_source(SemanticF1(), name="m")
    assert digest_source(Graded(1).__call__, name="m") != digest_source(Graded(2).__call__, name="m")


def test_code_without_a_lasting_form_is_to_be_given_a_version() -> None:
    with pytest.raises(MetricError, match="it holds a object, which has no digest; give it a version"):
        digest_source(Graded(object()), name="graded")
    with pytest.raises(MetricError, match="its source can't be read; give it a version"):
        digest_source(max, name="metric")


def typed(body: str) -> Any:
    """Return a metric as if it was typed at a prompt, where there is no source to read."""
    names: dict[str, Any] = {}
    exec(f"def metric(example, prediction):\n    {body}", names)  # noqa: S102
    return names["metric"]


def test_a_function_that_was_typed_at_a_prompt_has_the_version_of_its_code() -> None:
    bodies = ("return 1", "return 2", "return prediction.answer in {'a', 'b'}", "return [x for x in example] == [1]")
    assert len({digest_source(typed(body), name="m") for body in bodies}) == 4
    assert digest_source(typed(bodies[2]), name="m") == digest_source(typed(bodies[2]), name="m")


def test_a_module_of_dspy_has_its_demos_in_its_version() -> None:
    taught = dspy.Predict("question -> score: float")
    before = digest_source(taught, name="m")
    taught.demos = [dspy.Example(question="?", score=1.0)]
    assert digest_source(taught, name="m") != before
