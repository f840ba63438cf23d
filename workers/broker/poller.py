"""kombu's poller of a transport's channels, which claims messages where kombu blocks on lists."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kombu.transport import redis as stock

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
