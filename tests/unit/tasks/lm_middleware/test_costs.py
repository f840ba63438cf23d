"""Costs of LM calls: charged to the profile that answered, also where a failed request was billed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from dspy.lm15 import LM15Error, Message, Response, ServerError, Usage

from snakepit_bridge.costs.usage import LMUsage, Price
from snakepit_bridge.lm.engine import LMCall
from snakepit_bridge.lm.failures import find_failure, find_refusal, find_usage, report_usage
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.instruments import NO_LABELS, Labels, Meter
from snakepit_bridge.telemetry.metrics import COST, UNPRICED_CALLS, Metric
from tasks.lm_middleware.costs import CountCosts
from tasks.lm_middleware.middleware import PredictionCall
from tests.unit.tasks.callers import request, response, scope_of

PRICE = Price.of(input=1, output=10)
COSTS = 3 * 10**6 + 2 * 10**7
PROFILES = LMProfiles(
    [
        LMProfile("smart", "openai/smart", price=PRICE, models=("openai/mini", "openai/odd"),
                  model_prices={"openai/mini": Price.of(input=0, output=0)}, fallbacks=("local",)),
        LMProfile("local", "openai/local"),
    ]
)  # fmt: skip


class Recorded(Meter):
    """Writes down what it is given."""

    enabled = True

    def __init__(self) -> None:
        self.said: list[tuple[Metric, float, Labels]] = []

    def add(self, metric: Metric, amount: float = 1, labels: Labels = NO_LABELS) -> None:
        self.said.append((metric, amount, labels))


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    meter = Recorded()
    monkeypatch.setattr(TELEMETRY, "meter", meter)
    return meter


def call(name: str = "smart") -> PredictionCall:
    engine = PROFILES.get_engine(name)
    return PredictionCall(scope_of(), LMCall(engine, request()), engine)


async def run(prediction_call: PredictionCall, outcome: Response | LM15Error) -> None:
    async def provider(_: PredictionCall) -> Response:
        if isinstance(outcome, Response):
            return outcome
        raise outcome

    await CountCosts(PROFILES)(prediction_call, provider)


async def test_a_call_is_charged_by_the_price_of_its_profile(meter: Recorded) -> None:
    prediction_call = call()
    await run(prediction_call, response())
    charged = LMUsage(1, 0, 3, 0, 2, 0, COSTS)
    assert (prediction_call.charges, prediction_call.scope.spending.by_profile) == ([charged], {"smart": charged})
    labels = {"dspex.program": "qa", "dspex.profile": "smart", "dspex.session": "s"}
    assert meter.said == [(COST, COSTS / 10**12, labels)]


async def test_a_fallback_is_charged_to_the_profile_that_answered(meter: Recorded) -> None:
    prediction_call = replace(call(), engine=PROFILES.get_engine("local"))
    await run(prediction_call, response())
    assert prediction_call.scope.spending.by_profile == {"local": LMUsage(1, 1, 3, 0, 2)}
    assert meter.said == [(UNPRICED_CALLS, 1, {"dspex.profile": "local"})]


@pytest.mark.parametrize(("model", "unpriced"), [("openai/mini", 0), ("openai/odd", 1)])
async def test_another_model_of_a_profile_has_its_own_price_or_none(model: str, unpriced: int) -> None:
    prediction_call = call(model)
    await run(prediction_call, response())
    assert prediction_call.scope.spending.by_profile == {"smart": LMUsage(1, unpriced, 3, 0, 2)}


async def test_a_failed_request_is_charged_with_what_the_provider_reported() -> None:
    prediction_call = call()
    billed = report_usage(ServerError("broke off"), Usage(input_tokens=3, output_tokens=2))
    with pytest.raises(ServerError):
        await run(prediction_call, billed)
    with pytest.raises(ServerError):
        await run(prediction_call, ServerError("reported nothing"))
    assert prediction_call.scope.spending.by_profile == {"smart": LMUsage(1, 0, 3, 0, 2, 0, COSTS)}


def test_an_error_has_what_its_body_reports() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    body = {"choices": [{"finish_reason": "error", "error": {"code": 502}}], "usage": usage}
    found = find_failure(body)
    assert found is not None
    assert find_usage(found) == Usage(input_tokens=9, output_tokens=4, cache_read_tokens=5, reasoning_tokens=2)


@pytest.mark.parametrize(
    "usage",
    [None, 7, "text", [], {"prompt_tokens": -1}, {"prompt_tokens": "9", "completion_tokens": None},
     {"prompt_tokens_details": 3, "completion_tokens_details": [1]}],
)  # fmt: skip
def test_usage_of_an_error_that_can_be_none_is_none(usage: Any) -> None:
    found = find_failure({"error": {"code": 500}, "usage": usage})
    assert found is not None
    assert find_usage(found) is None


def test_a_refusal_is_billed() -> None:
    usage = Usage(input_tokens=3, output_tokens=2)
    refused = find_refusal(
        Response(id="1", model="demo", message=Message.assistant("no"), finish_reason="content_filter", usage=usage)
    )
    assert refused is not None
    assert find_usage(refused) == usage
