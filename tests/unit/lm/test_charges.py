"""What a call is charged with: the tokens as prices count them, for every way in which providers report them."""

from __future__ import annotations

from typing import Any

import pytest
from dspy.lm15 import Message, Request, Response, UnsupportedFeatureError, Usage

from snakepit_bridge.costs.usage import LMUsage, Price
from snakepit_bridge.lm.charges import charge_usage, note_answering
from snakepit_bridge.lm.engine import LMEngine
from snakepit_bridge.lm.failures import AnswerRefusedError, find_usage
from snakepit_bridge.lm.profiles import LMProfile

PRICE = Price.of(input=1, cached_input=0.1, output=10, reasoning=5)
REPORTED = Usage(input_tokens=100, output_tokens=50, cache_read_tokens=40, cache_write_tokens=5, reasoning_tokens=20)


@pytest.mark.parametrize(
    ("dialect", "given", "written"),
    [
        ("openai-chat", 100, 50),
        ("openai-responses", 100, 50),
        ("", 100, 50),
        ("anthropic", 145, 50),  # cached input comes beside the input
        ("gemini", 100, 70),  # and reasoning beside the output
        ("xai", 100, 70),
    ],
)
def test_tokens_are_counted_alike_for_every_provider(dialect: str, given: int, written: int) -> None:
    usage = charge_usage(REPORTED, dialect, PRICE)
    assert usage == LMUsage(1, 0, given, 40, written, 20, usage.cost_pico)
    assert usage.cost_pico == (given - 40) * 10**6 + 40 * 10**5 + (written - 20) * 10**7 + 20 * 5 * 10**6


def test_a_call_without_price_or_without_usage_is_unpriced_and_not_free() -> None:
    assert charge_usage(REPORTED, "", None) == LMUsage(1, 1, 100, 40, 50, 20)
    assert charge_usage(Usage(), "", PRICE) == LMUsage(1, 1)
    assert charge_usage(Usage(input_tokens=7), "", PRICE) == LMUsage(1, 1, 7)
    assert charge_usage(Usage(input_tokens=7, output_tokens=0), "", Price.of(input=0, output=0)) == LMUsage(1, 0, 7)


@pytest.mark.parametrize("count", [10**9, 10**30])
def test_a_count_that_no_model_has_is_not_believed(count: int) -> None:
    assert charge_usage(Usage(input_tokens=count, output_tokens=1), "", PRICE) == LMUsage(1, 1, 0, 0, 1)


@pytest.mark.parametrize("count", [-1, "7", float("nan"), 1.5, True, [7]])
def test_a_count_that_is_no_number_is_not_believed(count: Any) -> None:
    usage = Usage(output_tokens=1)
    object.__setattr__(usage, "input_tokens", count)
    assert charge_usage(usage, "", PRICE) == LMUsage(1, 1, 0, 0, 1)


def test_parts_are_never_more_than_the_whole() -> None:
    odd = Usage(input_tokens=3, output_tokens=2, cache_read_tokens=9, reasoning_tokens=9)
    assert charge_usage(odd, "openai-chat", PRICE) == LMUsage(1, 0, 3, 3, 2, 2, 3 * 10**5 + 2 * 5 * 10**6)


class Backend:
    """Stands for a backend of the engine; it refuses to answer, or can't send the request."""

    def __init__(self, *, can_send: bool = True) -> None:
        self._can_send = can_send

    async def complete(self, _: Request) -> Response:
        if not self._can_send:
            raise UnsupportedFeatureError("not here")
        return Response(None, "m", Message.assistant("no"), "content_filter", REPORTED)


@pytest.mark.parametrize(
    ("model", "can_send", "dialect"),
    [
        ("anthropic/claude-sonnet-4-5", True, "anthropic"),
        ("anthropic/claude-sonnet-4-5", False, ""),
        ("gemini/gemini-2.5-pro", False, ""),
        ("xai/grok-4", True, "xai"),
        ("xai/grok-4", False, ""),
        ("bedrock/some-model", True, ""),
    ],
)
async def test_a_refusal_is_counted_as_the_api_that_sent_it_counts(
    model: str, can_send: bool, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LMEngine, "_get_lm15_backend", lambda *_: Backend(can_send=can_send))
    monkeypatch.setattr(LMEngine, "_litellm_backend", Backend())
    lm: Any = LMProfile("p", model).build()
    with note_answering("unknown") as answering, pytest.raises(AnswerRefusedError) as refused:
        await lm.engine.async_engine.send(Request(model=model, messages=(Message.user("why?"),)))
    assert (answering.dialect, find_usage(refused.value)) == (dialect, REPORTED)


@pytest.mark.parametrize(
    ("model", "dialect"),
    [
        ("openai/gpt-4o", "openai-chat"),
        ("anthropic/claude-sonnet-4-5", "anthropic"),
        ("gemini/gemini-2.5-pro", "gemini"),
        ("xai/grok-4", "xai"),
    ],
)
def test_an_engine_tells_how_its_provider_counts(model: str, dialect: str) -> None:
    lm: Any = LMProfile("p", model).build()
    assert lm.engine.async_engine.dialect == dialect
