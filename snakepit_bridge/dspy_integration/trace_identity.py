"""Keep predictors' identity in DSPy's trace and streams while a bound copy runs.

Optimizers and stream listeners find predictors by identity, and they know the original module, not the copy of one
call.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import dspy

from snakepit_bridge.dspy_integration.module_tree import predictors


@contextmanager
def preserve_predictor_identity(module: Any, bound_copy: Any) -> Generator[None]:
    """Attribute the calls of a bound copy to the original module's predictors, in the trace and in streams."""
    own = dict(predictors(module))
    pairs = [(own[path], new) for path, new in predictors(bound_copy) if path in own]
    originals = {id(new): original for original, new in pairs}
    trace: list[Any] | None = dspy.settings.trace
    start = len(trace) if trace is not None else 0
    try:
        with _redirect_streams(originals, {id(original): new for original, new in pairs}):
            yield
    finally:
        if trace is not None:
            for index in range(start, len(trace)):
                ran, *rest = trace[index]
                trace[index] = (originals.get(id(ran), ran), *rest)


def _redirect_streams(originals: Mapping[int, Any], copies: Mapping[int, Any]) -> Any:
    if dspy.settings.send_stream is None or not dspy.settings.stream_listeners:
        return nullcontext()
    listeners = [_Listener(copies.get(id(each.predict), each.predict)) for each in dspy.settings.stream_listeners]
    return dspy.context(send_stream=_Stream(dspy.settings.send_stream, originals), stream_listeners=listeners)


@dataclass(frozen=True, slots=True, eq=False)
class _Listener:
    """Shows a predictor that a listener is registered for it, which is all that it checks."""

    predict: Any


@dataclass(frozen=True, slots=True)
class _Stream:
    """Forwards chunks of the copied predictors under the ids of the originals, by which listeners are found."""

    stream: Any
    originals: Mapping[int, Any]

    async def send(self, item: Any) -> None:
        original = self.originals.get(getattr(item, "predict_id", 0))
        if original is not None:
            item.predict_id = id(original)
        await self.stream.send(item)
