"""Exchange the tools of an agent: what DSPy builds from them at construction is rebuilt on the bound copy.

An agent's prompt describes its tools, and ReAct has a type of their names; replacing the attribute alone would describe
tools to the model that don't exist.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import dspy

from snakepit_bridge.dspy_integration.bounds import abbreviate
from snakepit_bridge.dspy_integration.compat import (
    RLM,
    Flex,
    ReActV2,
    build_code_act_instructions,
    build_rlm_signatures,
    get_flex_tools,
    rebuild_flex,
    set_rlm_tools,
)
from snakepit_bridge.dspy_integration.module_tree import clone
from snakepit_bridge.dspy_integration.registry import TOOLS
from snakepit_bridge.dspy_integration.targets import keywords
from snakepit_bridge.dspy_integration.targets.model import BoundValue
from snakepit_bridge.dspy_integration.targets.prompt import InstructionsRewrittenError, carry_over
from snakepit_bridge.exceptions import BindingError, ValidationError

AGENTS = (dspy.ReAct, ReActV2, RLM, Flex)  # CodeAct is a ReAct

# Built-in tools that an agent can't do without.
_FIXED_TOOLS = {ReActV2: "submit", dspy.CodeAct: "", dspy.ReAct: "finish"}

Tools = dict[str, Any]


def set_tools(agent: Any, bound: BoundValue) -> None:
    """Set the tools of a cloned agent: of those that it was built with, and of the registered ones.

    Raises:
        ValidationError: the value doesn't list names of such tools, or the agent can't use one of them.
        BindingError: the agent's optimized instructions no longer describe the tools.
    """
    chosen = _choose_tools(agent, bound)
    if isinstance(agent, Flex):
        return rebuild_flex(agent, agent.signature, list(chosen.values()))
    if isinstance(agent, dspy.CodeAct) and not all(inspect.isfunction(tool.func) for tool in chosen.values()):
        raise ValidationError(
            bound.variable, abbreviate(bound.value), "CodeAct runs the source of its tools: only functions"
        )
    _rebuild(agent, "tools", lambda copied: _equip(copied, chosen))
    return None


def set_max_llm_calls(rlm: Any, value: int) -> None:
    """Set the number of sub-queries of a cloned RLM, whose prompt mentions it."""
    _rebuild(rlm, "max_llm_calls", lambda copied: setattr(copied, "max_llm_calls", value))


def parse_names(bound: BoundValue) -> list[str]:
    """Read a list of names: ``"search, lookup"``, or a JSON list.

    Raises:
        ValidationError: it is neither.
    """
    value = keywords.parse_json_text(bound.value)
    names = re.split(r"\s*,\s*", value.strip()) if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) and n for n in cast(list[Any], names)):
        raise ValidationError(
            bound.variable, abbreviate(bound.value), "it must list names: 'search, lookup' or a JSON list"
        )
    return list(cast(list[str], names))


def _choose_tools(agent: Any, bound: BoundValue) -> Tools:
    its_own = _get_own_tools(agent)
    found = {name: TOOLS.find(name, bound.variable, its_own) for name in parse_names(bound)}
    return {name: tool if isinstance(tool, dspy.Tool) else _as_tool(tool) for name, tool in found.items()}


@functools.cache
def _as_tool(function: Callable[..., Any]) -> Any:
    return dspy.Tool(function)


def _get_own_tools(agent: Any) -> Tools:
    if isinstance(agent, Flex):
        return get_flex_tools(agent)
    return {name: tool for name, tool in agent.tools.items() if name != _find_fixed_tool(agent)}


def _find_fixed_tool(agent: Any) -> str:
    return next((name for kind, name in _FIXED_TOOLS.items() if isinstance(agent, kind)), "")


def _equip(agent: Any, chosen: Tools) -> None:
    if isinstance(agent, RLM):
        by_name = {tool.name: tool for tool in chosen.values()}
        set_rlm_tools(agent, by_name)
        return
    fixed = {name: tool for name, tool in agent.tools.items() if name == _find_fixed_tool(agent)}
    agent.tools = {**{tool.name: tool for tool in chosen.values()}, **fixed}


def _rebuild(agent: Any, attribute: str, change: Callable[[Any], None]) -> None:
    """Change an agent, and apply the same change to the signatures that it was built with."""
    before = _build_signatures(agent)
    change(agent)
    after = _build_signatures(agent)
    for name, signature in after.items():
        predictor = getattr(agent, name)
        try:
            predictor.signature = carry_over(predictor.signature, before[name], signature)
        except InstructionsRewrittenError:
            problem = f"the instructions of its {name} were rewritten and no longer say what {attribute} changes"
            raise BindingError(type(agent).__name__, attribute, problem) from None


def _build_signatures(agent: Any) -> Mapping[str, Any]:
    """Return the signatures that DSPy builds from an agent's present tools."""
    if isinstance(agent, RLM):
        action, extract = build_rlm_signatures(clone(agent))
        return {"generate_action": action, "extract": extract}
    if isinstance(agent, ReActV2):
        return {"react": _build_react_v2_signature(agent.signature, _ToolsByIdentity(agent.tools))}
    if isinstance(agent, dspy.CodeAct):
        coder = cast(Any, agent)
        lines = build_code_act_instructions(coder)
        return {"codeact": coder.codeact.signature.with_instructions("\n".join(lines))}
    return {"react": _build_react_signature(agent.signature, _ToolsByIdentity(_get_own_tools(agent)))}


class _ToolsByIdentity(dict[str, Any]):
    """Tools as a cache key: equal only if they are the same objects."""

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(tuple((name, id(tool)) for name, tool in self.items()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _ToolsByIdentity):
            return NotImplemented
        own, others = list(self.items()), list(other.items())
        return [(n, id(t)) for n, t in own] == [(n, id(t)) for n, t in others]


@functools.lru_cache(maxsize=256)
def _build_react_signature(signature: Any, tools: _ToolsByIdentity) -> Any:
    return dspy.ReAct(signature, list(tools.values())).react.signature


@functools.lru_cache(maxsize=256)
def _build_react_v2_signature(signature: Any, tools: _ToolsByIdentity) -> Any:
    agent = ReActV2(signature, [tool for name, tool in tools.items() if name != "submit"])
    return agent.react.signature
