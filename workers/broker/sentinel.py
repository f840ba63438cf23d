"""The transport ``workers.broker.sentinel:SentinelTransport``: the workers' own, on the primary behind Sentinel."""

from __future__ import annotations

from typing import Any

from snakepit_bridge.client.sentinel import PrimaryChannel
from snakepit_bridge.redis.sentinel import OPTION
from workers.broker.channel import Channel
from workers.broker.transport import Transport


class SentinelChannel(PrimaryChannel, Channel):
    """A channel whose connections lead to the current primary; its transport option ``sentinel`` is the service."""

    from_transport_options = (*Channel.from_transport_options, OPTION)

    def _create_connection(self, params: dict[str, Any]) -> Any:
        return self.service.create_pool(**params).make_connection()


class SentinelTransport(Transport):
    """The transport of workers on the primary behind Sentinel."""

    Channel = SentinelChannel
