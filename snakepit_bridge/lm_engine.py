"""The engine behind a profile's LM: one connection pool per event loop, and one door through which every call goes.

DSPy 3.4 takes a custom engine pair (``dspy.LM(engine=…, async_engine=…)``). Its own native engine stops at 100
connections, looks up the environment's proxies for every request and prepares each in a thread; this one does each of
these things once. What surrounds a call (limits, retries, a response cache) is handed in as ``around`` and sees
blocking, awaited and streamed calls alike.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self, cast

import dspy
from dspy.clients.backend_selection import select_backend
from dspy.lm15 import (
    AsyncResponseStream,
    Request,
    Resolution,
    Response,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamErrorEvent,
    StreamStartEvent,
    UnsupportedFeatureError,
    response_to_events,
)
from dspy.lm15 import TimeoutError as LMTimeout

from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.lm_backends import Backend, Compatible, Native
from snakepit_bridge.lm_endpoint import Endpoint
from snakepit_bridge.lm_keywords import rollout_id, with_extensions
from snakepit_bridge.loop import WaitForItself, home, run_blocking, run_home

StreamEvent = StreamStartEvent | StreamDeltaEvent | StreamEndEvent | StreamErrorEvent


class Pieces(Protocol):
    """Where the pieces of a streamed answer go as they come; ``any`` tells whether one has gone there."""

    any: bool

    async def __call__(self, event: StreamEvent) -> None: ...


@dataclass(frozen=True, slots=True)
class LMCall:
    """One LM call on its way out.

    Attributes:
        engine: the LM that was asked.
        request: what is asked, in DSPy's canonical form.
        pieces: where a streamed answer goes; None where the caller wants it whole.
        rollout_id: by which the caller tells samples of one request apart; it isn't sent.
    """

    engine: LMEngine
    request: Request
    pieces: Pieces | None = None
    rollout_id: int | None = None


_AWAIT = (
    "The program asks its LM by a blocking call inside a coroutine, which would hold up every other prediction of the "
    "process. Await it there: `await self.predict.acall(…)`."
)

Around = Callable[[LMCall], Coroutine[Any, Any, Response]]
"""What surrounds a call: it sends it (``call.engine.send``) or answers it by itself."""


class LMEngine:
    """The asynchronous engine of one LM: ``dspy.LM(engine=engine.blocking, async_engine=engine)``.

    Safe to share between threads and event loops; each loop has its own connections. Where ``around`` is given, every
    call goes to the process's home loop, since what surrounds it lives there.
    """

    def __init__(self, endpoint: Endpoint, around: Around | None = None) -> None:
        self.endpoint = endpoint
        self._around = around
        self._clients: dict[asyncio.AbstractEventLoop, Native] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.endpoint.profile!r}, {self.endpoint.model!r})"

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a copied module shares the connections

    # ------------------------------------------------------------------ DSPy's side

    async def complete(self, request: Request) -> Response:
        """Returns the LM's answer; raises DSPy's ``lm15`` errors, or what ``around`` raises."""
        return await self._door(LMCall(self, with_extensions(request), rollout_id=rollout_id()))

    async def stream(self, request: Request) -> AsyncGenerator[StreamEvent]:
        """Yields the LM's answer piece by piece; leaving it early ends the request."""
        pieces = _Queued(asyncio.get_running_loop())
        asking = asyncio.ensure_future(self._door(LMCall(self, with_extensions(request), pieces, rollout_id())))
        asking.add_done_callback(pieces.end)
        try:
            while (event := await pieces.events.get()) is not None:
                yield event
            response = await asking
            for event in () if pieces.any else response_to_events(response):
                yield event
        finally:
            asking.cancel()

    @cached_property
    def blocking(self) -> BlockingEngine:
        """The same engine for callers in threads."""
        return BlockingEngine(self)

    async def _door(self, call: LMCall) -> Response:
        if self._around is None:
            return await self.send(call.request, call.pieces)
        return await run_home(self._around(call))

    def dump_state(self) -> dict[str, Any]:
        """Returns the endpoint without its key, for a module that is saved with its LM."""
        said = self.endpoint
        return {"profile": said.profile, "model": said.model, "api_base": said.api_base, "engine": said.engine}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Self:
        """Returns an engine for a saved endpoint; its key is then the provider's environment variable's."""
        return cls(Endpoint(**state))

    # ------------------------------------------------------------------ the provider's side

    async def send(self, request: Request, pieces: Pieces | None = None) -> Response:
        """Returns the answer to one request, sent once.

        Raises:
            lm15.TimeoutError: it took longer than the endpoint's timeout.
            lm15.LM15Error: whatever else the provider or the way to it did.
        """
        try:
            async with asyncio.timeout(self.endpoint.timeout_s):
                return await self._send(request, pieces)
        except TimeoutError as late:
            if isinstance(late, LMTimeout):
                raise
            raise LMTimeout(f"no whole answer within {self.endpoint.timeout_s:g} s") from None

    async def _send(self, request: Request, pieces: Pieces | None) -> Response:
        resolution = self._resolution
        if resolution is None:
            return await _one(self._litellm, request, pieces)
        try:
            return await _one(self._native(resolution), request, pieces)
        except UnsupportedFeatureError:
            # DSPy's own promise of ``auto``: what the native client refuses, which it does before it sends
            # anything, goes through litellm.
            if self.endpoint.engine != "auto":
                raise
        return await _one(self._litellm, request, pieces)

    def _native(self, resolution: Resolution) -> Native:
        loop = asyncio.get_running_loop()
        found = self._clients.get(loop)
        if found is None:
            for closed in [known for known in self._clients if known.is_closed()]:
                del self._clients[closed]
            found = self._clients[loop] = Native(self.endpoint, resolution)
        return found

    @cached_property
    def _litellm(self) -> Compatible:
        return Compatible(self.endpoint)

    @cached_property
    def _resolution(self) -> Resolution | None:
        """What the native client makes of the model's name; None where litellm has to do."""
        selection = select_backend(self.endpoint.stock())
        return cast("Resolution | None", selection.resolution) if selection.native else None

    async def aclose(self) -> None:
        """Closes the connections of the running event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()


class BlockingEngine:
    """An engine for callers that can't await: it hands the call to the home loop, where it can be ended.

    It also answers DSPy's question what the model can do, from DSPy's own table, once.
    """

    def __init__(self, engine: LMEngine) -> None:
        self.awaited = engine

    def __repr__(self) -> str:
        return f"{self.awaited!r}.blocking"

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def complete(self, request: Request) -> Response:
        """Returns the LM's answer, as the awaited engine does.

        Raises:
            BridgeError: the program makes a blocking call in a coroutine, which would stop the whole process.
        """
        try:
            return run_blocking(self.awaited.complete(request))
        except WaitForItself as stuck:
            raise BridgeError(_AWAIT) from stuck

    def stream(self, request: Request) -> Generator[StreamEvent]:
        """Yields the LM's answer piece by piece; leaving it early ends the request."""
        events: queue.SimpleQueue[StreamEvent | None] = queue.SimpleQueue()

        async def follow() -> None:
            try:
                async with aclosing(self.awaited.stream(request)) as stream:
                    async for event in stream:
                        events.put(event)
            finally:
                events.put(None)

        if asyncio._get_running_loop() is home():
            raise BridgeError(_AWAIT)
        following = asyncio.run_coroutine_threadsafe(follow(), home())
        try:
            while (event := events.get()) is not None:
                yield event
            following.result()
        finally:
            following.cancel()

    # ------------------------------------------------------------------ what the model can do

    @property
    def supports_function_calling(self) -> bool:
        """Whether the model calls tools by itself."""
        return self._stock.supports_function_calling

    @property
    def supports_reasoning(self) -> bool:
        """Whether the model thinks before it answers."""
        return self._stock.supports_reasoning

    @property
    def supports_response_schema(self) -> bool:
        """Whether the model keeps to a JSON schema."""
        return self._stock.supports_response_schema

    @property
    def supported_params(self) -> set[str]:
        """The LM keywords that the model takes."""
        return self._stock.supported_params

    @cached_property
    def _stock(self) -> Abilities:
        return Abilities.of(self.awaited.endpoint.stock())

    # ------------------------------------------------------------------ a saved module

    def dump_state(self) -> dict[str, Any]:
        """Returns what the awaited engine does."""
        return self.awaited.dump_state()

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Self:
        """Returns an engine for a saved endpoint, as the awaited engine does."""
        return cls(LMEngine.load_state(state))


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model can do, read once: DSPy searches its whole table for a model that isn't in it."""

    supports_function_calling: bool
    supports_reasoning: bool
    supports_response_schema: bool
    supported_params: set[str]

    @classmethod
    def of(cls, lm: dspy.LM) -> Self:
        """Reads them from DSPy's own LM."""
        return cls(
            lm.supports_function_calling, lm.supports_reasoning, lm.supports_response_schema, lm.supported_params
        )


class _Queued:
    """The pieces of an answer on their way to their reader's loop; what surrounds the call may run on another one."""

    def __init__(self, reader: asyncio.AbstractEventLoop) -> None:
        self._reader = reader
        self.events: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
        self.any = False

    def end(self, asked: asyncio.Future[Response]) -> None:
        """Tells the reader that no more pieces come; one that has left doesn't want to know why."""
        self.events.put_nowait(None)
        if not asked.cancelled():
            asked.exception()

    async def __call__(self, event: StreamEvent) -> None:
        self.any = True
        if asyncio.get_running_loop() is self._reader:
            self.events.put_nowait(event)
        else:
            self._reader.call_soon_threadsafe(self.events.put_nowait, event)


async def _one(backend: Backend, request: Request, pieces: Pieces | None) -> Response:
    if pieces is None:
        return await backend.complete(request)
    async with AsyncResponseStream(backend.stream(request), request) as stream:
        async for event in stream.events():
            await pieces(event)
        return await stream.response()
