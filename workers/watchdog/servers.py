"""The broker and Redis as a watchdog uses them."""

from __future__ import annotations

from typing import Any

from kombu.connection import Connection
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from snakepit_bridge.delivery.stalls import Stall, Stalls
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.sentinel import OPTION, SentinelService
from workers.broker.transport import register_transport
from workers.watchdog.ends import PredictionEnds
from workers.watchdog.handover import BrokerAccess, Handover
from workers.watchdog.settling import ClaimSettlement


class WatchdogServers(ClaimSettlement):
    """The servers of one worker.

    Args:
        handover: what the worker handed over.
    """

    outages: tuple[type[Exception], ...] = (OperationalError, RedisError, OSError, BridgeError)

    def __init__(self, handover: Handover) -> None:
        broker = handover.broker_access
        self._ends = PredictionEnds(handover)
        super().__init__(lambda: connect(broker), self._ends.store, holds=broker.holds)
        connection = RedisConnection(handover.redis, timeout_s=handover.redis_timeout_s)
        self._stalls = Stalls(connection, namespace=handover.namespace)

    def report_stall(self, stall: Stall) -> None:
        """Report that a process is blocked, or was killed for it.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        if not stall.ended_at:
            self._ends.prepare()
        run_blocking(self._stalls.report(stall))

    def clear_stall(self, worker: str, pid: int) -> None:
        """Clear a process's stall, once its loop runs again.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        self._ends.discard()
        run_blocking(self._stalls.clear(worker, pid))


def connect(broker: BrokerAccess) -> Connection:
    """Return a connection to the worker's broker, which connects when it is used."""
    register_transport()
    options = dict(broker.options)
    if OPTION in options:
        options[OPTION] = SentinelService.parse(options[OPTION])
    # kombu's declared types know neither options of TLS nor parts of a second.
    known: dict[str, Any] = {"ssl": broker.tls, "connect_timeout": broker.timeout_s}
    return Connection(broker.url, transport=broker.transport, transport_options=options, **known)
