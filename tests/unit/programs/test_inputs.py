"""What a program takes is what its ``forward`` takes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import dspy
import pytest
from pydantic import BaseModel

from snakepit_bridge.dspy_integration.ensemble import Ensemble
from snakepit_bridge.dspy_integration.mixin import VariableAwareMixin
from snakepit_bridge.dspy_integration.modules import variable_aware
from snakepit_bridge.exceptions import InputError
from snakepit_bridge.programs.inputs import ProgramInputs


class Ticket(BaseModel):
    title: str


class Base(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.respond = dspy.ChainOfThought("context: list[str], question -> response")


class Retrieves(Base):
    def forward(self, question: str) -> Any: ...


class RetrievesAsync(Base):
    async def aforward(self, question: str) -> Any: ...


class Inherits(Retrieves):
    """Has its ``forward`` from its base."""


class Renames(Base):
    def forward(self, q: str, *, docs: Any, k: int = 3) -> Any: ...


class TakesAnything(Base):
    def forward(self, question: str, **others: Any) -> Any: ...


class OnlyKeywords(Base):
    def forward(self, **inputs: Any) -> Any: ...


class PositionalOnly(Base):
    def forward(self, question: str, /, instance: str = "", *, mood: str = "") -> Any: ...


class Spreads(Base):
    def forward(self, question: str, *texts: str) -> Any: ...


class Presets(Base):
    def forward(self, question: str, seen: list[str] = []) -> Any: ...  # noqa: B006


class Typed(Base):
    def forward(
        self, ticket: Ticket, count: int, rows: Iterable[str], fetch: Callable[..., Any] | None = None
    ) -> Any: ...


class Unresolvable(Base):
    def forward(self, question: Missing) -> Any: ...  # type: ignore[name-defined] # noqa: F821


class Callers(Base):
    def __call__(self, text: str) -> Any: ...


class PassesOn(Retrieves):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **{"question": "", **kwargs})


class OwnAcall(Base):
    async def acall(self, text: str) -> Any: ...


class Static(Base):
    @staticmethod
    def forward(question: str) -> Any: ...


def injects(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def with_context(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **{"context": [], **kwargs})

    return with_context


class Decorated(Base):
    @injects
    def forward(self, question: str, context: list[str]) -> Any: ...


class Aware(VariableAwareMixin, Base):
    def forward(self, question: str) -> Any: ...


class AssignedForward(Base):
    def __init__(self) -> None:
        super().__init__()
        self.forward = lambda q: q


def of(module: Any) -> ProgramInputs:
    return ProgramInputs.of(module)


@pytest.mark.parametrize(
    ("kind", "required", "others"),
    [
        (Retrieves, ["question"], False),
        (variable_aware(Retrieves), ["question"], False),
        (RetrievesAsync, ["question"], False),
        (Inherits, ["question"], False),
        (Renames, ["q", "docs"], False),
        (TakesAnything, ["question"], True),
        (OnlyKeywords, [], True),
        (PositionalOnly, ["question"], False),
        (Spreads, ["question"], False),
        (Presets, ["question"], False),
        (Unresolvable, ["question"], False),
        (Callers, ["text"], False),
        (PassesOn, [], True),
        (OwnAcall, ["text"], False),
        (Static, ["question"], False),
        (Decorated, [], True),
        (Aware, ["question"], False),
        (AssignedForward, ["q"], False),
    ],
)
def test_the_signature_of_what_a_call_runs_decides(kind: type, required: list[str], others: bool) -> None:
    inputs = of(kind())
    assert (inputs.required, inputs.is_open) == (required, others)
    given = dict.fromkeys(required, "x")
    assert inputs.decode("p", given).keys() >= given.keys()
    for name in required:
        with pytest.raises(InputError, match="it is missing"):
            inputs.decode("p", {other: "x" for other in required if other != name})
    if others:
        assert inputs.decode("p", {**given, "more": 1})["more"] == 1
    else:
        with pytest.raises(InputError, match="no such input"):
            inputs.decode("p", {**given, "more": 1})


@pytest.mark.parametrize("module", [dspy.Predict("a, b: int -> c"), dspy.ChainOfThought("a, b: int -> c")])
def test_the_signature_of_dspys_own_module_decides(module: Any) -> None:
    inputs = of(module)
    assert inputs.required == ["a", "b"]
    assert inputs.decode("p", {"a": "x", "b": "3"}) == {"a": "x", "b": 3}


def best(inner: Any) -> Any:
    return dspy.BestOfN(inner, N=1, reward_fn=lambda *_: 1.0, threshold=1.0)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (best(Renames()), ["q", "docs", "k"]),
        (Ensemble([dspy.Predict("a -> b")]), ["a"]),
        (Ensemble([best(Retrieves())] * 2), ["question"]),
        (best(Ensemble([Renames()])), ["q", "docs", "k"]),
        (Ensemble([dspy.MultiChainComparison("a -> b", M=1)]), None),
        (Ensemble([dspy.Predict("a -> b"), dspy.Predict("a -> c")]), None),
        (Ensemble(), None),
    ],
)
def test_what_passes_its_inputs_on_takes_what_the_other_takes(module: Any, names: list[str] | None) -> None:
    inputs = of(module)
    assert (None if inputs.is_open else list(inputs.fields)) == names


def test_annotations_are_checked_and_what_cant_be_told_isnt() -> None:
    inputs = of(Typed())
    given = {"ticket": {"title": "Printer"}, "count": "3", "rows": ["a"]}
    assert inputs.decode("p", given) == {"ticket": Ticket(title="Printer"), "count": 3, "rows": ["a"]}
    with pytest.raises(InputError, match="'count'"):
        inputs.decode("p", {**given, "count": "many"})


def test_an_untyped_input_is_restored_by_the_predictor_if_it_fits() -> None:
    class Sees(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look = dspy.Predict("history: dspy.History, tags: list[int] -> answer")

        def forward(self, history, tags):  # type: ignore[no-untyped-def]
            ...

    inputs = of(Sees())
    decoded = inputs.decode("p", {"history": {"messages": [{"question": "a"}]}, "tags": ["not", "numbers"]})
    assert decoded == {"history": dspy.History(messages=[{"question": "a"}]), "tags": ["not", "numbers"]}


def test_inputs_are_handed_over_as_python_wants_them() -> None:
    assert of(PositionalOnly()).to_arguments({"question": "q", "instance": "i", "mood": "m"}) == (
        ["q", "i"],
        {"mood": "m"},
    )
    assert of(Spreads()).to_arguments({"question": "q", "texts": ["a", "b"]}) == (["q", "a", "b"], {})
    assert of(Retrieves()).to_arguments({"question": "q"}) == ([], {"question": "q"})


def test_a_call_gets_a_mutable_default_of_its_own() -> None:
    """A default of ``forward`` that one prediction changes isn't seen by the next."""
    inputs = of(Presets())
    _, first = inputs.to_arguments({"question": "q"})
    first["seen"].append("secret")
    assert inputs.to_arguments({"question": "q"}) == ([], {"question": "q", "seen": []})


def test_a_decorated_forward_names_what_it_lacks() -> None:
    inputs = of(Decorated())
    error = inputs.missing_input_error("p", {"context": []})
    assert error is not None
    assert error.args[1] == "question"
    assert inputs.missing_input_error("p", {"context": [], "question": "q"}) is None
