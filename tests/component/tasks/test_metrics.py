"""Metrics on a worker: what they get, what their results say, and what is refused before an LM is called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Mapping
from typing import Any

import dspy
import pytest

from config.settings import FleetSettings
from snakepit_bridge.evaluations.metric import MetricSpec, PinnedMetric
from snakepit_bridge.exceptions import (
    InputError,
    LMUnavailableError,
    MetricError,
    ProgramNotFoundError,
)
from snakepit_bridge.programs.build import serialize_module
from snakepit_bridge.protocol.messages import PredictionRequest, Result
from snakepit_bridge.testing import AskedQuestion, RecordingLM
from tasks.prediction import run_prediction
from tasks.requests import Delivery
from tasks.runtime import Runtime
from tests.harness.stage import echo
from workers.runtime import build_runtime

DELIVERY = Delivery("task", "worker@host", 1, 0.0)
MODULE = "tests.harness.metrics"
FIELDS = {"expected": "labels.answer", "answer": "outputs.answer"}


def answer(ask: AskedQuestion) -> Mapping[str, Any]:
    """Answers with the question, and grades the same each time."""
    values = {"grade": "0.25", "score": "0.75", "why": "nearly", **echo(ask)}
    return {name: "nearly" if name == "why" else value for name, value in values.items()}


@pytest.fixture
def lm() -> Generator[RecordingLM]:
    with RecordingLM(answer) as server:
        yield server


@pytest.fixture
async def runtime(worker_settings: FleetSettings) -> AsyncIterator[Runtime]:
    settings = worker_settings.model_copy(update={"allowed_packages": (MODULE,)})
    runtime = build_runtime(settings)
    for name, signature in {"qa": "question -> answer", "judge": "expected, answer -> score: float, why"}.items():
        await runtime.registry.register(name, serialize_module(dspy.Predict(signature), program=name))
    yield runtime
    await runtime.aclose()


async def pin(runtime: Runtime, metric: str | MetricSpec) -> PinnedMetric:
    spec = MetricSpec.parse(metric)
    content = "" if spec.program else (await runtime.metrics.load(spec)).content
    return PinnedMetric(spec, content, "default" if spec.program else "")


async def evaluate(runtime: Runtime, metric: str | MetricSpec, labels: Mapping[str, Any] | None = None) -> Result:
    pinned = await pin(runtime, metric)
    example = {"inputs": {"question": "q1"}, "labels": {"answer": "answer of q1"} if labels is None else labels}
    return await run_prediction(runtime, PredictionRequest("qa", example, metric=pinned.encode()), DELIVERY)


@pytest.mark.parametrize(
    ("metric", "outcome"),
    [
        (f"{MODULE}:exact", {"score": True}),
        (f"{MODULE}:awaited", {"score": True}),
        (f"{MODULE}:closeness", {"score": 1.0}),
        (MetricSpec(f"{MODULE}:closeness", arguments={"scale": 0.5}), {"score": 0.5}),
        (MetricSpec(f"{MODULE}:Threshold", arguments={"characters": 100}), {"score": False}),
        (f"{MODULE}:explained", {"score": True, "feedback": "expected answer of q1"}),
        ("answer_exact_match", {"score": True}),
    ],
)
async def test_a_metric_scores_the_prediction_beside_the_example(
    runtime: Runtime, metric: str | MetricSpec, outcome: dict[str, Any]
) -> None:
    result = await evaluate(runtime, metric)
    assert result.evaluation == outcome
    assert (result.inputs, result.outputs) == ({"question": "q1"}, {"answer": "answer of q1"})
    assert Result.decode(result.encode()).evaluation == outcome


@pytest.mark.parametrize(
    ("name", "error", "problem"),
    [
        ("raising", "ValueError", "no metric today"),
        ("not_a_number", "MetricError", "Metric 'not_a_number' can't score: it returned float nan"),
        ("text", "MetricError", "Metric 'text' can't score: it returned str 'good'"),
        ("leaving", "SystemExit", "3"),
    ],
)
async def test_what_goes_wrong_while_scoring_is_said_and_the_prediction_stays(
    runtime: Runtime, name: str, error: str, problem: str
) -> None:
    result = await evaluate(runtime, f"{MODULE}:{name}")
    assert result.evaluation["error"] == error
    assert problem in result.evaluation["problem"]
    assert result.outputs == {"answer": "answer of q1"}


async def test_a_missing_label_is_the_metrics_own_error(runtime: Runtime) -> None:
    result = await evaluate(runtime, f"{MODULE}:exact", labels={})
    assert result.evaluation["error"] == "AttributeError"


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        (f"{MODULE}:missing", "can't be imported here"),
        ("os:getcwd", "isn't in an allowed package"),
        (f"{MODULE}:CONSTANT", "is only imported there|can't be called"),
        (f"{MODULE}:without_parameters", "can't be called with an example and a prediction"),
        (f"{MODULE}:Threshold", "can't be built: TypeError"),
        (MetricSpec(f"{MODULE}:exact", arguments={"frac": 1}), "unexpected keyword argument 'frac'"),
        ("dspy.evaluate:normalize_text", "can't be called with an example and a prediction"),
    ],
)
async def test_a_metric_that_can_not_be_used_costs_no_lm_call(
    runtime: Runtime, lm: RecordingLM, metric: str | MetricSpec, problem: str
) -> None:
    with pytest.raises(MetricError, match=problem):
        await runtime.metrics.load(MetricSpec.parse(metric))
    pinned = PinnedMetric(MetricSpec.parse(metric), "")
    request = PredictionRequest("qa", {"inputs": {"question": "q1"}, "labels": {}}, metric=pinned.encode())
    with pytest.raises(MetricError, match=problem):
        await run_prediction(runtime, request, DELIVERY)
    assert lm.requests == []


async def test_a_worker_with_another_source_refuses_to_score(runtime: Runtime, lm: RecordingLM) -> None:
    pinned = PinnedMetric(MetricSpec.parse(f"{MODULE}:exact"), "another digest")
    request = PredictionRequest("qa", {"inputs": {"question": "q1"}, "labels": {}}, metric=pinned.encode())
    with pytest.raises(MetricError, match="another version of its source"):
        await run_prediction(runtime, request, DELIVERY)
    assert lm.requests == []


@pytest.mark.parametrize(
    "example", ["text", {"question": "q1"}, {"inputs": {"question": "q"}}, {"inputs": [], "labels": {}}]
)
async def test_a_request_with_a_metric_has_an_example(runtime: Runtime, example: Any) -> None:
    request = PredictionRequest("qa", example, metric=(await pin(runtime, f"{MODULE}:exact")).encode())
    with pytest.raises(InputError, match="an object of 'inputs' and 'labels'"):
        await run_prediction(runtime, request, DELIVERY)


async def test_the_lm_calls_of_a_metric_are_the_predictions_and_counted_apart(
    runtime: Runtime, lm: RecordingLM
) -> None:
    result = await evaluate(runtime, f"{MODULE}:Graded")
    assert (result.evaluation["score"], result.evaluation["usage"]["calls"]) == (0.25, 1)
    assert result.provenance["lm_usage"]["demo"]["calls"] == 2 == len(lm.requests)


async def test_a_program_judges_by_the_fields_that_it_is_given(runtime: Runtime, lm: RecordingLM) -> None:
    result = await evaluate(runtime, MetricSpec("program:judge:1", inputs=FIELDS, feedback="why"))
    assert {name: result.evaluation[name] for name in ("score", "feedback")} == {"score": 0.75, "feedback": "nearly"}
    assert lm.requests[-1].inputs == {"expected": "answer of q1", "answer": "answer of q1"}
    assert result.evaluation["usage"]["calls"] == 1


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        (MetricSpec("program:judge", inputs={"expected": "labels.gold"}), r"there is no labels.gold"),
        (MetricSpec("program:judge", inputs={"expected": "labels.answer"}), "'answer'.*missing|missing.*'answer'"),
        (MetricSpec("program:judge", inputs=FIELDS, output="mark"), "no output 'mark'"),
    ],
)
async def test_a_judge_that_does_not_fit_is_an_error_of_the_metric(
    runtime: Runtime, lm: RecordingLM, metric: MetricSpec, problem: str
) -> None:
    result = await evaluate(runtime, metric)
    assert result.outputs == {"answer": "answer of q1"}
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(result.evaluation["problem"])


async def test_a_judge_that_is_not_registered_costs_no_lm_call(runtime: Runtime, lm: RecordingLM) -> None:
    with pytest.raises(ProgramNotFoundError):
        await evaluate(runtime, MetricSpec("program:nobody", inputs={"answer": "outputs.answer"}))
    assert lm.requests == []


async def test_a_metric_whose_lm_is_away_has_the_prediction_tried_again(runtime: Runtime, lm: RecordingLM) -> None:
    lm.fail(1, status=503, retry_after_s=20, containing="answer of q1")
    with pytest.raises(LMUnavailableError):
        await evaluate(runtime, f"{MODULE}:Graded")


async def test_a_metric_whose_lm_refuses_is_an_error_of_the_metric(runtime: Runtime, lm: RecordingLM) -> None:
    lm.fail(1, status=400, containing="answer of q1")
    result = await evaluate(runtime, f"{MODULE}:Graded")
    assert result.evaluation["error"] == "LMRefusedError"
    assert result.outputs == {"answer": "answer of q1"}
