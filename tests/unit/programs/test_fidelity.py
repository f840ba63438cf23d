"""What a rebuilt module lacks of the registered one is carried or refused by name, and both ask the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy
import pytest

from snakepit_bridge.client.registration import build_spec
from snakepit_bridge.dspy_integration.bounds import DEFAULT_BOUNDS
from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.build import build_module
from snakepit_bridge.programs.fidelity import add_attributes
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.programs.trial import record_prompts
from tests.harness.signatures import make_signature
from tests.unit.programs import kept, sample

ALLOWED = AllowedImports(("tests.unit.programs.kept", "tests.unit.programs.sample"))


def register(module: Any, *, trial: bool = True, **options: Any) -> ProgramSpec:
    """Return the spec that ``Fleet.register`` would store."""
    names = ("bindings", "arguments", "choose_by", "lm", "cache", "journal")
    defaults = {**dict.fromkeys(names), "among": ()}
    spec, _ = build_spec(
        "p",
        module,
        (),
        {**defaults, "executes_code": False, **options},
        bounds=DEFAULT_BOUNDS,
        trial=trial,
    )
    return ProgramSpec.parse(spec.encode(), program="p")


def rebuilt(spec: ProgramSpec) -> Any:
    return build_module(spec, str(spec.module), ALLOWED, program="p")


def test_a_constructors_arguments_are_carried() -> None:
    spec = register(kept.Greeter(shop="Bob's", tags=["a"]))
    assert spec.arguments == {"shop": "Bob's", "tags": ["a"]}
    assert rebuilt(spec).shop == "Bob's"
    assert record_prompts(rebuilt(spec), {"question": "q"}) == record_prompts(
        kept.Greeter(shop="Bob's", tags=["a"]), {"question": "q"}
    )
    assert register(kept.Greeter()).arguments == {}


def test_what_was_set_later_is_carried() -> None:
    module: Any = kept.Greeter()
    module.shop, module.rounds, module.note = "Bob's", 3, {"a": [1, None]}
    again = rebuilt(register(module))
    assert (again.shop, again.rounds, again.note) == ("Bob's", 3, {"a": [1, None]})


def test_an_argument_of_the_same_name_as_another_attribute_comes_out_right() -> None:
    module = kept.Doubles(k=3)
    assert rebuilt(register(module)).k == 6


def test_a_nested_modules_plain_attribute_is_carried() -> None:
    module = kept.Holds()
    module.agent.max_iters = 9
    assert rebuilt(register(module)).agent.max_iters == 9


def test_what_differs_with_each_instance_is_left_alone() -> None:
    assert register(kept.Holds()).attributes == {}


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(ProgramSpecError, match="name"):
        register(kept.Needs("Bob"))
    assert rebuilt(register(kept.Needs("Bob"), arguments={"name": "Bob"})).called == "Bob"


def changed(change: Callable[[Any], None]) -> Any:
    module = kept.Holds()
    change(module)
    return module


class Thing:
    def __init__(self, number: int = 0) -> None:
        self.number = number


@pytest.mark.parametrize(
    ("change", "attribute"),
    [
        (lambda m: setattr(m, "thing", Thing(1)), "thing"),
        (lambda m: setattr(m, "thing", {1, 2}), "thing"),
        (lambda m: setattr(m, "thing", (1, 2)), "thing"),
        (lambda m: setattr(m, "thing", float("nan")), "thing"),
        (lambda m: setattr(m, "thing", print), "thing"),
        (lambda m: setattr(m, "change", str.lower), "change"),
        (lambda m: setattr(m, "change", lambda text: text), "change"),
        (lambda m: setattr(m, "thing", dspy.Predict("a -> b")), "thing"),
        (lambda m: setattr(m, "ask", dspy.ChainOfThought("question -> answer")), "ask"),
        (lambda m: setattr(m.ask, "signature", make_signature("question -> answer: int")), "ask.signature"),
        (lambda m: delattr(m, "thing"), "thing"),
    ],
)
def test_what_cant_travel_is_refused_by_its_name(change: Callable[[Any], None], attribute: str) -> None:
    with pytest.raises(ProgramSpecError) as refused:
        register(changed(change))
    assert attribute in str(refused.value)


def test_a_difference_that_only_the_prompts_show_is_refused_too() -> None:
    with pytest.raises(ProgramSpecError, match="asks otherwise"):
        register(kept.Hidden("!!"))
    assert register(kept.Hidden("!!"), trial=False).attributes == {}
    assert register(kept.Hidden(), arguments={"suffix": ""}).module == "tests.unit.programs.kept:Hidden"


@pytest.mark.parametrize(
    "module",
    [
        dspy.Predict("question, n: int -> answer: float"),
        dspy.ChainOfThought("question -> answer"),
        dspy.ReAct(make_signature("question -> answer"), tools=[sample.lookup], max_iters=4),
        dspy.MultiChainComparison("question -> answer", M=2),
        dspy.BestOfN(dspy.Predict("question -> answer"), N=2, reward_fn=sample.brevity, threshold=1.0),
        dspy.Refine(dspy.Predict("question -> answer"), N=2, reward_fn=sample.brevity, threshold=1.0),
        dspy.ProgramOfThought("question -> answer"),
        dspy.CodeAct("question -> answer", tools=[sample.lookup]),
        dspy.RLM("question -> answer"),
        dspy.Flex("question -> answer"),
        sample.Summarize(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_module_that_lacks_nothing_is_taken(module: Any) -> None:
    assert register(module).attributes == {}


def test_a_trial_calls_no_lm_and_leaves_no_trace_on_the_module() -> None:
    module = kept.Greeter()
    module.ask.lm = dspy.LM("openai/nowhere", api_base="http://127.0.0.1:9", api_key="k")
    before = {name: repr(value) for name, value in vars(module).items()}
    assert record_prompts(module, {"question": "q"})
    assert {name: repr(value) for name, value in vars(module).items()} == before


@pytest.mark.parametrize(
    "attributes",
    [
        {"self": {"forward": "x"}},
        {"self": {"ask": 1}},
        {"self": {"__class__": "x"}},
        {"self": {"_bound": True}},
        {"self": {"_session_context": "x"}},
        {"self": {"named_predictors": 1}},
        {"ask": {"signature": "x"}},
        {"ask": {"lm": "openai/other"}},
        {"ask": {"forward": None}},
        {"nowhere": {"a": 1}},
        {"self": {"not a name": 1}},
    ],
)
def test_a_spec_sets_no_attribute_that_is_more_than_data(attributes: dict[str, Any]) -> None:
    spec = {"module": "tests.unit.programs.kept:Greeter", "attributes": attributes}
    with pytest.raises(ProgramSpecError, match="attributes"):
        rebuilt(ProgramSpec.parse(spec, program="p"))


def test_a_chosen_module_isnt_compared() -> None:
    spec = register(dspy.Predict("question -> answer"), choose_by="strategy", among=("Predict", "ChainOfThought"))
    assert add_attributes(dspy.Predict("question -> answer"), spec, ALLOWED, program="p") is spec
