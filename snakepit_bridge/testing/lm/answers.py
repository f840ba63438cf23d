"""What a stand-in LM says: an answerer maps a question to output values, and this module holds the ready-made ones."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from snakepit_bridge.testing.lm.prompts import AskedQuestion, Schema
from snakepit_bridge.testing.lm.rendering import render
from snakepit_bridge.testing.lm.values import value_for

STAND_IN = "a deterministic stand-in, not a language model"

_TOOL = re.compile(r"^(?:\(\d+\) )?(\S+?)(?:, whose description is <desc>.*?</desc>)?\. It takes arguments (\{.*\})\.$")
_FINAL_FIELDS = re.compile(r"correct value mapping for the field\(s\): (.*)\.")


@dataclass(frozen=True, slots=True)
class Raw:
    """A completion that is sent word for word, however unparsable."""

    text: str


Answerer = Callable[[AskedQuestion], "Mapping[str, Any] | Raw"]
"""Given a question, returns values for its output fields, or ``Raw``. A field that it leaves out gets a made-up value
of the right type. It runs on the server's event loop: it must be quick and must not block."""


def complete(ask: AskedQuestion, answerer: Answerer) -> str:
    """Return the completion text for one question, in the form that the asking adapter parses."""
    answer = answerer(ask)
    if isinstance(answer, Raw):
        return answer.text
    if not ask.layout.outputs:
        return render("plain", answer or {"answer": f"This is {STAND_IN}."})
    missing = any(name not in answer for name in ask.output_names)
    filled = {**default_answer(ask), **answer} if missing else answer
    return render(ask.layout.style, {name: filled[name] for name in ask.output_names})


def default_answer(ask: AskedQuestion) -> dict[str, Any]:
    """Return a type-correct value for each output field, derived from a hash of the inputs.

    As a ReAct agent it calls the first tool once, then finishes. As ProgramOfThought it writes a program that submits.
    """
    seed = repr((sorted(ask.inputs.items()), ask.choice)) if ask.inputs else repr((ask.user, ask.choice))
    values = {output.name: value_for(output.schema, seed, output.name) for output in ask.layout.outputs}
    if {"next_tool_name", "next_tool_args"} <= values.keys():
        values |= _next_step(ask, seed)
    if "tools" in ask.inputs and any(output.annotation == "ToolCalls" for output in ask.layout.outputs):
        values |= _tool_call(ask, seed)
    if "generated_code" in values:
        values |= _program(ask, seed)
    return values


def _next_step(ask: AskedQuestion, seed: str) -> dict[str, Any]:
    """ReAct: the trajectory says whether a tool was called already."""
    tools = _tools(ask.instructions.splitlines())
    name = next((name for name in tools if name != "finish"), "finish")
    if "tool_name_0" in ask.inputs.get("trajectory", "") or name == "finish":
        return {"next_thought": "I have what I need.", "next_tool_name": "finish", "next_tool_args": {}}
    arguments = _arguments(ask, tools[name], seed)
    return {"next_thought": f"I need {name}.", "next_tool_name": name, "next_tool_args": arguments}


def _tool_call(ask: AskedQuestion, seed: str) -> dict[str, Any]:
    """ReActV2: the tools are an input, and earlier calls are messages."""
    tools = _tools(json.loads(ask.inputs["tools"]))
    called = any("tool_call_results" in str(message.get("content")) for message in ask.body["messages"])
    name = "submit" if called and "submit" in tools else next(iter(tools))
    calls = [{"name": name, "args": _arguments(ask, tools[name], seed)}]
    return {output.name: {"tool_calls": calls} for output in ask.layout.outputs if output.annotation == "ToolCalls"}


def _arguments(ask: AskedQuestion, schemas: Mapping[str, Schema], seed: str) -> dict[str, Any]:
    required = {name: schema for name, schema in schemas.items() if "default" not in schema}
    return {name: _argument(ask, schema, seed, name) for name, schema in required.items()}


def _argument(ask: AskedQuestion, schema: Schema, seed: str, name: str) -> Any:
    if schema.get("type") == "string" and schema.keys() <= {"type", "title", "description"}:
        return next(iter(ask.inputs.values()), name)
    return value_for(schema, seed, name)


def _tools(lines: Iterable[str]) -> dict[str, dict[str, Schema]]:
    """Return the described tools and their arguments' schemas, in order; DSPy writes schemas as Python literals."""
    matches = filter(None, map(_TOOL.match, lines))
    return {match[1]: ast.literal_eval(match[2]) for match in matches}


def _program(ask: AskedQuestion, seed: str) -> dict[str, Any]:
    wanted = _FINAL_FIELDS.search(ask.instructions)
    names = re.findall(r"`(\w+)`", wanted[1]) if wanted else ["answer"]
    result = {name: value_for({"type": "integer"}, seed, name) for name in names}
    code = f"```python\nresult = {result!r}\nSUBMIT(result)\n```"
    # CodeAct asks the same question and goes on until it is told that it has finished.
    return {"generated_code": code} | ({"finished": True} if "finished" in ask.output_names else {})


def scripted(answers: Iterable[Any] | Callable[[AskedQuestion], Any], *, repeat: bool = False) -> Answerer:
    """Return an answerer that says what it is told.

    Args:
        answers: one per question, in order, or a function of the question. A mapping gives output fields by name,
            ``Raw`` is sent word for word, an exception is raised in the server (the client gets a 500 that names it),
            and any other value goes to the signature's last output field.
        repeat: start again after the last one; otherwise one question too many is answered with a 500 that says so.
    """
    if callable(answers):
        return lambda ask: _placed(ask, answers(ask))
    return _Script(list(answers), repeat)


class _Script:
    def __init__(self, answers: list[Any], repeat: bool) -> None:
        self._answers = answers
        self._repeat = repeat
        self._asked = 0

    def __call__(self, ask: AskedQuestion) -> Mapping[str, Any] | Raw:
        turn, self._asked = self._asked, self._asked + 1
        if not self._answers or (turn >= len(self._answers) and not self._repeat):
            raise LookupError(f"the script has {len(self._answers)} answers and was asked {self._asked} times")
        return _placed(ask, self._answers[turn % len(self._answers)])


def _placed(ask: AskedQuestion, answer: Any) -> Mapping[str, Any] | Raw:
    if isinstance(answer, Exception):
        raise answer
    if isinstance(answer, Raw):
        return answer
    if isinstance(answer, Mapping):
        return cast(Mapping[str, Any], answer)
    return {ask.output_names[-1] if ask.output_names else "answer": answer}
