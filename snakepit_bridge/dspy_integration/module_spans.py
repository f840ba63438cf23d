"""A span for each call of a DSPy module or tool, and the duration of each tool.

The methods themselves are wrapped. DSPy's callbacks would take several times as long as the spans: for each call of a
module, an LM and an adapter they look its signature up anew. And a program that sets callbacks would switch them off.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import dspy

from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import TOOL_DURATION

_CALLS = ((dspy.Module, "__call__"), (dspy.Module, "acall"), (dspy.Tool, "__call__"), (dspy.Tool, "acall"))
_UNTRACED = tuple(getattr(traced_class, name) for traced_class, name in _CALLS)


def trace_modules() -> None:
    """Record every call of a module and a tool in this process, while telemetry is on. Only for worker processes."""
    for (traced_class, name), method in zip(_CALLS, _UNTRACED, strict=True):
        trace = _trace_coroutine_method if inspect.iscoroutinefunction(method) else _trace_method
        setattr(traced_class, name, trace(method))


def untrace_modules() -> None:
    """Let modules and tools be called in this process as DSPy has it."""
    for (traced_class, name), method in zip(_CALLS, _UNTRACED, strict=True):
        setattr(traced_class, name, method)


def _trace_method(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _record(self):
            return method(self, *args, **kwargs)

    return traced


def _trace_coroutine_method(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _record(self):
            return await method(self, *args, **kwargs)

    return traced


def _record(called: dspy.Module | dspy.Tool) -> AbstractContextManager[Any]:
    if isinstance(called, dspy.Tool):
        return _record_tool(str(called.name))
    module = type(called).__name__
    return TELEMETRY.tracer.span(f"{module}.forward", attributes={"dspex.module": module})


@contextmanager
def _record_tool(name: str) -> Generator[None]:
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
    started, error_type = time.perf_counter(), ""
    try:
        with TELEMETRY.tracer.span(f"execute_tool {name}", attributes=attributes):
            yield
    except BaseException as exc:
        error_type = type(exc).__name__
        raise
    finally:
        labels = {"gen_ai.tool.name": name, "error.type": error_type}
        TELEMETRY.meter.record(TOOL_DURATION, time.perf_counter() - started, labels)
