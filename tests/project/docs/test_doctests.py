"""The examples in docstrings run as they are printed, ``await`` at the top level included."""

from __future__ import annotations

import ast
import doctest
import inspect
import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from typing import Any

import dspy
import pytest
from celery import chain

from snakepit_bridge import dspy_integration
from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots import MemoryStore
from snakepit_bridge.testing import RecordingLM
from tests.project.house.product import module_paths


def docstrings_with_examples() -> Iterator[doctest.DocTest]:
    """Iterate over the product's docstrings that contain ``>>>``."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name, path in module_paths().items():
        if ">>> " in path.read_text(encoding="utf-8"):
            yield from (test for test in finder.find(import_module(name), name) if test.examples)


async def run(example: doctest.Example, names: dict[str, Any]) -> str:
    """Run one example in the given namespace, and return what the interactive interpreter would print."""
    code = compile(example.source, "<example>", "single", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with redirect_stdout(printed):
        pending = eval(code, names)  # noqa: S307 - our own docstrings
        if inspect.isawaitable(pending):
            await pending
    return printed.getvalue()


@pytest.fixture
async def names(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the examples take for granted: a session with variables, and a fleet whose results are there."""
    monkeypatch.setattr(Handle, "get", lambda *_: dspy.Prediction(answer="42"))
    context = SessionContext("s", MemoryStore())
    await context.set_variables({"llm_temperature": 0.3, "reasoning_strategy": "ChainOfThought"})
    public = {name: getattr(dspy_integration, name) for name in dspy_integration.__all__}
    fleet = Fleet(redis_url)
    fleet.register("answer", dspy.Predict("question -> answer"))
    fleet.register("sum", dspy.Predict("text -> summary"))
    return {**public, "dspy": dspy, "chain": chain, "Fleet": partial(Fleet, redis_url), "fleet": fleet, "ctx": context}


@pytest.mark.parametrize("docstring", list(docstrings_with_examples()), ids=lambda docstring: docstring.name)
async def test_the_examples_of_a_docstring_run(docstring: doctest.DocTest, names: dict[str, Any]) -> None:
    names = {**docstring.globs, **names}
    with (
        RecordingLM() as server,
        dspy.context(lm=dspy.LM("openai/demo", api_base=server.url, api_key="x", cache=False, num_retries=0)),
    ):
        for example in docstring.examples:
            assert await run(example, names) == example.want, example.source
