"""The steps of a prediction: which predictor was called with what, what it gave, and what that call alone cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import dspy
import pytest

from config.settings import FleetSettings
from snakepit_bridge.programs.build import serialize_module
from snakepit_bridge.protocol.messages import PredictionRequest, Result
from snakepit_bridge.testing import RecordingLM
from tasks.prediction import run_prediction
from tasks.requests import Delivery
from tasks.runtime import Runtime
from tests.harness import programs
from workers.runtime import build_runtime

DELIVERY = Delivery("task", "worker@host", 1, 0.0)
QUESTION = {"question": "why?"}


@pytest.fixture
async def runtime(worker_settings: FleetSettings) -> AsyncIterator[Runtime]:
    settings = worker_settings.model_copy(update={"allowed_packages": ["tests.harness"]})
    runtime = build_runtime(settings)
    for name, module in (
        ("one", dspy.ChainOfThought("question -> answer")),
        ("twice", programs.Twice()),
        ("parallel", programs.Parallel()),
        ("best", dspy.BestOfN(dspy.Predict("question -> answer"), N=2, reward_fn=programs.reward, threshold=2.0)),
    ):
        await runtime.registry.register(name, serialize_module(module, program=name))
    yield runtime
    await runtime.aclose()


async def traced(runtime: Runtime, program: str) -> list[dict[str, Any]]:
    """Run a program, and return its steps as a client reads them."""
    result = await run_prediction(runtime, PredictionRequest(program, QUESTION, trace=True), DELIVERY)
    return [dict(step) for step in Result.decode(result.encode()).trace]


async def test_a_step_names_its_predictor_its_values_and_its_usage(runtime: Runtime, lm: RecordingLM) -> None:
    [step] = await traced(runtime, "one")
    assert (step["predictor"], step["inputs"]) == ("predict", QUESTION)
    assert set(step["outputs"]) == {"reasoning", "answer"}
    [usage] = step["usage"].values()
    assert usage["prompt_tokens"] > 0
    assert usage["completion_tokens"] > 0


async def test_each_step_has_the_usage_of_its_own_call(runtime: Runtime, lm: RecordingLM) -> None:
    result = await run_prediction(runtime, PredictionRequest("twice", QUESTION, trace=True), DELIVERY)
    first, second = result.trace
    assert second["inputs"] == {"question": first["outputs"]["answer"]}
    [total] = result.provenance["usage"].values()
    each = [next(iter(step["usage"].values()))["prompt_tokens"] for step in (first, second)]
    assert sum(each) == total["prompt_tokens"]
    assert all(each)


async def test_calls_at_the_same_time_each_have_their_own(runtime: Runtime, lm: RecordingLM) -> None:
    steps = await traced(runtime, "parallel")
    assert [step["predictor"] for step in steps] == ["ask", "ask"]
    assert all(len(step["usage"]) == 1 for step in steps)


async def test_predictors_that_a_call_copies_are_left_out_as_dspys_optimizers_leave_them_out(
    runtime: Runtime, lm: RecordingLM
) -> None:
    assert await traced(runtime, "best") == []
    assert len(lm.requests) == 2


async def test_without_a_request_for_it_there_is_no_trace(runtime: Runtime, lm: RecordingLM) -> None:
    result = await run_prediction(runtime, PredictionRequest("one", QUESTION), DELIVERY)
    assert "trace" not in result.encode()
