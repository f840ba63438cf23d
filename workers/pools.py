"""The pools that a worker can run on: what Celery calls each, and how many predictions at a time it is meant for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum

from snakepit_bridge.protocol.messages import code_queue

# Celery's name of the variable in which it looks for the pool that `--pool custom` means.
POOL_VARIABLE = "CELERY_CUSTOM_WORKER_POOL"


class Pool(StrEnum):
    """Pools of the fleet's worker."""

    asyncio = "asyncio"
    threads = "threads"
    prefork = "prefork"
    solo = "solo"

    @property
    def celery_name(self) -> str:
        """What Celery's ``--pool`` takes for it."""
        return "custom" if self is Pool.asyncio else self.value

    @property
    def environment(self) -> Mapping[str, str]:
        """What the worker's environment must hold for that."""
        return {POOL_VARIABLE: "workers.pool:AsyncioPool"} if self is Pool.asyncio else {}

    def queue_names(self, queue: str) -> str:
        """The queues that it takes from: one whose tasks have a process of their own also takes those that need one."""
        return f"{queue},{code_queue(queue)}" if self in (Pool.prefork, Pool.solo) else queue

    @property
    def concurrency(self) -> int:
        """How many predictions at a time are sensible, where nobody says.

        Waiting costs the loop next to nothing, a thread some memory, and a process a lot of it.
        """
        return {Pool.asyncio: 1_000, Pool.threads: 32, Pool.prefork: os.cpu_count() or 1, Pool.solo: 1}[self]
