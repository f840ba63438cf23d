"""Binding an agent's tools builds anew what DSPy builds from them once: the prompt, the types, the tools themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from snakepit_bridge.dspy_integration.binding import BoundValue, LMScope, bind_values
from snakepit_bridge.dspy_integration.module_tree import predictors
from snakepit_bridge.dspy_integration.registry import TOOLS
from snakepit_bridge.exceptions import BindingError, ValidationError
from tests.harness.signatures import make_signature, signature_of


def search(query: str) -> str:
    """Search the library."""
    return query


def lookup(word: str) -> str:
    """Look a word up."""
    return word


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Callable:
    name = "callable_tool"

    def __call__(self, query: str) -> str:
        return query


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    TOOLS.register(add)
    yield
    TOOLS.unregister("add")


AGENTS = pytest.mark.parametrize("kind", [dspy.ReAct, dspy.ReActV2, dspy.CodeAct])
SIGNATURE = make_signature("question -> answer: int", "Do it.")


def bind(module: Any, value: Any, **more: Any) -> Any:
    values = {name: BoundValue("v", each) for name, each in {"tools": value, **more}.items()}
    return bind_values(module, values, LMScope())


def prompts(module: Any) -> list[Any]:
    return [predictor.signature for _, predictor in predictors(module)]


@AGENTS
@pytest.mark.parametrize("names", ["search", "lookup, search", "search, lookup, add", '["add"]'])
def test_the_agent_is_as_if_built_with_the_tools(kind: Any, names: str) -> None:
    by_name = {"search": search, "lookup": lookup, "add": add}
    built = kind(SIGNATURE, [tool for name, tool in by_name.items() if name in names])
    bound = bind(kind(SIGNATURE, [search, lookup]), names)
    assert set(bound.tools) == set(built.tools)
    if names != "lookup, search":  # which is another order
        assert [s.instructions for s in prompts(bound)] == [s.instructions for s in prompts(built)]
        assert list(bound.tools) == list(built.tools)
        assert all(mine.equals(its) for mine, its in zip(prompts(bound), prompts(built), strict=True))


def test_an_rlm_tells_its_model_about_the_tools_that_it_has() -> None:
    built = dspy.RLM("question -> answer", tools=[lookup])
    bound = bind(dspy.RLM("question -> answer", tools=[search, lookup]), "lookup")
    assert list(bound.tools) == ["lookup"]
    assert [s.instructions for s in prompts(bound)] == [s.instructions for s in prompts(built)]


def test_an_rlm_tells_its_model_how_often_it_may_ask() -> None:
    built = dspy.RLM("question -> answer", max_llm_calls=7)
    bound = bind_values(dspy.RLM("question -> answer"), {"max_llm_calls": BoundValue("v", 7)}, LMScope())
    assert bound.max_llm_calls == 7
    assert [s.instructions for s in prompts(bound)] == [s.instructions for s in prompts(built)]


def test_a_flex_without_tools_becomes_one_with_tools() -> None:
    bound = bind(dspy.Flex("question -> answer"), "add")
    assert bound.module_src == dspy.Flex("question -> answer", tools=[add]).module_src
    assert list(bound._bridge._tool_callables()) == ["add"]


@AGENTS
def test_the_original_keeps_its_tools(kind: Any) -> None:
    agent = kind(SIGNATURE, [search, lookup])
    before, words = dict(agent.tools), [s.instructions for s in prompts(agent)]
    bind(agent, "add")
    assert agent.tools == before
    assert [s.instructions for s in prompts(agent)] == words


@AGENTS
def test_what_an_optimizer_wrote_stays(kind: Any) -> None:
    agent = kind(SIGNATURE, [search, lookup])
    first = predictors(agent)[0][1]
    first.signature = signature_of(first).with_instructions(
        "Optimized.\n" + signature_of(first).instructions + "\nThe end."
    )
    written = prompts(bind(agent, "search, add"))[0].instructions
    assert written.startswith("Optimized.\n")
    assert written.endswith("\nThe end.")
    assert "add" in written
    assert "lookup" not in written


@AGENTS
def test_instructions_that_no_longer_list_the_tools_are_an_error(kind: Any) -> None:
    agent = kind(SIGNATURE, [search, lookup])
    first = predictors(agent)[0][1]
    first.signature = first.signature.with_instructions("Something else altogether.")
    with pytest.raises(BindingError, match="were rewritten"):
        bind(agent, "search")


def test_tools_and_instructions_go_together() -> None:
    bound = bind(dspy.ReAct(SIGNATURE, [search, lookup]), "add", instructions="Be quick.")
    built = dspy.ReAct(SIGNATURE.with_instructions("Be quick."), [add])
    assert [s.instructions for s in prompts(bound)] == [s.instructions for s in prompts(built)]


@AGENTS
@pytest.mark.parametrize("value", ["nothing", "", 7, "search, os.system", "finish, submit", '["search", 1]'])
def test_only_registered_tools_and_the_agents_own_can_be_named(kind: Any, value: Any) -> None:
    with pytest.raises(ValidationError, match="registered tool|list names"):
        bind(kind(SIGNATURE, [search]), value)


def test_code_act_takes_functions_only() -> None:
    TOOLS.register(Callable(), "callable_tool")
    try:
        with pytest.raises(ValidationError, match="only functions"):
            bind(dspy.CodeAct(SIGNATURE, [search]), "callable_tool")
    finally:
        TOOLS.unregister("callable_tool")


def test_the_same_tools_are_built_once() -> None:
    agent = dspy.ReAct(SIGNATURE, [search, lookup])
    assert prompts(bind(agent, "add"))[0] is prompts(bind(agent, "add"))[0]


def test_code_acts_tools_have_a_source() -> None:
    tools = bind(dspy.CodeAct(SIGNATURE, [search]), "add").tools
    assert "add" in tools
    assert all(inspect.getsource(tool.func) for tool in tools.values())
