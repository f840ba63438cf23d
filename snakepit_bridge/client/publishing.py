"""Publishing requests: the stock Celery message, and the reservation that makes an idempotency key hold."""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Any, cast
from uuid import NAMESPACE_URL, uuid4, uuid5

import kombu.pools
from celery import Celery
from kombu.exceptions import EncodeError, OperationalError

from snakepit_bridge.exceptions import IdempotencyConflict, InputError, StoreUnavailableError
from snakepit_bridge.loop import run_blocking
from snakepit_bridge.messages import PREDICT, Request
from snakepit_bridge.stores.connection import RedisConnection, masked

# Three tries within about a second: a broker that is away is said to be away, and no caller hangs.
_RETRY = {"max_retries": 2, "interval_start": 0.2, "interval_step": 0.2, "interval_max": 0.4}
URGENT = 9


class Publisher:
    """Sends requests to the broker.

    Args:
        app: the Celery app.
        connection: Redis, for reservations.
        namespace: prefix of their keys.
        queue: where workers take predictions from.
        keep_s: seconds that an idempotency key is remembered.
    """

    def __init__(self, app: Celery, connection: RedisConnection, *, namespace: str, queue: str, keep_s: int) -> None:
        self._app = app
        self._connection = connection
        self._namespace = namespace
        self._queue = queue
        self._keep_s = keep_s
        self._pid = os.getpid()

    def submit(self, request: Request, *, priority: int, key: str | None) -> str:
        """Sends a request and returns its task id; one whose idempotency key is known isn't sent again.

        Raises:
            InputError: the inputs aren't JSON.
            IdempotencyConflict: the key belongs to another request.
            StoreUnavailableError: the broker or Redis is away.
        """
        if key is None:
            return self._send(str(uuid4()), request, priority)
        task_id = str(uuid5(NAMESPACE_URL, f"{self._namespace}/{key}"))
        if run_blocking(self._reserve(key, task_id, request)):
            self._send(task_id, request, priority)
            run_blocking(self._mark_sent(key, request))
        return task_id

    def _send(self, task_id: str, request: Request, priority: int) -> str:
        self._after_fork()
        try:
            self._app.send_task(
                PREDICT,
                args=[request.inputs, request.program],
                kwargs=request.keywords(),
                task_id=task_id,
                queue=self._queue,
                # On Redis 0 is served first; for callers 9 is.
                priority=URGENT - priority,
                headers={"sent_at": time.time()},
                retry=True,
                retry_policy=_RETRY,
            )
        except (EncodeError, TypeError) as unfit:
            raise InputError(request.program, "inputs", f"they must be JSON values: {unfit}") from unfit
        except (OperationalError, OSError) as away:
            raise StoreUnavailableError(masked(str(self._app.conf.broker_url)), str(away) or "no connection") from away
        return task_id

    async def _reserve(self, key: str, task_id: str, request: Request) -> bool:
        """Tells whether the request has to be sent: its key is new, or was reserved by a client that then died.

        The message may then be sent twice, under one task id: workers drop a task that has a result.
        """
        name, mine = self._key(key), _digest(request)
        client = self._connection.client
        if await self._connection.bounded(client.set(name, f"reserved {mine}", nx=True, ex=self._keep_s)):
            return True
        state, _, known = cast(bytes, await self._connection.bounded(client.get(name)) or b"").decode().partition(" ")
        if known and known != mine:
            raise IdempotencyConflict(key, task_id)
        return state != "sent"

    async def _mark_sent(self, key: str, request: Request) -> None:
        sent = f"sent {_digest(request)}"
        await self._connection.bounded(self._connection.client.set(self._key(key), sent, ex=self._keep_s))

    def _key(self, key: str) -> str:
        return f"{self._namespace}:{{i:{key}}}:idempotency"

    def _after_fork(self) -> None:
        """A forked child must not write into the connections that its parent holds."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            kombu.pools.reset()
            cast(Any, self._app)._after_fork()


def _digest(request: Request) -> str:
    said = [request.program, request.inputs, {**request.keywords(), "deadline": None}]
    try:
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    except (TypeError, ValueError) as unfit:
        raise InputError(request.program, "inputs", f"they must be JSON values: {unfit}") from unfit
