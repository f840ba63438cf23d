"""What the LM room uses of DSPy 3.4 that is private to it: parts of its vendored lm15 client.

A release of DSPy may move any of it, so it is imported here alone; ``tests/unit/dspy_integration/test_compat.py`` names
what has moved.
"""

from __future__ import annotations

from typing import Any

from dspy._vendor.lm15.providers.base import HttpResponse
from dspy._vendor.lm15.registry import lookup as lookup_provider
from dspy._vendor.lm15.serde import request_to_dict, response_from_dict, response_to_dict
from dspy._vendor.lm15.transports import StdlibAsyncTransport
from dspy._vendor.lm15.transports._async import (
    _AsyncConnection as AsyncConnection,  # pyright: ignore[reportPrivateUsage]
)
from dspy._vendor.lm15.transports._async import (
    _AsyncConnectionPool as AsyncConnectionPool,  # pyright: ignore[reportPrivateUsage]
)
from dspy.clients.backend_selection import CLIENT_KEYS, select_backend
from dspy.clients.call_context import stream_emitted
from dspy.clients.engines.litellm_engine import AsyncLiteLLMEngine
from dspy.clients.engines.lm15_engine import validate_request
from dspy.lm15 import Request, Response

__all__ = [
    "CLIENT_KEYS",
    "AsyncConnection",
    "AsyncConnectionPool",
    "AsyncLiteLLMEngine",
    "HttpResponse",
    "StdlibAsyncTransport",
    "lookup_provider",
    "parse_response",
    "request_to_dict",
    "response_from_dict",
    "response_to_dict",
    "select_backend",
    "stream_emitted",
    "validate_request",
]


def parse_response(client: Any, request: Request, reply: HttpResponse) -> Response:
    """Return what the native client's own parser makes of a whole reply."""
    return client._inner.parse_response(request, reply)
