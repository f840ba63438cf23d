"""The blocking engine of an LM, for modules without an ``acall``, which run in threads."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Generator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import dspy
from dspy.lm15 import Request, Response

from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.lm.engine import LMEngine
from snakepit_bridge.lm.streaming import StreamEvent
from snakepit_bridge.process.home_loop import BlockingCallError, get_home_loop, run_blocking

_AWAIT_ADVICE = (
    "The program asks its LM by a blocking call inside a coroutine, which would hold up every other prediction of the "
    "process. Await it there: `await self.predict.acall(…)`."
)


class BlockingEngine:
    """Runs the calls of an asynchronous engine on the home loop, where they can be cancelled.

    It also reports the model's capabilities, read once from DSPy's own table.
    """

    def __init__(self, engine: LMEngine) -> None:
        self.async_engine = engine

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.async_engine!r})"

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def complete(self, request: Request) -> Response:
        """Return the LM's answer, as the asynchronous engine does.

        Raises:
            BridgeError: the program makes a blocking call in a coroutine, which would block the whole process.
        """
        try:
            return run_blocking(self.async_engine.complete(request))
        except BlockingCallError as exc:
            raise BridgeError(_AWAIT_ADVICE) from exc

    def stream(self, request: Request) -> Generator[StreamEvent]:
        """Yield the LM's answer as a stream of events; closing it early cancels the request."""
        events: queue.SimpleQueue[StreamEvent | None] = queue.SimpleQueue()

        async def follow() -> None:
            try:
                async with aclosing(self.async_engine.stream(request)) as stream:
                    async for event in stream:
                        events.put(event)
            finally:
                events.put(None)

        if asyncio._get_running_loop() is get_home_loop():
            raise BridgeError(_AWAIT_ADVICE)
        future = asyncio.run_coroutine_threadsafe(follow(), get_home_loop())
        try:
            while (event := events.get()) is not None:
                yield event
            future.result()
        finally:
            future.cancel()

    # ------------------------------------------------------------------ capabilities

    @property
    def supports_function_calling(self) -> bool:
        """Whether the model supports native function calling."""
        return self._capabilities.supports_function_calling

    @property
    def supports_reasoning(self) -> bool:
        """Whether the model supports reasoning."""
        return self._capabilities.supports_reasoning

    @property
    def supports_response_schema(self) -> bool:
        """Whether the model supports a JSON schema of its response."""
        return self._capabilities.supports_response_schema

    @property
    def supported_params(self) -> set[str]:
        """The LM keywords that the model supports."""
        return self._capabilities.supported_params

    @cached_property
    def _capabilities(self) -> Capabilities:
        return Capabilities.from_lm(self.async_engine.endpoint.build_dspy_lm())

    # ------------------------------------------------------------------ a saved module

    def dump_state(self) -> dict[str, Any]:
        """Return the state of the asynchronous engine."""
        return self.async_engine.dump_state()

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Self:
        """Return an engine for a saved endpoint, as the asynchronous engine does."""
        return cls(LMEngine.load_state(state))


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model supports, read once: DSPy searches its whole table for a model that isn't in it."""

    supports_function_calling: bool
    supports_reasoning: bool
    supports_response_schema: bool
    supported_params: set[str]

    @classmethod
    def from_lm(cls, lm: dspy.LM) -> Self:
        """Read them from DSPy's own LM."""
        return cls(
            lm.supports_function_calling, lm.supports_reasoning, lm.supports_response_schema, lm.supported_params
        )
