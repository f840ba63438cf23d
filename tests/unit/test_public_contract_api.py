"""The names, signatures and values that users build on, as a table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import dspy
import pytest

import snakepit_bridge
from snakepit_bridge import dspy_integration, exceptions
from snakepit_bridge.dspy_integration import (
    ModuleSpec,
    ModuleVariableResolver,
    VariableAwareChainOfThought,
    VariableAwareMixin,
    VariableAwarePredict,
    VariableAwareProgramOfThought,
    VariableAwareReAct,
    create_variable_aware_module,
)
from snakepit_bridge.exceptions import BridgeError, SessionError, ValidationError, VariableNotFoundError
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots import MemoryStore

REQUIRED = inspect.Parameter.empty
ARGS = "*args"
KWARGS = "**kwargs"
BIND = {"attribute": REQUIRED, "variable_name": REQUIRED, "sync_callback": None}

SIGNATURES: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (VariableAwareMixin.__init__, {ARGS: None, "session_context": None, "auto_sync": True, KWARGS: None}),
    (VariableAwareMixin.bind_to_variable, BIND),
    (VariableAwareMixin.bind_to_variable_sync, BIND),
    (VariableAwareMixin.sync_variables, {}),
    (VariableAwareMixin.sync_variables_sync, {}),
    (VariableAwareMixin.get_bound_variable, {"attribute": REQUIRED}),
    (VariableAwareMixin.get_bindings, {}),
    (VariableAwareMixin.unbind_variable, {"attribute": REQUIRED}),
    (VariableAwareMixin._should_auto_sync, {}),
    (VariableAwarePredict.forward_async, {ARGS: None, KWARGS: None}),
    (VariableAwarePredict.forward, {ARGS: None, KWARGS: None}),
    (VariableAwareChainOfThought.forward_async, {ARGS: None, KWARGS: None}),
    (VariableAwareReAct.forward_async, {ARGS: None, KWARGS: None}),
    (VariableAwareProgramOfThought.forward_async, {ARGS: None, KWARGS: None}),
    (ModuleVariableResolver.__init__, {"session_context": REQUIRED}),
    (ModuleVariableResolver.resolve_module, {"variable_name": REQUIRED}),
    (
        ModuleVariableResolver.create_module,
        {"variable_name": REQUIRED, ARGS: None, "use_variable_aware": True, KWARGS: None},
    ),
    (ModuleVariableResolver.get_available_modules, {}),
    (
        ModuleVariableResolver.register_module,
        {"name": REQUIRED, "module_class": REQUIRED, "variable_aware_class": None},
    ),
    (
        create_variable_aware_module,
        {
            "session_context": REQUIRED,
            "module_type": REQUIRED,
            ARGS: None,
            "variable_bindings": None,
            KWARGS: None,
        },
    ),
    (SessionContext.get_variable, {"name": REQUIRED}),
    (SessionContext.set_variable, {"name": REQUIRED, "value": REQUIRED}),
]

COROUTINES = [
    VariableAwareMixin.bind_to_variable,
    VariableAwareMixin.sync_variables,
    VariableAwareMixin.get_bound_variable,
    VariableAwarePredict.forward_async,
    VariableAwareChainOfThought.forward_async,
    VariableAwareReAct.forward_async,
    VariableAwareProgramOfThought.forward_async,
    ModuleVariableResolver.resolve_module,
    ModuleVariableResolver.create_module,
    create_variable_aware_module,
    SessionContext.get_variable,
    SessionContext.set_variable,
]

BLOCKING = [
    VariableAwareMixin.bind_to_variable_sync,
    VariableAwareMixin.sync_variables_sync,
    VariableAwareMixin.get_bindings,
    VariableAwareMixin.unbind_variable,
    VariableAwarePredict.forward,
    ModuleVariableResolver.get_available_modules,
]

AWARE = [
    ("Predict", dspy.Predict, VariableAwarePredict),
    ("ChainOfThought", dspy.ChainOfThought, VariableAwareChainOfThought),
    ("ReAct", dspy.ReAct, VariableAwareReAct),
    ("ProgramOfThought", dspy.ProgramOfThought, VariableAwareProgramOfThought),
    ("COT", dspy.ChainOfThought, VariableAwareChainOfThought),
]


@pytest.fixture
async def ctx() -> SessionContext:
    """A session with the variables of the document's example."""
    context = SessionContext("document", MemoryStore())
    await context.set_variables({"llm_temperature": 0.7, "generation_max_tokens": 256})
    await context.register_variable("reasoning_strategy", "module", "ChainOfThought")
    return context


