"""The servers that a worker's health depends on. The watchdog loads this module in the background: it takes seconds."""

from __future__ import annotations

from collections.abc import Callable

from kombu.connection import Connection
from kombu.exceptions import OperationalError

from snakepit_bridge.client.rabbitmq import is_rabbitmq, queue_length
from snakepit_bridge.delivery.backlog import PRIORITY_STEPS
from snakepit_bridge.delivery.keys import SEPARATOR
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.redis.connection import RedisConnection
from workers.health.checks import ProbeSettings


class CheckedServers:
    """The store and the broker of a worker.

    Args:
        settings: the worker's.
        connect: returns a connection to its broker.
    """

    outages: tuple[type[Exception], ...] = (BridgeError, OperationalError, OSError, TimeoutError)
    """What the methods raise if a server is unreachable."""

    def __init__(self, settings: ProbeSettings, connect: Callable[[], Connection]) -> None:
        self._timeout_s = settings.redis_timeout_s
        self._connect = connect
        self._store = RedisConnection(settings.redis, timeout_s=self._timeout_s, namespace=settings.namespace)
        self._on_rabbitmq = is_rabbitmq(settings.broker)
        broker = settings.redis if self._on_rabbitmq else settings.broker
        self._broker = RedisConnection(broker, timeout_s=self._timeout_s)

    def ping(self) -> None:
        """Check whether the store answers.

        Raises:
            DataFormatError: a newer release wrote what is there.
        """
        run_blocking(self._store.send_each([("PING",)]), self._timeout_s)

    def count_waiting(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        if self._on_rabbitmq:
            with self._connect() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=self._timeout_s)
                return queue_length(connection, queue)
        names = [f"{queue}{SEPARATOR}{step}" if step else queue for step in PRIORITY_STEPS.values()]
        counting = self._broker.send_each([("LLEN", name) for name in names])
        return sum(run_blocking(counting, self._timeout_s))
