"""Demos as data: their order is the prompt's, and whatever a prompt shows of them stays."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import dspy
import pytest

from snakepit_bridge.programs.build import build_module, serialize_module
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.spec import ProgramSpec
from tests.unit.programs.sample import Colour, Person

ALLOWED = AllowedImports(("tests.unit.programs.sample",))
IMAGE = dspy.Image("https://example.org/a.png")
VALUES: list[Any] = [
    {"z": 1, "a": {"y": 2, "b": [{"d": 1, "c": 2}]}},
    Colour.RED,
    {"__type__": "tuple", "__value__": [1], "__data__": "kind"},
    (1, {"__type__": 1, "__value__": 2}),
    decimal.Decimal("1.50"),
    {"id": uuid.UUID(int=3), "at": datetime.date(2026, 1, 2), "price": decimal.Decimal("0.10")},
    (1, "a"),
    {"only"},
    ["b", "a"],
    b"hi",
    IMAGE,
    {"k": [IMAGE]},
    dspy.History(messages=[{"q": "x", "d": datetime.date(2026, 1, 2), "n": decimal.Decimal("1.0")}]),
    float("nan"),
    None,
]


def again(module: Any) -> Any:
    spec = ProgramSpec.parse(serialize_module(module, program="qa").encode(), program="qa")
    return build_module(spec, spec.module_names[0], ALLOWED, program="qa")


def prompt(module: Any) -> Any:
    [(_, predictor)] = module.named_predictors()
    demos = [dict(demo) for demo in predictor.demos]
    return [
        adapter.format(predictor.signature, demos, {"said": "q"})
        for adapter in (dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter())
    ]


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("kind", [dspy.Predict, dspy.ChainOfThought])
def test_a_demo_is_shown_as_it_was(value: Any, kind: Any) -> None:
    module = kind("said -> answer")
    [(_, predictor)] = module.named_predictors()
    predictor.demos = [{"said": value, "answer": "a"}, {"said": value, "answer": value}]
    assert prompt(again(module)) == prompt(module)


def test_a_models_fields_keep_their_order() -> None:
    module = dspy.Predict(
        dspy.make_signature({"said": (Person, dspy.InputField()), "answer": (str, dspy.OutputField())})
    )
    module.demos = [{"said": Person.model_validate({"name": "Ada", "age": 36}), "answer": "a"}]
    assert prompt(again(module)) == prompt(module)


def test_equal_specs_have_one_digest_and_other_orders_of_a_value_another() -> None:
    """The order of the spec's own names says nothing, that of a demo's keys does."""
    parts = {"module": "Predict", "signature": "q -> a", "bindings": {"temperature": "t", "model": "m"}}
    turned = {"bindings": {"model": "m", "temperature": "t"}, "signature": "q -> a", "module": "Predict"}
    assert ProgramSpec.parse(parts, program="p").encode() == ProgramSpec.parse(turned, program="p").encode()

    def encoded(demo: Any) -> bytes:
        module = dspy.Predict("q -> a")
        module.demos = [{"q": demo, "a": "x"}]
        return serialize_module(module, program="p").encode()

    assert encoded({"z": 1, "a": 2}) != encoded({"a": 2, "z": 1})