@pytest.mark.parametrize(("function", "expected"), SIGNATURES, ids=lambda value: getattr(value, "__qualname__", ""))
def test_a_function_takes_the_parameters_that_the_document_gives(
    function: Callable[..., Any], expected: dict[str, Any]
) -> None:
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]

    assert [marks.get(p.kind, "") + p.name for p in parameters] == list(expected)
    assert {p.name: p.default for p in parameters if p.kind not in marks} == {
        name: default for name, default in expected.items() if not name.startswith("*")
    }


@pytest.mark.parametrize("function", COROUTINES, ids=lambda function: function.__qualname__)
def test_what_the_document_awaits_is_a_coroutine(function: Callable[..., Any]) -> None:
    assert inspect.iscoroutinefunction(function)


@pytest.mark.parametrize("function", BLOCKING, ids=lambda function: function.__qualname__)
def test_what_the_document_calls_plainly_is_no_coroutine(function: Callable[..., Any]) -> None:
    assert not inspect.iscoroutinefunction(function)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *((dspy_integration, name) for name in (
            "VariableAwareMixin", "VariableAwarePredict", "VariableAwareChainOfThought", "VariableAwareReAct",
            "VariableAwareProgramOfThought", "ModuleSpec", "ModuleVariableResolver", "create_variable_aware_module",
        )),
        *((exceptions, name) for name in ("BridgeError", "VariableNotFoundError", "SessionError", "ValidationError")),
        (snakepit_bridge, "SessionContext"),
    ],
)  # fmt: skip
def test_a_name_is_imported_from_where_the_document_imports_it(module: Any, name: str) -> None:
    assert hasattr(module, name)


@pytest.mark.parametrize(("name", "plain", "aware"), AWARE)
def test_the_registry_holds_a_module_with_its_aware_class(name: str, plain: type, aware: type) -> None:
    spec = ModuleVariableResolver.MODULE_REGISTRY[name]

    assert spec.name == name
    assert spec.module_class is plain
    assert spec.variable_aware_class is aware
    assert issubclass(aware, VariableAwareMixin)
    assert issubclass(aware, plain)


def test_chain_of_thought_with_hint_is_registered_though_dspy_dropped_it() -> None:
    module = ModuleVariableResolver.MODULE_REGISTRY["ChainOfThoughtWithHint"].module_class("question -> answer")

    assert "hint" in module.predict.signature.input_fields


def test_a_module_spec_has_the_documents_fields_and_defaults() -> None:
    assert [field.name for field in fields(ModuleSpec)] == [
        "name",
        "module_class",
        "variable_aware_class",
        "requires_context",
    ]
    spec = ModuleSpec("Mine", dspy.Predict)
    assert spec.variable_aware_class is None
    assert spec.requires_context is True


@pytest.mark.parametrize("error", [VariableNotFoundError, SessionError, ValidationError])
def test_every_error_is_a_bridge_error(error: type[Exception]) -> None:
    assert issubclass(error, BridgeError)
    assert issubclass(BridgeError, Exception)


def test_variable_not_found_holds_the_name_and_says_it() -> None:
    error = VariableNotFoundError("missing")

    assert error.variable_name == "missing"
    assert str(error).startswith("Variable not found: missing")


