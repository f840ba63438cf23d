"""What waits in a fleet, whichever its broker is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from snakepit_bridge.client.rabbitmq import queue_length, translate_broker_errors
from snakepit_bridge.delivery.backlog import ALL_PRIORITIES, Backlog, QueueDepth, count_dead, read_backlog

if TYPE_CHECKING:
    from snakepit_bridge.client.fleet import Fleet

_CONNECT_S = 3.0


async def read_fleet_backlog(fleet: Fleet, queues: Sequence[str]) -> Backlog:
    """Return what waits in a fleet.

    RabbitMQ tells how many messages wait in a queue, but neither their priorities nor their age, and not what its
    consumers hold. The dead-letter list is in Redis in any case.

    Args:
        fleet: the fleet.
        queues: the queues to look at.

    Raises:
        StoreUnavailableError: Redis or the broker is unreachable.
    """
    if not fleet.on_rabbitmq:
        return await read_backlog(fleet.connection, queues, namespace=fleet.namespace)
    dead = await count_dead(fleet.connection, namespace=fleet.namespace)
    lengths = await asyncio.to_thread(_count_in_rabbitmq, fleet, queues)
    depths = [QueueDepth(name, ALL_PRIORITIES, length, None) for name, length in zip(queues, lengths, strict=True)]
    return Backlog(depths, dead)


def _count_in_rabbitmq(fleet: Fleet, queues: Sequence[str]) -> list[int]:
    with translate_broker_errors(fleet.broker), fleet.app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=_CONNECT_S)
        return [queue_length(connection, queue) for queue in queues]
