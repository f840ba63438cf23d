"""``fleet.dead_letters``: list, show, retry and drop what the fleet has given up."""

from __future__ import annotations

from snakepit_bridge.delivery.dead_letters import DeadLetters
from snakepit_bridge.process.blocking_methods import blocking


class BlockingDeadLetters:
    """The dead letters of a fleet; each method does what the one of the same name of ``aio`` does.

    It can be used in any thread, with or without a running event loop. It takes the Redis permissions of an operator.

    Args:
        aio: the same for callers that await.
    """

    def __init__(self, aio: DeadLetters) -> None:
        self.aio = aio

    count = blocking(DeadLetters.count)
    ids = blocking(DeadLetters.ids)
    latest = blocking(DeadLetters.latest)
    get = blocking(DeadLetters.get)
    retry = blocking(DeadLetters.retry)
    drop = blocking(DeadLetters.drop)
