"""A span for each call of a DSPy module or tool, through DSPy's callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from snakepit_bridge.telemetry import TELEMETRY, Span


def module_span_settings() -> Mapping[str, Any]:
    """Return the DSPy settings under which calls of modules and tools are traced; none if tracing is off."""
    if not TELEMETRY.tracer.enabled:
        return {}
    return {"callbacks": [*dspy.settings.get("callbacks", []), _MODULE_SPANS]}


class _ModuleSpans(BaseCallback):
    """Opens a span when a call starts and closes it when the call ends, which DSPy reports in the same context."""

    def __init__(self) -> None:
        self._spans: dict[str, Span] = {}

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start(call_id, f"{type(instance).__name__}.forward", {"dspex.module": type(instance).__name__})

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._end(call_id, exception)

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        name = str(getattr(instance, "name", type(instance).__name__))
        attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
        self._start(call_id, f"execute_tool {name}", attributes)

    def on_tool_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._end(call_id, exception)

    def _start(self, call_id: str, name: str, attributes: Mapping[str, Any]) -> None:
        span = TELEMETRY.tracer.span(name, attributes=attributes)
        self._spans[call_id] = span.__enter__()

    def _end(self, call_id: str, exception: BaseException | None) -> None:
        span = self._spans.pop(call_id, None)
        if span is not None:
            span.__exit__(None if exception is None else type(exception), exception, None)


_MODULE_SPANS = _ModuleSpans()
