"""The execution pools of a worker, with their Celery names and default concurrency."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum

from snakepit_bridge.protocol.messages import code_queue
from workers import PACKAGE

# The environment variable with the class of Celery's `--pool custom`.
POOL_VARIABLE = "CELERY_CUSTOM_WORKER_POOL"

ASYNCIO_POOL = f"{PACKAGE}.pool:AsyncioPool"
"""The asyncio pool, as Celery imports it."""


class Pool(StrEnum):
    """Pools of the fleet's worker."""

    asyncio = "asyncio"
    threads = "threads"
    prefork = "prefork"
    solo = "solo"

    @property
    def celery_name(self) -> str:
        """The pool's name for Celery's ``--pool``."""
        return "custom" if self is Pool.asyncio else self.value

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables that the worker needs for it."""
        return {POOL_VARIABLE: ASYNCIO_POOL} if self is Pool.asyncio else {}

    def queue_names(self, queue: str) -> str:
        """Return the queues to consume from; pools with a process per task also take tasks that execute code."""
        return f"{queue},{code_queue(queue)}" if self in (Pool.prefork, Pool.solo) else queue

    @property
    def concurrency(self) -> int:
        """The default number of concurrent predictions.

        Waiting costs the loop next to nothing, a thread some memory, and a process a lot of it.
        """
        return {Pool.asyncio: 1_000, Pool.threads: 32, Pool.prefork: os.cpu_count() or 1, Pool.solo: 1}[self]
