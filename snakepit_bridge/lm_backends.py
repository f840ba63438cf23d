"""The two ways to a provider that an engine has: DSPy's native client with a pool of our size, and litellm."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol
from urllib.request import getproxies

# The one name of it that DSPy doesn't offer in `dspy.lm15`: its router builds this transport, but with its own size.
from dspy._vendor.lm15.transports import StdlibAsyncTransport
from dspy.clients.engines.litellm_engine import AsyncLiteLLMEngine
from dspy.clients.engines.lm15_engine import validate_request
from dspy.lm15 import (
    AsyncLMRouter,
    ConfigurationError,
    LM15Error,
    Request,
    Resolution,
    Response,
    RouterConfig,
    registered_providers,
)

from snakepit_bridge.http_fields import headers_problem, url_problem
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


class _Transport(StdlibAsyncTransport):
    """The transport, which refuses what can't be sent before it opens a connection.

    Left to itself it would find out while it sends, call it a failure of the network, and quote the header.
    """

    def stream(self, request: Any) -> Any:
        """Returns the connection to the response.

        Raises:
            lm15.ConfigurationError: no request can be built of this.
        """
        problem = headers_problem(request.headers) or url_problem(request.url)
        if problem is not None:
            raise unbuildable(problem)
        return super().stream(request)


def unbuildable(problem: str) -> ConfigurationError:
    """Returns the error of a request that can't be built, which no other try mends."""
    return ConfigurationError(f"the request can't be built: {problem}", code="unbuildable_request")


def _transport(endpoint: Endpoint) -> StdlibAsyncTransport:
    """A pool as large as the endpoint says, without timers of its own.

    A request has one timer, the engine's. Each of the transport's would be a task more, three of them per request.
    """
    never: Any = None
    return _Transport(
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
        engine = await self._loaded()
        with _told_apart():
            return await engine.complete(request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """Yields the answer's events; raises ``lm15`` errors."""
        engine = await self._loaded()
        with _told_apart():
            async for event in engine.stream(request):
                yield event

    async def aclose(self) -> None:
        """Leaves litellm's clients open: the whole process shares them."""

    async def _loaded(self) -> AsyncLiteLLMEngine:
        if self._engine is None:
            # Its import takes seconds, in which every other prediction of the process would stand still.
            await asyncio.to_thread(importlib.import_module, "litellm")
            self._engine = AsyncLiteLLMEngine(model_type=self._endpoint.model_type, **self._endpoint.connection())
        return self._engine


@contextmanager
def _told_apart() -> Generator[None]:
    """Tells what litellm couldn't build from what the network did: it calls both a failed connection."""
    try:
        yield
    except LM15Error as error:
        if any(isinstance(cause, UnicodeEncodeError) or type(cause).__name__ in _UNBUILT for cause in _causes(error)):
            raise unbuildable("a header or the URL holds what HTTP can't carry") from error
        raise


# httpx's and h11's; neither is imported here, as a fleet may do without litellm.
_UNBUILT = frozenset({"LocalProtocolError", "InvalidURL", "UnsupportedProtocol"})


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        cause = left.pop()
        if cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            left += [cause.__cause__, cause.__context__]
