"""Targets of the user's own: where they take effect, what they refuse, and which names they can have."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import dspy
import pytest

from snakepit_bridge.dspy_integration import bindable, register_target, unregister_target
from snakepit_bridge.dspy_integration.binding import BoundValue, LMScope, bind_values
from snakepit_bridge.exceptions import BindingError, ValidationError
from tests.harness.signatures import make_signature, signature_of

SCOPE = LMScope(ambient=dspy.LM("openai/demo", api_key="x"))


@pytest.fixture(autouse=True)
def persona() -> Generator[None]:
    @register_target("persona")
    def set_persona(predictor: Any, value: Any) -> None:
        if not isinstance(value, str):
            raise ValueError("it must be a text")
        signature = predictor.signature
        predictor.signature = signature.with_instructions(f"{signature.instructions} Speak as {value}.")

    yield
    unregister_target("persona")


def bind(module: Any, **values: Any) -> Any:
    return bind_values(module, {name: BoundValue("v", value) for name, value in values.items()}, SCOPE)


class Pair(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("a -> b")
        self.second = dspy.Predict("b -> c")


def test_it_takes_effect_in_every_predictor_of_the_copy_after_dspys_own() -> None:
    module = Pair()
    bound = bind(module, persona="a pirate")
    assert [signature_of(p).instructions.endswith("Speak as a pirate.") for p in bound.predictors()] == [True, True]
    assert not any("pirate" in signature_of(p).instructions for p in module.predictors())
    predictor = bind(dspy.Predict("a -> b"), persona="a pirate", instructions="Answer.")
    assert predictor.signature.instructions == "Answer. Speak as a pirate."


def test_it_is_listed_where_it_takes_effect() -> None:
    assert "persona" in bindable(Pair())
    assert "persona" not in bindable(dspy.Parallel())
    with pytest.raises(BindingError, match="persona"):
        bind(dspy.Parallel(), persona="a pirate")


def test_a_value_that_it_refuses_is_named_with_its_variable() -> None:
    with pytest.raises(ValidationError, match=r"'v'.*it is bound to persona, and it must be a text"):
        bind(Pair(), persona=3)


def test_it_may_be_of_some_kind_of_module_alone() -> None:
    @register_target("patience", dspy.ReAct)
    def set_patience(agent: Any, value: Any) -> None:
        agent.max_iters = value * 2

    try:
        assert bind(dspy.ReAct(make_signature("a -> b"), tools=[]), patience=4).max_iters == 8
        assert "patience" not in bindable(dspy.Predict("a -> b"))
    finally:
        unregister_target("patience")


@pytest.mark.parametrize(
    "name", ["temperature", "model", "instructions", "max_iters", "persona", "two words", "_own", ""]
)
def test_a_name_that_is_taken_or_malformed_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name|target"):
        register_target(name)


def test_a_target_that_raises_anything_refuses_the_value_by_name() -> None:
    @register_target("style")
    def set_style(predictor: Any, value: Any) -> None:
        predictor.signature = {"plain": predictor.signature}[value]

    try:
        with pytest.raises(ValidationError, match=r"'v'.*it is bound to style, and the target raised KeyError: 'odd'"):
            bind(dspy.Predict("a -> b"), style="odd")
    finally:
        unregister_target("style")


class Greeter(dspy.Predict):
    def __init__(self, signature: Any) -> None:
        super().__init__(signature)
        self.persona = "nobody"


def test_a_part_that_has_an_attribute_of_this_name_gets_the_value_there_too() -> None:
    bound = bind(Greeter("a -> b"), persona="a pirate")
    assert bound.persona == "a pirate"
    assert bound.signature.instructions.endswith("Speak as a pirate.")


class Voiced(Pair):
    """Reads an attribute that has the target's name, beside the predictors on which the target takes effect."""

    def __init__(self) -> None:
        super().__init__()
        self.persona = "a clerk"


def test_a_module_that_has_an_attribute_of_this_name_around_those_parts_gets_the_value_too() -> None:
    module = Voiced()
    bound = bind(module, persona="a pirate")
    assert (bound.persona, module.persona) == ("a pirate", "a clerk")
    assert signature_of(bound.first).instructions.endswith("Speak as a pirate.")
