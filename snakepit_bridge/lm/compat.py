"""What the LM room uses of DSPy 3.4 that is private to it: parts of its vendored lm15 client.

A release of DSPy may move any of it, so it is imported here alone; ``tests/unit/dspy_integration/test_compat.py`` names
what has moved.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

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
from dspy.clients import execution as _execution
from dspy.clients._deprecation import warn_openai_messages
from dspy.clients.backend_selection import CLIENT_KEYS, select_backend
from dspy.clients.call_context import stream_emitted
from dspy.clients.call_result import CallResult
from dspy.clients.engines.litellm_engine import AsyncLiteLLMEngine
from dspy.clients.engines.lm15_engine import validate_request
from dspy.clients.errors import error_boundary
from dspy.lm15 import Message, Request, Response

__all__ = [
    "CLIENT_KEYS",
    "AsyncConnection",
    "AsyncConnectionPool",
    "AsyncLiteLLMEngine",
    "HttpResponse",
    "StdlibAsyncTransport",
    "build_wire_request",
    "call_on_loop",
    "lookup_provider",
    "parse_response",
    "post_embeddings",
    "read_access",
    "request_to_dict",
    "response_from_dict",
    "response_to_dict",
    "select_backend",
    "stream_emitted",
    "to_provider_error",
    "validate_request",
]


def parse_response(client: Any, request: Request, reply: HttpResponse) -> Response:
    """Return what the native client's own parser makes of a whole reply."""
    return client._inner.parse_response(request, reply)


_dspy = cast(Any, _execution)


async def call_on_loop(lm: Any, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> tuple[bool, Any]:
    """Make a call as ``BaseLM.acall`` does, without its two trips to a thread, one of which only estimates a price.

    Returns:
        Whether the call was made, and its outputs. It wasn't if it needs what only DSPy's own way has: DSPy's cache,
        its retries, several answers, or a stream.
    """
    call = _dspy.prepare(lm, prompt, messages, kwargs, asynchronous=True)
    if not call.managed or call.request is not None or call.cache or call.n > 1 or lm.num_retries:
        return False, None
    warn_openai_messages(lm, messages)
    backend, request, provider = _dspy._engine(lm, call, True)
    results: list[CallResult] = []
    try:
        with error_boundary(lm.model, provider=provider, unexpected=True):
            await _dspy._aattempt(lm, call, backend, request, provider, _dspy._Attempt(), results)
    except BaseException as exc:
        _dspy._hint_responses_api(lm, exc)
        _dspy._account_failed_call(lm, results, exc)
        raise
    return True, _dspy.finalize(lm, call, results[0])


def build_wire_request(client: Any, request: Request) -> tuple[str, bytes]:
    """Return the path below the base URL and the body of the HTTP request that the native client would send."""
    wire, _ = client._inner._build(request, stream=False)
    return wire.url.removeprefix(client._inner.base_url.rstrip("/")).partition("?")[0], wire.body


def read_access(client: Any, model: str) -> tuple[str, dict[str, str]]:
    """Return the base URL and the headers, with the key in clear text, of the native client's requests to a model."""
    wire, _ = client._inner._build(Request(model=model, messages=(Message.user("?"),)), stream=False)
    return client._inner.base_url.rstrip("/"), dict(wire.headers)


async def post_embeddings(client: Any, model: str, texts: Sequence[str]) -> Any:
    """Return the JSON of the reply of an OpenAI-compatible endpoint for embeddings, which the native client lacks.

    Raises:
        lm15.LM15Error: the provider or the connection failed, as in one of the native client's own calls.
        ValueError: the reply isn't JSON.
    """
    inner = client._inner
    wire, _ = inner._build(Request(model=model, messages=(Message.user("?"),)), stream=False)
    body = json.dumps({"model": model, "input": list(texts), "encoding_format": "float"}).encode()
    reply = await client._send(replace(wire, url=f"{inner.base_url.rstrip('/')}/embeddings", body=body))
    if reply.status >= 400:
        raise inner._http_error(reply)
    return json.loads(reply.body)


def to_provider_error(client: Any, status: int, body: str) -> Exception:
    """Return the error that the native client raises for a reply of such a status."""
    return client._inner.normalize_error(status, body)
