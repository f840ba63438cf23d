"""The gRPC channels to one Elixir server: one for unary calls, others for streams; unresponsive ones are replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import grpc
import grpc.aio

from snakepit_bridge.elixir.errors import ElixirUnavailableError
from snakepit_bridge.process.aio import BackgroundTasks

# Erlang's HTTP servers allow 100 streams per connection; the 101st call waits, unnoticed, for one of them to end.
# A server may count a stream that has just ended a moment longer and reject the next, which gRPC then retries.
_STREAMS_PER_CHANNEL = 64
_CALLS_PER_CHANNEL = 32
_NO_ANSWER_STATUSES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


@dataclass(slots=True, eq=False)
class _StreamChannel:
    channel: grpc.aio.Channel
    streams: int = 0


class Channels:
    """Opens channels on demand.

    A connection whose packets are dropped looks open for minutes, and after a long partition TCP waits as long before
    it retransmits. So a channel without any answer for twice the timeout is replaced.
    """

    def __init__(
        self, address: str, timeout_s: float, max_answer_bytes: int, credentials: grpc.ChannelCredentials | None
    ) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._credentials = credentials
        self._options = [
            ("grpc.max_receive_message_length", max_answer_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),  # else all channels to one address share one connection
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
        ]
        self._unary: grpc.aio.Channel | None = None
        self._methods: dict[str, Callable[..., Awaitable[bytes]]] = {}
        self._opened_at = 0.0
        self._streams: list[_StreamChannel] = []
        self._closing = BackgroundTasks()
        self._call_slots = asyncio.Semaphore(_CALLS_PER_CHANNEL)
        self.answered_at = 0.0

    @asynccontextmanager
    async def call_slot(self) -> AsyncGenerator[None]:
        """Hold one of the limited slots for concurrent calls, waiting at most the call timeout.

        Raises:
            ElixirUnavailableError: no slot became free in time.
        """
        if self._call_slots.locked():
            await self._wait_for_slot()
        else:
            await self._call_slots.acquire()  # without a timeout: a timer would cost more than the rest
        try:
            yield
        finally:
            self._call_slots.release()

    async def _wait_for_slot(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._call_slots.acquire()
        except TimeoutError:
            problem = f"{_CALLS_PER_CHANNEL} calls are under way, and none ended within {self._timeout_s:g} s"
            raise ElixirUnavailableError(self._address, problem) from None

    def get_unary_method(self, path: str) -> tuple[grpc.aio.Channel, Callable[..., Awaitable[bytes]]]:
        """Return the channel for unary calls, and its callable for one method, from bytes to bytes."""
        if self._unary is None:
            self._unary, self._opened_at, self._methods = self._open(), time.monotonic(), {}
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = cast(
                "Callable[..., Awaitable[bytes]]", self._unary.unary_unary(path, None, None)
            )
        return self._unary, method

    @asynccontextmanager
    async def stream_channel(self) -> AsyncGenerator[grpc.aio.Channel]:
        """Yield a channel with capacity for one more stream."""
        held = next(
            (stream_channel for stream_channel in self._streams if stream_channel.streams < _STREAMS_PER_CHANNEL), None
        )
        if held is None:
            held = _StreamChannel(self._open())
            self._streams.append(held)
        held.streams += 1
        try:
            yield held.channel
        finally:
            held.streams -= 1
            if held.streams == 0 and held in self._streams:
                self._streams.remove(held)
                self._close_later(held.channel)

    def record_answer(self) -> None:
        """Record that the server has answered."""
        self.answered_at = time.monotonic()

    def record_failure(self, channel: grpc.aio.Channel, status: grpc.StatusCode) -> None:
        """Record a failed call: any status except unavailable or timed out is an answer."""
        if status not in _NO_ANSWER_STATUSES:
            self.record_answer()
        elif channel is self._unary and time.monotonic() - max(self.answered_at, self._opened_at) > 2 * self._timeout_s:
            self._unary = None
            self._close_later(channel)

    async def aclose(self) -> None:
        """Close all channels and cancel their calls."""
        channels = [stream_channel.channel for stream_channel in self._streams] + (
            [self._unary] if self._unary is not None else []
        )
        self._streams, self._unary = [], None
        for channel in channels:
            await channel.close()
        await self._closing.wait()

    def _open(self) -> grpc.aio.Channel:
        if self._credentials is not None:
            return grpc.aio.secure_channel(self._address, self._credentials, options=self._options)
        return grpc.aio.insecure_channel(self._address, options=self._options)

    def _close_later(self, channel: grpc.aio.Channel) -> None:
        """Close a channel after its calls' deadlines: calls that it cut off would look like cancelled tasks."""
        self._closing.spawn(channel.close(self._timeout_s))
