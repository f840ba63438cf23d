"""kombu's Redis transport with two mends; messages and queues on the wire are the stock ones.

kombu 5.7 makes a new Redis client for each acknowledgement, which costs more than the command itself. And when the
broker goes away while messages are unacknowledged, giving them back fails on a connection that is gone already, with an
error that nobody expects, and the worker exits.
"""

from __future__ import annotations

from typing import Any

import redis
from kombu.transport import redis as stock


class Channel(stock.Channel):
    """A channel that keeps its client, and names a lost connection as one."""

    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        # The asynchronous client is kept by kombu itself; this one is as thread-safe as the pool that it draws on.
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()
        return self._kept

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if self.connection.client is None:
            raise redis.ConnectionError("The broker's connection was closed while messages were unacknowledged.")
        return super()._connparams(asynchronous=asynchronous)


class Transport(stock.Transport):
    """The transport ``workers.transport:Transport``."""

    Channel = Channel
