"""Middleware as a user writes it, and objects that are none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dspy.lm15 import Message, Response

from snakepit_bridge.lm.middleware import MiddlewareCall, NextMiddleware

SEEN: list[str] = []


class Outer:
    """Notes each call, and adds a message."""

    async def __call__(self, call: MiddlewareCall, call_next: NextMiddleware) -> Response:
        SEEN.append("outer")
        request = call.request
        return await call_next(call.with_request(replace(request, messages=(*request.messages, Message.user("more")))))


async def inner(call: MiddlewareCall, call_next: NextMiddleware) -> Response:
    """Note what the call belongs to and how many messages it has by now."""
    SEEN.append(f"inner {call.profile} {call.program} {call.task_id} {len(call.request.messages)}")
    return await call_next(call)


async def forgetful(call: MiddlewareCall, call_next: NextMiddleware) -> Any:
    """Forget to return the response."""
    await call_next(call)


class Blocking:
    """Isn't awaited."""

    def __call__(self, call: Any, call_next: Any) -> Any:
        return None


class Fussy:
    """Can't be created without an argument."""

    def __init__(self, limit: int) -> None:
        self.limit = limit


async def lonely(call: Any) -> Any:
    """Take no rest of the chain."""