async def test_a_new_module_has_the_documents_attributes(ctx: SessionContext) -> None:
    module = VariableAwarePredict("question -> answer", session_context=ctx)

    assert module.session_context is ctx
    assert module._session_context is ctx
    assert module._variable_bindings == {}
    assert module._last_sync == {}
    assert module._auto_sync is True
    assert not module._should_auto_sync()


async def test_auto_sync_can_be_switched_off_by_keyword(ctx: SessionContext) -> None:
    module = VariableAwarePredict("question -> answer", session_context=ctx, auto_sync=False)
    await module.bind_to_variable("temperature", "llm_temperature")

    assert module._auto_sync is False
    assert not module._should_auto_sync()


async def test_binding_takes_the_value_and_lists_itself(ctx: SessionContext) -> None:
    module: Any = VariableAwarePredict("question -> answer", session_context=ctx)

    assert await module.bind_to_variable("temperature", "llm_temperature") is None

    assert module.temperature == 0.7
    assert module.get_bindings() == {"temperature": "llm_temperature"}
    assert await module.get_bound_variable("temperature") == 0.7
    assert module._should_auto_sync()


async def test_get_bindings_returns_a_copy(ctx: SessionContext) -> None:
    module = VariableAwarePredict("question -> answer", session_context=ctx)
    await module.bind_to_variable("temperature", "llm_temperature")

    module.get_bindings().clear()

    assert module.get_bindings() == {"temperature": "llm_temperature"}


async def test_sync_returns_old_and_new_of_what_changed_alone(ctx: SessionContext) -> None:
    module = VariableAwarePredict("question -> answer", session_context=ctx)
    await module.bind_to_variable("temperature", "llm_temperature")
    await module.bind_to_variable("max_tokens", "generation_max_tokens")
    await ctx.set_variable("llm_temperature", 0.9)

    assert await module.sync_variables() == {"temperature": (0.7, 0.9)}
    assert await module.sync_variables() == {}


async def test_a_callback_gets_attribute_old_and_new(ctx: SessionContext) -> None:
    calls: list[tuple[str, Any, Any]] = []
    module = VariableAwarePredict("question -> answer", session_context=ctx)
    await module.bind_to_variable("temperature", "llm_temperature", lambda *change: calls.append(change))
    await ctx.set_variable("llm_temperature", 0.9)
    await module.sync_variables()

    assert calls == [("temperature", 0.7, 0.9)]


async def test_a_callback_may_be_appended_as_in_the_documents_example(ctx: SessionContext) -> None:
    calls: list[tuple[str, Any, Any]] = []
    predictor = await create_variable_aware_module(
        ctx, "Predict", "text -> summary", variable_bindings={"temperature": "llm_temperature"}
    )
    predictor._sync_callbacks.append(lambda *change: calls.append(change))
    for temperature in (0.5, 0.7, 0.9):
        await ctx.set_variable("llm_temperature", temperature)
        await predictor.sync_variables()

    assert calls == [("temperature", 0.7, 0.5), ("temperature", 0.5, 0.7), ("temperature", 0.7, 0.9)]


def test_the_blocking_twins_do_what_their_namesakes_do() -> None:
    ctx = SessionContext("blocking", MemoryStore())
    ctx.blocking.set_variable("temp", 0.7)
    module: Any = VariableAwarePredict("question -> answer", session_context=ctx)

    module.bind_to_variable_sync("temperature", "temp")
    assert module.temperature == 0.7
    ctx.blocking.set_variable("temp", 0.9)
    assert module.sync_variables_sync() == {"temperature": (0.7, 0.9)}


async def test_unbinding_forgets_the_binding_and_its_value(ctx: SessionContext) -> None:
    module = VariableAwarePredict("question -> answer", session_context=ctx)
    await module.bind_to_variable("temperature", "llm_temperature")

    module.unbind_variable("temperature")

    assert module.get_bindings() == {}
    assert module._last_sync == {}
    with pytest.raises(ValueError, match="not bound"):
        await module.get_bound_variable("temperature")


