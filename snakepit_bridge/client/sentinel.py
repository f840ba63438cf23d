"""kombu's transport on the primary behind Sentinel, for clients; workers have their own."""

from __future__ import annotations

from typing import Any

import redis
from kombu.transport.redis import Channel as StockChannel
from kombu.transport.redis import Transport as StockTransport
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from snakepit_bridge.redis.sentinel import OPTION, SentinelService
from snakepit_bridge.redis.urls import DRIVER_INFO


class CheckedChannel(StockChannel):
    """kombu's channel, with connections that introduce themselves as ours do.

    It says that its connection is lost where kombu's raises an AttributeError.
    """

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if self.connection is None or self.connection.client is None:
            raise redis.ConnectionError("The connection to the broker was closed.")
        return {**super()._connparams(asynchronous=asynchronous), "driver_info": DRIVER_INFO}


class PrimaryChannel(CheckedChannel):
    """A channel whose connections lead to the current primary; its transport option ``sentinel`` is the service."""

    connection_class = SentinelManagedConnection
    connection_class_ssl = SentinelManagedSSLConnection
    from_transport_options = (*StockChannel.from_transport_options, OPTION)

    sentinel: SentinelService | None = None

    @property
    def service(self) -> SentinelService:
        """The service whose primary the connections lead to."""
        assert self.sentinel is not None, "the transport is used without its option"
        return self.sentinel

    def _get_pool(self, asynchronous: bool = False) -> Any:
        params = self._connparams(asynchronous=asynchronous)
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=params["db"])
        return self.service.create_pool(**params)


class PrimaryTransport(StockTransport):
    """The transport of clients: kombu's own, on the primary behind Sentinel."""

    Channel = PrimaryChannel
