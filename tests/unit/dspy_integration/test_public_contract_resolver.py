"""The tests of the user's document for the resolver and the factory; what they register stays on their own resolver."""

from __future__ import annotations

from typing import Any

import pytest

from snakepit_bridge.dspy_integration import (
    ModuleSpec,
    ModuleVariableResolver,
    VariableAwareMixin,
    create_variable_aware_module,
)
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots import MemoryStore


class PlainModule:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs

    def forward(self, **kwargs: Any) -> dict[str, Any]:
        return {"result": "mock_forward"}


class AwareModule(VariableAwareMixin, PlainModule):
    temperature: Any


@pytest.fixture
async def session() -> SessionContext:
    context = SessionContext("test", MemoryStore())
    await context.set_variables({"strategy": "ChainOfThought", "predictor": "Predict", "temp": 0.8})
    return context


@pytest.fixture
def resolver(session: SessionContext) -> ModuleVariableResolver:
    return ModuleVariableResolver(session)


async def test_resolve_module(resolver: ModuleVariableResolver) -> None:
    resolver.MODULE_REGISTRY["ChainOfThought"] = ModuleSpec(
        name="ChainOfThought", module_class=PlainModule, variable_aware_class=None
    )

    assert await resolver.resolve_module("strategy") == PlainModule


async def test_create_module(resolver: ModuleVariableResolver, session: SessionContext) -> None:
    resolver.MODULE_REGISTRY["Predict"] = ModuleSpec(
        name="Predict", module_class=PlainModule, variable_aware_class=AwareModule
    )

    module = await resolver.create_module("predictor", "test_signature")

    assert isinstance(module, AwareModule)
    assert module._session_context == session
    assert module.args == ("test_signature",)


async def test_what_one_resolver_registers_no_other_sees(
    resolver: ModuleVariableResolver, session: SessionContext
) -> None:
    resolver.MODULE_REGISTRY["Mine"] = ModuleSpec(name="Mine", module_class=PlainModule)
    resolver.register_module("MineToo", PlainModule)

    assert {"Mine", "MineToo"} <= set(resolver.get_available_modules())
    assert not {"Mine", "MineToo"} & set(ModuleVariableResolver(session).get_available_modules())
    assert not {"Mine", "MineToo"} & set(ModuleVariableResolver.MODULE_REGISTRY)


async def test_unknown_module(resolver: ModuleVariableResolver, session: SessionContext) -> None:
    await session.set_variable("bad_module", "UnknownModule")

    with pytest.raises(ValueError, match="Unknown module"):
        await resolver.resolve_module("bad_module")


async def test_a_changed_variable_is_resolved_anew(resolver: ModuleVariableResolver, session: SessionContext) -> None:
    before = await resolver.resolve_module("strategy")
    await session.set_variable("strategy", "predict")

    assert before.__name__ == "VariableAwareChainOfThought"
    assert (await resolver.resolve_module("strategy")).__name__ == "VariableAwarePredict"


async def test_create_variable_aware_module(session: SessionContext, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = {
        **ModuleVariableResolver.MODULE_REGISTRY,
        "TestModule": ModuleSpec("TestModule", PlainModule, AwareModule),
    }
    monkeypatch.setattr(ModuleVariableResolver, "MODULE_REGISTRY", registry)

    module = await create_variable_aware_module(
        session, "TestModule", "test_sig", variable_bindings={"temperature": "temp"}
    )

    assert isinstance(module, AwareModule)
    assert module.temperature == 0.8
    assert module.args == ("test_sig",)