async def test_binding_without_a_session_says_what_is_missing() -> None:
    with pytest.raises(RuntimeError, match="No session context available"):
        await VariableAwarePredict("question -> answer").bind_to_variable("temperature", "temp")


async def test_binding_to_a_missing_variable_is_a_value_error(ctx: SessionContext) -> None:
    module = VariableAwarePredict("question -> answer", session_context=ctx)

    with pytest.raises(ValueError, match="not found"):
        await module.bind_to_variable("temperature", "missing")


async def test_a_resolver_answers_as_the_document_says(ctx: SessionContext) -> None:
    resolver = ModuleVariableResolver(ctx)

    assert resolver.session_context is ctx
    assert issubclass(await resolver.resolve_module("reasoning_strategy"), dspy.ChainOfThought)
    assert {"Predict", "ChainOfThought", "ReAct", "ProgramOfThought", "COT"} <= set(resolver.get_available_modules())
    assert resolver.get_available_modules() == sorted(resolver.get_available_modules())


async def test_create_module_hands_over_session_and_lm_keywords(ctx: SessionContext) -> None:
    module = await ModuleVariableResolver(ctx).create_module(
        "reasoning_strategy", "question -> answer", temperature=0.7
    )

    assert isinstance(module, VariableAwareChainOfThought)
    assert module.session_context is ctx
    assert module.predict.config["temperature"] == 0.7


async def test_create_module_gives_the_plain_class_when_asked(ctx: SessionContext) -> None:
    module = await ModuleVariableResolver(ctx).create_module(
        "reasoning_strategy", "question -> answer", use_variable_aware=False
    )

    assert type(module) is dspy.ChainOfThought


async def test_an_unknown_module_and_a_missing_variable_have_the_documents_errors(ctx: SessionContext) -> None:
    resolver = ModuleVariableResolver(ctx)
    await ctx.set_variable("bad_module", "UnknownModule")

    with pytest.raises(ValueError, match="Unknown module type: UnknownModule"):
        await resolver.resolve_module("bad_module")
    with pytest.raises(ValueError, match="Unknown module type: UnknownModule"):
        await create_variable_aware_module(ctx, "UnknownModule", "question -> answer")
    with pytest.raises(VariableNotFoundError):
        await resolver.resolve_module("nowhere")


async def test_register_module_takes_its_arguments_by_name_or_place(ctx: SessionContext) -> None:
    resolver = ModuleVariableResolver(ctx)
    resolver.register_module("Short", dspy.Predict)
    resolver.register_module(name="Mine", module_class=dspy.Predict, variable_aware_class=VariableAwarePredict)
    await ctx.set_variable("which", "Mine")

    assert {"Mine", "Short"} <= set(resolver.get_available_modules())
    assert await resolver.resolve_module("which") is VariableAwarePredict


def test_register_module_on_the_class_reaches_every_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ModuleVariableResolver, "MODULE_REGISTRY", dict(ModuleVariableResolver.MODULE_REGISTRY), raising=True
    )
    ModuleVariableResolver.register_module("Everywhere", dspy.Predict)

    assert "Everywhere" in ModuleVariableResolver(SessionContext("any", MemoryStore())).get_available_modules()


@pytest.mark.parametrize("module_type", ["ChainOfThought", dspy.ChainOfThought, VariableAwareChainOfThought])
async def test_create_variable_aware_module_binds_names_and_classes(ctx: SessionContext, module_type: Any) -> None:
    module = await create_variable_aware_module(
        ctx,
        module_type,
        "question -> answer",
        variable_bindings={"temperature": "llm_temperature", "max_tokens": "generation_max_tokens"},
    )

    assert isinstance(module, VariableAwareChainOfThought)
    assert (module.temperature, module.max_tokens) == (0.7, 256)
    assert module.get_bindings() == {"temperature": "llm_temperature", "max_tokens": "generation_max_tokens"}
