"""The engine behind a profile's LM: one connection pool per event loop, and one entry point for every call.

DSPy 3.4 takes a custom engine pair (``dspy.LM(engine=…, async_engine=…)``). Its own native engine is limited to 100
connections, looks up the environment's proxies for every request and prepares each in a thread; this one does each of
these things once. Rate limits, retries and the response cache are handed in as middleware, which wraps blocking,
awaited and streamed calls alike.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self, cast

from dspy.lm15 import Request, Resolution, Response, UnsupportedFeatureError, response_to_events
from dspy.lm15 import TimeoutError as LMTimeout

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.lm.backends import LiteLLMBackend, Lm15Backend
from snakepit_bridge.lm.compat import lookup_provider, select_backend, stream_emitted
from snakepit_bridge.lm.endpoint import Endpoint
from snakepit_bridge.lm.extensions import add_extensions, get_rollout_id, split_original_messages
from snakepit_bridge.lm.http_fields import find_key_problem
from snakepit_bridge.lm.models import drop_unsupported
from snakepit_bridge.lm.streaming import StreamEvent, StreamQueue, StreamSink, fetch_response, find_stream_observer
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.process.open_files import OPEN_FILES


@dataclass(frozen=True, slots=True)
class LMCall:
    """One LM call, as the middleware sees it.

    Attributes:
        engine: the engine of the LM that was called.
        request: the request, in DSPy's canonical form.
        sink: where a streamed answer goes; None where the caller wants it whole.
        rollout_id: distinguishes samples of one request; it isn't sent.
    """

    engine: LMEngine
    request: Request
    sink: StreamSink | None = None
    rollout_id: int | None = None


LMMiddleware = Callable[[LMCall], Coroutine[Any, Any, Response]]
"""Wraps a call: sends it (``call.engine.send``) or answers it itself."""


@dataclass(slots=True)
class Answering:
    """The API that answers a request, also where the answer is an error.

    Attributes:
        dialect: as ``LMEngine.dialect`` names it; empty for litellm, which counts tokens in OpenAI's way.
    """

    dialect: str


_answering: ContextVar[Answering | None] = ContextVar("dspex_answering", default=None)


@contextmanager
def note_answering(dialect: str) -> Generator[Answering]:
    """Have the request of the block note the API that it is sent to; until then it is ``dialect``."""
    answering = Answering(dialect)
    token = _answering.set(answering)
    try:
        yield answering
    finally:
        _answering.reset(token)


def answer_by(dialect: str) -> None:
    """Note the API that the current request is sent to."""
    answering = _answering.get()
    if answering is not None:
        answering.dialect = dialect


class LMEngine:
    """The asynchronous engine of one LM: ``dspy.LM(engine=BlockingEngine(engine), async_engine=engine)``.

    Safe to share between threads and event loops; each loop has its own connections. With middleware, every call runs
    on the process's home loop, where the middleware lives.
    """

    operation: ClassVar[str] = "chat"
    """What it does, as OpenTelemetry's conventions call it."""

    def __init__(self, endpoint: Endpoint, middleware: LMMiddleware | None = None) -> None:
        self.endpoint = endpoint
        self._middleware = middleware
        self._backends: dict[asyncio.AbstractEventLoop, Lm15Backend] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.endpoint.profile!r}, {self.endpoint.model!r})"

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a copied module shares the connections

    @property
    def has_middleware(self) -> bool:
        """Whether its calls pass through middleware, as on a worker."""
        return self._middleware is not None

    # ------------------------------------------------------------------ DSPy's side

    async def complete(self, request: Request) -> Response:
        """Return the LM's answer; raise DSPy's ``lm15`` errors, or what the middleware raises."""
        request = add_extensions(request)
        pieces = find_stream_observer(request)
        response = await self._dispatch(LMCall(self, request, pieces, get_rollout_id()))
        if pieces is not None:
            pieces.ended(response)
        if response.finish_reason == "length":
            # DSPy would retry an answer that it can't parse, in another format. That would be cut off again, and the
            # error would be about the second answer. It doesn't retry once output has been streamed.
            stream_emitted()
        return response

    async def stream(self, request: Request) -> AsyncGenerator[StreamEvent]:
        """Yield the LM's answer as a stream of events; closing it early cancels the request."""
        pieces = StreamQueue(asyncio.get_running_loop())
        dispatching = asyncio.ensure_future(
            self._dispatch(LMCall(self, add_extensions(request), pieces, get_rollout_id()))
        )
        dispatching.add_done_callback(pieces.finish)
        try:
            while (event := await pieces.events.get()) is not None:
                yield event
            response = await dispatching
            for event in () if pieces.any else response_to_events(response):
                yield event
        finally:
            dispatching.cancel()

    async def _dispatch(self, call: LMCall) -> Response:
        if self._middleware is None:
            return await self.send(call.request, call.sink)
        return await run_on_home_loop(self._middleware(call))

    def dump_state(self) -> dict[str, Any]:
        """Return the endpoint without its key, for a module that is saved with its LM."""
        endpoint = self.endpoint
        return {
            "profile": endpoint.profile,
            "model": endpoint.model,
            "api_base": endpoint.api_base,
            "engine": endpoint.engine,
        }

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Self:
        """Return an engine for a saved endpoint; its key is then the provider's environment variable's."""
        return cls(Endpoint(**state))

    # ------------------------------------------------------------------ the provider's side

    async def send(self, request: Request, sink: StreamSink | None = None) -> Response:
        """Return the response to one request, sent once and without keywords that the model doesn't support.

        Raises:
            lm15.TimeoutError: it took longer than the endpoint's timeout.
            lm15.LM15Error: the provider or the connection failed otherwise.
        """
        request, _ = self.drop_unsupported(request)
        async with OPEN_FILES.connection():
            return await OPEN_FILES.wait_for_files(lambda: self._send_within_timeout(request, sink))

    def drop_unsupported(self, request: Request) -> tuple[Request, tuple[str, ...]]:
        """Return a request without the keywords that the model doesn't support, and their names."""
        return drop_unsupported(self.endpoint.model, request)

    async def _send_within_timeout(self, request: Request, pieces: StreamSink | None) -> Response:
        try:
            async with asyncio.timeout(self.endpoint.timeout_s):
                return await self._send(request, pieces)
        except TimeoutError as exc:
            if isinstance(exc, LMTimeout):
                raise
            raise LMTimeout(f"no whole answer within {self.endpoint.timeout_s:g} s") from None

    async def _send(self, request: Request, pieces: StreamSink | None) -> Response:
        resolution = self._resolution
        request, messages = split_original_messages(request)
        if messages is not None:
            if resolution is not None and self.endpoint.engine == "lm15":
                raise UnsupportedFeatureError("a message has parts that the native client can't send; use engine auto")
            return await self._send_by_litellm(self._litellm_backend.with_messages(messages), request, pieces)
        if resolution is None:
            return await self._send_by_litellm(self._litellm_backend, request, pieces)
        answer_by(self.dialect)
        try:
            return await fetch_response(self._get_lm15_backend(resolution), request, pieces)
        except UnsupportedFeatureError:
            # What the native client doesn't support, which it reports before it sends anything, goes through litellm:
            # that is DSPy's meaning of ``auto``.
            if self.endpoint.engine != "auto":
                raise
        return await self._send_by_litellm(self._litellm_backend, request, pieces)

    @staticmethod
    async def _send_by_litellm(backend: LiteLLMBackend, request: Request, pieces: StreamSink | None) -> Response:
        answer_by("")
        return await fetch_response(backend, request, pieces)

    def _get_lm15_backend(self, resolution: Resolution) -> Lm15Backend:
        loop = asyncio.get_running_loop()
        found = self._backends.get(loop)
        if found is None:
            for closed in [known for known in self._backends if known.is_closed()]:
                del self._backends[closed]
            found = self._backends[loop] = Lm15Backend(self.endpoint, resolution)
        return found

    # ------------------------------------------------------------------ batches

    async def build_batch_request(self, request: Request) -> tuple[str, bytes]:
        """Return the path and the body that a batch has for a request.

        Raises:
            lm15.UnsupportedFeatureError: no batch can hold it.
            lm15.LM15Error: it can't be built.
        """
        request, _ = self.drop_unsupported(request)
        request, messages = split_original_messages(request)
        if messages is not None:
            raise UnsupportedFeatureError("a message has parts that a batch can't hold; use a profile without a tier")
        return await self._native_backend.build_wire_request(request)

    async def parse_batch_reply(self, request: Request, status: int, body: str) -> Response:
        """Return the response of a batch's reply to a request; raise ``lm15`` errors."""
        request, _ = self.drop_unsupported(request)
        request, _ = split_original_messages(request)
        return await self._native_backend.parse_reply(request, status, body)

    async def read_access(self) -> tuple[str, dict[str, str]]:
        """Return the provider's base URL and the headers of requests, with the key: for a client, never for a log."""
        return await self._native_backend.read_access()

    @property
    def _native_backend(self) -> Lm15Backend:
        resolution = self._resolution
        if resolution is None:
            raise UnsupportedFeatureError(f"{self.endpoint.model} is reached by litellm, which has no batches here")
        return self._get_lm15_backend(resolution)

    def check(self) -> None:
        """Find out how the model is reached, without asking it.

        Raises:
            ConfigurationError: no provider serves it, or its key can't be sent.
        """
        resolution = self._resolution
        model = self.endpoint.model
        if resolution is None and "/" not in model:
            raise ConfigurationError(f"the model '{model}' names no provider; write it as provider/model")
        if resolution is None or self.endpoint.api_key is not None:
            return
        definition = lookup_provider(resolution.provider)
        for name in definition.access.env_keys if definition is not None else ():
            problem = find_key_problem(os.environ[name]) if os.environ.get(name) else None
            if problem is not None:
                raise ConfigurationError(f"the provider's key in the environment variable {name} {problem}")

    @cached_property
    def _litellm_backend(self) -> LiteLLMBackend:
        return LiteLLMBackend(self.endpoint)

    @cached_property
    def _resolution(self) -> Resolution | None:
        """How the native client resolves the model's name; None if litellm has to serve it."""
        selection = select_backend(self.endpoint.build_dspy_lm())
        return cast("Resolution | None", selection.resolution) if selection.native else None

    @cached_property
    def dialect(self) -> str:
        """The API that the native client speaks, such as ``openai-chat``, ``anthropic`` or ``gemini``.

        ``xai`` is its own, as it counts tokens in another way than ``openai-chat``. It is empty for models that litellm
        serves.
        """
        provider = "" if self._resolution is None else self._resolution.provider
        definition = lookup_provider(provider) if provider else None
        return provider if provider == "xai" else "" if definition is None else str(definition.dialect)

    async def warm(self) -> None:
        """Build the client of the running event loop, so that no call has to wait for that.

        Raises:
            lm15.LM15Error: the client can't be built, for example without a key.
        """
        resolution = await asyncio.to_thread(lambda: self._resolution)
        await (self._litellm_backend if resolution is None else self._get_lm15_backend(resolution)).warm()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        client = self._backends.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()
