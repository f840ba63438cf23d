"""From the value of a module-type variable to a module: names, registries, and arguments that survive a switch."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from snakepit_bridge.dspy_integration import (
    ModuleVariableResolver,
    VariableAwarePredict,
    VariableAwareReAct,
    create_variable_aware_module,
    modules,
)
from snakepit_bridge.dspy_integration.module_tree import predictors
from snakepit_bridge.dspy_integration.resolver import ALIASES, STANDARD, lookup
from snakepit_bridge.exceptions import UnknownModuleError, ValidationError, VariableNotFoundError
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.testing import RecordingLM


def search(query: str) -> str:
    """Search the library."""
    return query


def judge(args: dict[str, Any], prediction: Any) -> float:
    return 1.0


# What the constructors of some modules require; others leave it out.
FAMILY: dict[str, Any] = {
    "tools": [search],
    "module": dspy.Predict("question -> answer"),
    "N": 2,
    "reward_fn": judge,
    "threshold": 1.0,
    "max_iters": 3,
}


class Custom(dspy.Module):
    """Means something of its own by ``n``."""

    def __init__(self, signature: Any, n: int = 0) -> None:
        super().__init__()
        self.n = n
        self.ask = dspy.Predict(signature)


@pytest.fixture
def resolver(session: SessionContext) -> ModuleVariableResolver:
    return ModuleVariableResolver(session)


def choose(session: SessionContext, name: str) -> None:
    session.blocking.register_variable("strategy", "module", name)


async def test_every_standard_name_and_alias_resolves_in_any_case(
    session: SessionContext, resolver: ModuleVariableResolver
) -> None:
    for name in [*STANDARD, *ALIASES]:
        for spelling in (name, name.lower(), name.upper()):
            await session.register_variable("strategy", "module", spelling)
            resolved = await resolver.resolve_module("strategy")
            assert issubclass(resolved, STANDARD[ALIASES.get(name, name)])
            assert resolved.__name__.startswith("VariableAware")


@pytest.mark.parametrize("name", ["Predict", "COT", "react", "ReActV2", "codeact", "RLM", "Flex", "pot", "BestOfN"])
@pytest.mark.parametrize("aware", [True, False])
async def test_one_set_of_arguments_survives_every_switch(
    session: SessionContext, resolver: ModuleVariableResolver, name: str, aware: bool
) -> None:
    choose(session, name)
    signature = [] if name == "BestOfN" else ["question -> answer"]
    module = await resolver.create_module(
        "strategy", *signature, use_variable_aware=aware, temperature=0.7, max_tokens=50, **FAMILY
    )
    assert isinstance(module, modules.VariableAwareMixin) is aware
    for _, predictor in predictors(module):
        assert predictor.config == {"temperature": 0.7, "max_tokens": 50}
    if aware:
        assert module.session_context is session
    if hasattr(module, "max_iters"):
        assert module.max_iters == 3


async def test_lm_keywords_reach_the_lm_of_a_flex(
    session: SessionContext, resolver: ModuleVariableResolver, lm: RecordingLM
) -> None:
    choose(session, "Flex")
    module = await resolver.create_module(
        "strategy", "question -> answer", temperature=0.7, interpreter_factory=dspy.LocalInterpreter
    )
    await module.acall(question="Why?")
    lm.assert_all_sent(temperature=0.7)


async def test_a_missing_argument_says_which(session: SessionContext, resolver: ModuleVariableResolver) -> None:
    choose(session, "ReAct")
    with pytest.raises(TypeError, match="ReAct can't be built.*'tools'"):
        await resolver.create_module("strategy", "question -> answer")


async def test_an_argument_that_no_module_takes_says_so(
    session: SessionContext, resolver: ModuleVariableResolver
) -> None:
    choose(session, "Predict")
    with pytest.raises(TypeError, match="takes no argument tols; it takes"):
        await resolver.create_module("strategy", "question -> answer", tols=[search])


async def test_an_lm_keyword_out_of_range_is_refused(session: SessionContext, resolver: ModuleVariableResolver) -> None:
    choose(session, "Predict")
    with pytest.raises(ValidationError, match="temperature"):
        await resolver.create_module("strategy", "question -> answer", temperature=5)


async def test_a_users_own_parameter_is_its_own(session: SessionContext, resolver: ModuleVariableResolver) -> None:
    resolver.register_module("Custom", Custom)
    choose(session, "custom")
    module = await resolver.create_module("strategy", "question -> answer", n=0, temperature=0.7)
    assert (module.n, module.ask.config) == (0, {"temperature": 0.7})


async def test_an_unknown_name_has_close_matches(session: SessionContext, resolver: ModuleVariableResolver) -> None:
    choose(session, "ChainOfThougt")
    for ask in (resolver.resolve_module, resolver.create_module):
        with pytest.raises(ValueError, match="Unknown module type: ChainOfThougt.*Did you mean 'ChainOfThought'"):
            await ask("strategy")
    with pytest.raises(UnknownModuleError, match="Did you mean 'ReAct'"):
        await create_variable_aware_module(session, "ReActt", "question -> answer")


async def test_a_missing_variable_is_an_error(resolver: ModuleVariableResolver) -> None:
    with pytest.raises(VariableNotFoundError, match="strategy"):
        await resolver.create_module("strategy", "question -> answer")


async def test_no_answer_is_ever_stale(session: SessionContext, resolver: ModuleVariableResolver) -> None:
    for name in ("Predict", "ReAct", "Predict"):
        choose(session, name)
        assert (await resolver.resolve_module("strategy")).__name__ == f"VariableAware{name}"


def test_what_one_resolver_learns_stays_with_it(session: SessionContext) -> None:
    mine, others = ModuleVariableResolver(session), ModuleVariableResolver(session)
    mine.register_module("Mine", Custom)
    mine.register_module("Predict", Custom)
    assert lookup(mine.MODULE_REGISTRY, "mine").module_class is Custom
    assert "Mine" not in others.get_available_modules()
    assert lookup(others.MODULE_REGISTRY, "Predict").module_class is dspy.Predict


def test_what_the_class_learns_later_every_resolver_sees(
    session: SessionContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModuleVariableResolver, "MODULE_REGISTRY", dict(ModuleVariableResolver.MODULE_REGISTRY))
    before = ModuleVariableResolver(session)
    ModuleVariableResolver.register_module("Later", Custom)
    assert "Later" in before.get_available_modules()


def test_a_class_is_its_own_name() -> None:
    registry = ModuleVariableResolver.MODULE_REGISTRY
    assert lookup(registry, dspy.ReAct).preferred is VariableAwareReAct
    assert lookup(registry, VariableAwarePredict).module_class is dspy.Predict
    with pytest.raises(UnknownModuleError, match="Custom"):
        lookup(registry, Custom)


@pytest.mark.parametrize("kind", ["predict", dspy.Predict, VariableAwarePredict])
async def test_the_factory_takes_names_and_classes(session: SessionContext, kind: Any, lm: RecordingLM) -> None:
    module = await create_variable_aware_module(
        session, kind, "question -> answer", variable_bindings={"temperature": "temp"}, top_p=0.5
    )
    await module.forward_async(question="Why?")
    lm.assert_all_sent(temperature=0.3, top_p=0.5)


async def test_the_factory_makes_a_users_class_aware(session: SessionContext, lm: RecordingLM) -> None:
    module = await create_variable_aware_module(
        session, Custom, "question -> answer", variable_bindings={"ask.temperature": "temp", "n": "limit"}
    )
    assert (module.n, module.get_bindings()) == (77, {"ask.temperature": "temp", "n": "limit"})
