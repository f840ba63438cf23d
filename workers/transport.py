"""kombu's Redis transport with three mends; messages, queues and records on the wire are the stock ones.

kombu 5.7 makes a new Redis client for each acknowledgement, and sends the two writes of a delivery's record, and of its
end, as transactions of four commands: both cost more than the work itself, so the client is kept and the two writes are
one script. And when the broker goes away while messages are unacknowledged, giving them back fails on a connection that
is gone already, with an error that nobody expects, and the worker exits.
"""

from __future__ import annotations

import time
from typing import Any

import redis
from kombu.transport import redis as stock
from kombu.utils.json import dumps

_NOTE = """
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
"""
_STRIKE = """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
"""


class QoS(stock.QoS):
    """The record of what is delivered and not acknowledged, kept in one command per change."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Records a delivery as kombu does: its time in the index, its message in the hash."""
        origin = message.delivery_info
        record = dumps([message._raw, origin["exchange"], origin["routing_key"]])
        self._run(_NOTE, time.time(), delivery_tag, record)
        super(stock.QoS, self).append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Strikes a delivery off the record."""
        self._run(_STRIKE, delivery_tag)
        super(stock.QoS, self).ack(delivery_tag)

    def _run(self, script: str, *args: Any) -> None:
        with self.channel.conn_or_acquire() as client:
            # A prefixed client of kombu's prefixes the first key alone.
            keys = [self.unacked_index_key, self.channel.global_keyprefix + self.unacked_key]
            self.channel.script(client, script)(keys=keys, args=args)


class Channel(stock.Channel):
    """A channel that keeps its client and its scripts, and names a lost connection as one."""

    QoS = QoS
    _kept: Any = None
    _scripts: dict[str, Any]

    def script(self, client: Any, source: str) -> Any:
        """Returns a script on the channel's client; the server is sent its text only if it doesn't know it."""
        if client is not self._kept:
            return client.register_script(source)
        if source not in self._scripts:
            self._scripts[source] = client.register_script(source)
        return self._scripts[source]

    def _create_client(self, asynchronous: bool = False) -> Any:
        # The asynchronous client is kept by kombu itself; this one is as thread-safe as the pool that it draws on.
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept, self._scripts = super()._create_client(), {}
        return self._kept

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if self.connection.client is None:
            raise redis.ConnectionError("The broker's connection was closed while messages were unacknowledged.")
        return super()._connparams(asynchronous=asynchronous)


class Transport(stock.Transport):
    """The transport ``workers.transport:Transport``."""

    Channel = Channel
