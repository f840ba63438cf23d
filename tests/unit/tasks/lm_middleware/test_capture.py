"""Capturing LM calls: what each asked and was answered, on predictions that are captured alone."""

from __future__ import annotations

import asyncio

import pytest
from dspy.lm15 import Response, ServerError

from snakepit_bridge.costs.usage import LMUsage
from snakepit_bridge.lm.captured_calls import CallCapture, CapturedCall, CapturedCalls
from snakepit_bridge.lm.engine import LMCall
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from tasks.lm_middleware.capture import CaptureCalls
from tasks.lm_middleware.costs import record_charge
from tasks.lm_middleware.middleware import PredictionCall
from tests.unit.tasks.callers import request, response, scope_of

PROFILES = LMProfiles([LMProfile("smart", "openai/smart", fallbacks=("local",)), LMProfile("local", "openai/local")])
SPENT = LMUsage(calls=1, input_tokens=3, output_tokens=2, cost_pico=10)


def calling(capture: CallCapture | None) -> PredictionCall:
    engine = PROFILES.get_engine("smart")
    return PredictionCall(scope_of(capture=capture), LMCall(engine, request("why?", system="Be brief.")), engine)


def captured(capture: CallCapture) -> CapturedCall:
    [found] = CapturedCalls.decode("task", capture.encode()).calls
    return found


async def test_a_call_is_captured_with_prompt_answer_and_what_its_requests_used() -> None:
    capture = CallCapture("task", "s")

    async def provider(call: PredictionCall) -> Response:
        record_charge(call, SPENT)
        record_charge(call, SPENT)
        return response()

    await CaptureCalls()(calling(capture), provider)
    found = captured(capture)
    assert found.messages == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "why?"}]},
    ]
    assert found.answer == {
        "role": "assistant", "parts": [{"type": "text", "content": "because"}], "finish_reason": "stop"
    }  # fmt: skip
    assert (found.profile, found.model, found.usage) == ("smart", "demo", SPENT + SPENT)


async def test_a_call_that_a_fallback_answered_names_its_profile() -> None:
    capture = CallCapture("task", "s")

    async def provider(call: PredictionCall) -> Response:
        call.charges.append(SPENT)
        call.usage["local"] = SPENT
        return response()

    await CaptureCalls()(calling(capture), provider)
    assert captured(capture).profile == "local"


@pytest.mark.parametrize(
    ("error", "kind"), [(ServerError("down", status=503), "server"), (asyncio.CancelledError(), "cancelled")]
)
async def test_a_call_that_failed_is_captured_with_the_kind_of_its_error_alone(error: BaseException, kind: str) -> None:
    capture = CallCapture("task", "s")

    async def provider(_: PredictionCall) -> Response:
        raise error

    with pytest.raises(type(error)):
        await CaptureCalls()(calling(capture), provider)
    found = captured(capture)
    assert (found.error, found.answer, found.model, found.usage) == (kind, None, "openai/smart", LMUsage())


async def test_nothing_is_captured_unless_the_prediction_is() -> None:
    async def provider(_: PredictionCall) -> Response:
        return response()

    call = calling(None)
    assert (await CaptureCalls()(call, provider)).message == response().message
    assert call.scope.capture is None
