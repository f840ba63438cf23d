"""kombu's Redis transport with our channels and poller."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis as stock

from workers.broker.channel import Channel
from workers.broker.poller import Poller


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
