"""Tools that mustn't run twice for one prediction: on the fleet their results are recorded as LM answers are."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import dspy

P = ParamSpec("P")
R = TypeVar("R")

TOOL_JOURNAL_SETTING = "dspex_tool_journal"
"""DSPy setting: what records the results of the running prediction's tools; None if nothing does."""

tool_call_id: ContextVar[str] = ContextVar("dspex_tool_call_id", default="")
"""The id of the running call of a tool: the same if the prediction runs again, and empty outside of the fleet.

A service that takes an idempotency key takes this one, so that the call has its effect once whatever happens.
"""


class ToolJournal(Protocol):
    """Records the results of tools, and returns those that are recorded."""

    def call(self, name: str, arguments: Mapping[str, Any], run: Callable[[], Any]) -> Any:
        """Return the recorded result of a call, or run the tool and record its result."""
        ...

    async def acall(self, name: str, arguments: Mapping[str, Any], run: Callable[[], Awaitable[Any]]) -> Any:
        """Return the recorded result of a call, or await the tool and record its result."""
        ...


def tool(*, idempotent: bool) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Say of a tool whether it may run twice for one prediction.

    Where a tool isn't idempotent, such as one that pays or sends, a prediction that runs again takes the recorded
    result of the call. What such a tool returns must be JSON, else it isn't recorded.

    Args:
        idempotent: whether it may. A tool without this decorator may.

    Returns:
        The decorator.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if idempotent:
            return function
        return _record_async(function) if inspect.iscoroutinefunction(function) else _record_sync(function)

    return decorate


def _record_sync(function: Callable[P, R]) -> Callable[P, R]:
    name, signature = _name_of(function), inspect.signature(function)

    @functools.wraps(function)
    def run_once(*args: P.args, **kwargs: P.kwargs) -> R:
        journal = _find_journal()
        if journal is None:
            return function(*args, **kwargs)
        arguments = signature.bind(*args, **kwargs).arguments
        return journal.call(name, arguments, lambda: function(*args, **kwargs))

    return run_once


def _record_async(function: Callable[P, Any]) -> Callable[P, Any]:
    name, signature = _name_of(function), inspect.signature(function)

    @functools.wraps(function)
    async def run_once(*args: P.args, **kwargs: P.kwargs) -> Any:
        journal = _find_journal()
        if journal is None:
            return await function(*args, **kwargs)
        arguments = signature.bind(*args, **kwargs).arguments
        return await journal.acall(name, arguments, lambda: function(*args, **kwargs))

    return run_once


def _name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _find_journal() -> ToolJournal | None:
    return cast("ToolJournal | None", dspy.settings.get(TOOL_JOURNAL_SETTING))
