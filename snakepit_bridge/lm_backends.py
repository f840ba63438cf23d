"""The two ways to a provider that an engine has: DSPy's native client with a pool of our size, and litellm."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Protocol
from urllib.request import getproxies

# The one name of it that DSPy doesn't offer in `dspy.lm15`: its router builds this transport, but with its own size.
from dspy._vendor.lm15.transports import StdlibAsyncTransport
from dspy.clients.engines.litellm_engine import AsyncLiteLLMEngine
from dspy.clients.engines.lm15_engine import validate_request
from dspy.lm15 import AsyncLMRouter, Request, Resolution, Response, RouterConfig, registered_providers

from snakepit_bridge.lm_endpoint import Endpoint


class Backend(Protocol):
    """One way to a provider, which sends a request once."""

    async def complete(self, request: Request) -> Response:
        """Returns the answer; raises ``lm15`` errors."""
        ...

    def stream(self, request: Request) -> AsyncIterator[Any]:
        """Yields the answer's events; raises ``lm15`` errors."""
        ...

    async def aclose(self) -> None:
        """Closes its connections."""
        ...


class Native:
    """DSPy's native client for one model on one event loop.

    DSPy's own engine finds the provider anew for each request, in a thread since that may read credentials; here that
    happens with the first one.
    """

    def __init__(self, endpoint: Endpoint, resolution: Resolution) -> None:
        provider = resolution.provider
        self._model = resolution.model
        self._name = f"{provider}:{resolution.model}"
        self._transport = _transport(endpoint)
        config = RouterConfig(
            api_keys=None if endpoint.api_key is None else {provider: endpoint.api_key.get_secret_value()},
            base_urls=None if endpoint.api_base is None else {provider: endpoint.api_base},
            transport=self._transport,
            providers=tuple(each.definition for each in registered_providers()),
        )
        self._router = AsyncLMRouter(config)
        self._client: Any = None

    async def complete(self, request: Request) -> Response:
        """Returns the answer; raises ``lm15`` errors."""
        validate_request(request)
        client = self._client or await self._found()
        return await client.complete(replace(request, model=self._model))

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """Yields the answer's events; raises ``lm15`` errors."""
        validate_request(request)
        client = self._client or await self._found()
        async for event in client.stream(replace(request, model=self._model)):
            yield event

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._transport.aclose()

    async def _found(self) -> Any:
        self._client = await asyncio.to_thread(self._router.lm, self._name)
        return self._client


def _transport(endpoint: Endpoint) -> StdlibAsyncTransport:
    """A pool as large as the endpoint says, without timers of its own.

    A request has one timer, the engine's. Each of the transport's would be a task more, three of them per request.
    """
    never: Any = None
    return StdlibAsyncTransport(
        connect_timeout=min(10.0, endpoint.timeout_s),
        read_timeout=never,
        write_timeout=never,
        pool_timeout=None,
        max_connections=endpoint.max_connections,
        # It would read the whole environment for every request; a process finds out once whether there is a proxy.
        trust_env=bool(getproxies()),
    )


class Compatible:
    """litellm, for endpoints and requests that the native client has no form for. Its clients are its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._engine: AsyncLiteLLMEngine | None = None

    async def complete(self, request: Request) -> Response:
        """Returns the answer; raises ``lm15`` errors."""
        return await (await self._loaded()).complete(request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """Yields the answer's events; raises ``lm15`` errors."""
        async for event in (await self._loaded()).stream(request):
            yield event

    async def aclose(self) -> None:
        """Leaves litellm's clients open: the whole process shares them."""

    async def _loaded(self) -> AsyncLiteLLMEngine:
        if self._engine is None:
            # Its import takes seconds, in which every other prediction of the process would stand still.
            await asyncio.to_thread(importlib.import_module, "litellm")
            self._engine = AsyncLiteLLMEngine(model_type=self._endpoint.model_type, **self._endpoint.connection())
        return self._engine
