"""kombu's Redis transport with our channels and poller."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as stock

from workers import PACKAGE
from workers.broker.channel import Channel

TRANSPORT = f"{PACKAGE}.broker:Transport"
"""The import path of the transport."""


def register_transport() -> None:
    """Let URLs name the transport by ``dspex+``."""
    TRANSPORT_ALIASES["dspex"] = TRANSPORT


class Transport(stock.Transport):
    """The transport ``workers.broker:Transport``."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Register the channels with the event loop."""
        before = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)
        # kombu's callback registers every socket again in each iteration of the loop.
        loop.on_tick.difference_update(loop.on_tick - before)
        loop.on_tick.add(self._on_tick)
        self.cycle.hub = loop

    def close_connection(self, connection: Any) -> None:
        """Close the connection's channels."""
        hub = self.cycle.hub
        if hub is not None:
            hub.on_tick.discard(self._on_tick)
            # A socket opened later may get the same descriptor and would be taken for one that is polled already.
            for fd in self.cycle.sockets:
                if fd in hub.readers:
                    hub.remove_reader(fd)
        super().close_connection(connection)

    def _on_tick(self) -> None:
        cycle = self.cycle
        cycle.on_poll_start()
        for fd in cycle.sockets:
            if fd not in cycle.hub.readers:
                cycle.hub.add_reader(fd, self.on_readable, fd)


# In which time a consumer without an event loop polls whether a message is due or a ring was lost.
_MAX_POLL_S = 1.0


class Poller(stock.MultiChannelPoller):
    """Polls the channels' claim connections, and kombu's connections for fanout."""

    hub: Any = None
    """The event loop that the transport is registered with, if any."""
    _wakes_at = 0.0

    def on_poll_start(self) -> None:
        """Flush each channel's claims and settlements."""
        for channel in self._channels:
            if channel.is_claiming:
                wire = channel.claimer.wire
                if not wire.open:
                    wire.connect()
                if not self._client_registered(channel, wire, "BRPOP"):
                    self._register(channel, wire, "BRPOP")
                channel.claimer.flush()
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)

    def on_readable(self, fileno: int) -> Any:
        """Process replies, even while there is no room: they also confirm settlements."""
        found = self._fd_to_chan.get(fileno)
        return found[0].handlers[found[1]]() if found else None

    def get(self, callback: Callable[..., Any], timeout: float | None = None) -> Any:
        """Wait for messages, as ``drain_events`` does.

        Raises:
            Empty: no message arrived in time.
        """
        polls = [channel.claimer.poll_in_s for channel in self._channels if channel.is_claiming]
        return super().get(callback, timeout=min([_MAX_POLL_S, *polls, *([timeout] if timeout is not None else [])]))

    @property
    def sockets(self) -> list[int]:
        """The file descriptors to poll."""
        return list(self._fd_to_chan)

    def wake_in(self, seconds: float) -> None:
        """Wake the event loop in ``seconds``, for a message that will be due then."""
        now = time.monotonic()
        if self.hub is not None and not now < self._wakes_at <= now + seconds:
            self._wakes_at = now + seconds
            self.hub.call_later(seconds, _nothing)


def _nothing() -> None:
    """Do nothing: the timer only wakes the loop."""
