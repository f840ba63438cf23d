"""Predictions that run, as the gate sees them, for tests of what stands around their LM calls."""

from __future__ import annotations

import time
from typing import Any

from dspy.lm15 import Message, Request, Response, Usage
from pydantic import SecretStr

from snakepit_bridge.lm.blocking import BlockingEngine
from snakepit_bridge.lm.engine import LMCall
from snakepit_bridge.lm.profiles import LMProfile
from snakepit_bridge.programs.spec import CacheSpec
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable
from tasks.prediction_context import PredictionContext


def scope_of(
    task_id: str = "task", *, session: str = "s", cache: CacheSpec | None = None, **changes: Any
) -> PredictionContext:
    """A prediction whose result was looked at just now."""
    variables = changes.pop("variables", {})
    snapshot = Snapshot(session, Token(1, 1), {n: Variable.declare(n, v) for n, v in variables.items()}, 0.0)
    return PredictionContext(
        task_id, session, "qa", 1, snapshot, cache=cache, checked_at=time.monotonic() + 1_000, **changes
    )


def request(text: str = "why?", **config: Any) -> Request:
    """A request for a text."""
    return Request(model="openai/demo", messages=(Message.user(text),), **config)


def response(text: str = "because") -> Response:
    """An answer that took three tokens and two."""
    return Response(id="1", model="demo", message=Message.assistant(text), finish_reason="stop", usage=Usage(3, 2))


def call(model: str = "openai/demo", key: str = "k", base: str = "http://x/v1", text: str = "why?") -> LMCall:
    """A call of the LM that a profile of these fields builds."""
    engine: Any = LMProfile("demo", model, base, SecretStr(key)).build().engine
    assert isinstance(engine, BlockingEngine)
    return LMCall(engine.async_engine, request(text))


def prediction(session: str = "s", share: Any = "session") -> PredictionContext:
    """A prediction whose program keeps answers for a minute, shared as said."""
    return scope_of(session=session, cache=CacheSpec(ttl_s=60, share=share))


def snapshot(session: str, **values: Any) -> Snapshot:
    """A session's variables; in their names __ stands for a dot."""
    named = {name.replace("__", "."): value for name, value in values.items()}
    return Snapshot(session, Token(1, 1), {name: Variable.declare(name, value) for name, value in named.items()}, 0.0)
