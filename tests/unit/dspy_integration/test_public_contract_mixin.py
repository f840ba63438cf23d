"""The tests of the user's document for the mixin and the modules, on a real session where they had a mock."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from snakepit_bridge.dspy_integration import VariableAwareMixin, VariableAwarePredict
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots import MemoryStore
from snakepit_bridge.testing import RecordingLM, scripted


class PlainModule:
    """The document's stand-in for a module class; it isn't one of DSPy's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs

    def forward(self, **kwargs: Any) -> dict[str, Any]:
        return {"result": "mock_forward"}


class AwareModule(VariableAwareMixin, PlainModule):
    temperature: Any
    max_tokens: Any


class Answers(dspy.Module):
    """A module that needs no LM."""

    def forward(self, question: str) -> dict[str, str]:
        return {"answer": f"test {question}"}


class AwareAnswers(VariableAwareMixin, Answers):
    pass


@pytest.fixture
async def session() -> SessionContext:
    context = SessionContext("test_session", MemoryStore())
    await context.set_variables({"temp": 0.7, "tokens": 256})
    return context


async def test_initialization(session: SessionContext) -> None:
    module = AwareModule("test_arg", session_context=session)

    assert module._session_context == session
    assert module._variable_bindings == {}
    assert module._auto_sync is True
    assert module.args == ("test_arg",)
    assert module.kwargs == {}


async def test_bind_to_variable(session: SessionContext) -> None:
    module = AwareModule(session_context=session)

    await module.bind_to_variable("temperature", "temp")

    assert module.temperature == 0.7
    assert module._variable_bindings["temperature"] == "temp"
    assert module._last_sync["temperature"] == 0.7


async def test_bind_missing_variable(session: SessionContext) -> None:
    module = AwareModule(session_context=session)

    with pytest.raises(ValueError, match="not found"):
        await module.bind_to_variable("attr", "missing")

    assert module.get_bindings() == {}


async def test_sync_variables(session: SessionContext) -> None:
    module = AwareModule(session_context=session)
    await module.bind_to_variable("temperature", "temp")
    await module.bind_to_variable("max_tokens", "tokens")
    assert (module.temperature, module.max_tokens) == (0.7, 256)

    await session.set_variable("temp", 0.9)
    await session.set_variable("tokens", 512)
    changes = await module.sync_variables()

    assert (module.temperature, module.max_tokens) == (0.9, 512)
    assert changes == {"temperature": (0.7, 0.9), "max_tokens": (256, 512)}


async def test_sync_callback(session: SessionContext) -> None:
    module = AwareModule(session_context=session)
    calls: list[tuple[str, Any, Any]] = []
    await module.bind_to_variable("temperature", "temp", lambda *change: calls.append(change))

    await session.set_variable("temp", 0.8)
    await module.sync_variables()

    # One call: binding an attribute that had no value before is no change of it.
    assert calls == [("temperature", 0.7, 0.8)]


@pytest.mark.parametrize("kind", [AwareModule, AwareAnswers])
async def test_a_callback_fires_at_bind_if_the_attribute_had_another_value(session: SessionContext, kind: Any) -> None:
    module: Any = kind(session_context=session)
    module.tone = 0.1
    calls: list[tuple[str, Any, Any]] = []

    await module.bind_to_variable("tone", "temp", lambda *change: calls.append(change))

    assert calls == [("tone", 0.1, 0.7)]


async def test_unbind_variable(session: SessionContext) -> None:
    module = AwareModule(session_context=session)
    await module.bind_to_variable("temperature", "temp")
    assert "temperature" in module._variable_bindings

    module.unbind_variable("temperature")

    assert "temperature" not in module._variable_bindings
    assert "temperature" not in module._last_sync


async def test_unbinding_what_is_not_bound_changes_nothing(session: SessionContext) -> None:
    module = AwareModule(session_context=session)
    await module.bind_to_variable("temperature", "temp")

    module.unbind_variable("max_tokens")

    assert module.get_bindings() == {"temperature": "temp"}


async def test_variable_aware_predict(session: SessionContext) -> None:
    predictor: Any = VariableAwarePredict("question -> answer", session_context=session)
    await predictor.bind_to_variable("temperature", "temp")

    with RecordingLM(scripted(["test"])) as server:
        lm = dspy.LM("openai/demo", api_base=server.url, api_key="none-needed", cache=False, num_retries=0)
        with dspy.context(lm=lm):
            result = await predictor.forward_async(question="test?")

        assert result.answer == "test"
        server.assert_all_sent(temperature=0.7)


async def test_forward_async_runs_a_module_that_only_has_forward(session: SessionContext) -> None:
    module = AwareAnswers(session_context=session)

    assert await module.forward_async(question="test?") == {"answer": "test test?"}
