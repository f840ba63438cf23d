"""While a bound copy runs, DSPy's trace and streams name the module's own predictors.

Optimizers find a trace's predictors by their identity, and stream listeners theirs; both know the module and not the
copy of one call.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import dspy

from snakepit_bridge.dspy_integration.module_tree import predictors


@contextmanager
def preserve_predictor_identity(module: Any, twin: Any) -> Generator[None]:
    """Let what a bound copy of a module does be the module's own doing, for optimizers and stream listeners."""
    own = dict(predictors(module))
    pairs = [(own[path], new) for path, new in predictors(twin) if path in own]
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
    """Tells a predictor whether somebody listens to it, which is all that it asks its listeners."""

    predict: Any


@dataclass(frozen=True, slots=True)
class _Stream:
    """Passes on what predictors send, under the ids of the originals, by which the chunks find their listeners."""

    stream: Any
    originals: Mapping[int, Any]

    async def send(self, item: Any) -> None:
        original = self.originals.get(getattr(item, "predict_id", 0))
        if original is not None:
            item.predict_id = id(original)
        await self.stream.send(item)
