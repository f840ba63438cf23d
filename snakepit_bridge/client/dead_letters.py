"""``fleet.dead_letters``: list, show, retry and drop what the fleet has given up."""

from __future__ import annotations

from snakepit_bridge.delivery.dead_letters import DeadLetter, DeadLetters
from snakepit_bridge.process.home_loop import run_blocking


class BlockingDeadLetters:
    """The dead letters of a fleet; each method does what the one of the same name of ``aio`` does.

    It can be used in any thread, with or without a running event loop. It takes the Redis permissions of an operator.

    Args:
        aio: the same for callers that await.
    """

    def __init__(self, aio: DeadLetters) -> None:
        self.aio = aio

    def count(self) -> int:
        return run_blocking(self.aio.count())

    def ids(self) -> list[str]:
        return run_blocking(self.aio.ids())

    def latest(self, limit: int = 100) -> list[DeadLetter]:
        return run_blocking(self.aio.latest(limit))

    def get(self, id: str) -> DeadLetter:
        return run_blocking(self.aio.get(id))

    def retry(self, id: str, *, author: str = "") -> DeadLetter:
        return run_blocking(self.aio.retry(id, author=author))

    def drop(self, id: str, *, author: str = "") -> None:
        run_blocking(self.aio.drop(id, author=author))
