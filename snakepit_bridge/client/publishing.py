"""Publishing requests: the stock Celery message, and the reservation that makes an idempotency key hold."""

from __future__ import annotations

import asyncio
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
RETRY = {"max_retries": 2, "interval_start": 0.2, "interval_step": 0.2, "interval_max": 0.4}
URGENT = 9
# Who holds a reservation for longer has died, or is about to hear that the broker is away.
_SENDING_S = 3.0
_LOOK_S = 0.02


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

    def revoke(self, task_id: str) -> None:
        """Tells the workers to drop a task that was cancelled before they even start it; what holds is stored.

        Raises:
            StoreUnavailableError: the broker is away.
        """
        self._after_fork()
        try:
            self._app.control.revoke(task_id)
        except (OperationalError, OSError) as away:
            raise self._away(away) from away

    def _send(self, task_id: str, request: Request, priority: int) -> str:
        self._after_fork()
        # Celery's send_task would also subscribe to the result, through a client that blocks and tries for 20 seconds.
        amqp = self._app.amqp
        message = amqp.create_task_message(task_id, PREDICT, [request.inputs, request.program], request.keywords())
        try:
            with self._app.producer_or_acquire() as producer:
                amqp.send_task_message(
                    producer,
                    PREDICT,
                    message,
                    queue=self._queue,
                    # On Redis 0 is served first; for callers 9 is.
                    priority=URGENT - priority,
                    headers={"sent_at": time.time()},
                    retry=True,
                    retry_policy=RETRY,
                )
        except (EncodeError, TypeError) as unfit:
            raise InputError(request.program, "inputs", f"they must be JSON values: {unfit}") from unfit
        except (OperationalError, OSError) as away:
            raise self._away(away) from away
        return task_id

    def _away(self, error: Exception) -> StoreUnavailableError:
        return StoreUnavailableError(masked(str(self._app.conf.broker_url)), str(error) or "no connection")

    async def _reserve(self, key: str, task_id: str, request: Request) -> bool:
        """Tells whether the request has to be sent: its key is new, or its first client died before it had sent it.

        One that is only slow makes the message go out twice, under one task id: workers drop a task that has a result.
        """
        name, mine = self._key(key), _digest(request)
        client, until = self._connection.client, time.monotonic() + _SENDING_S
        while not await self._connection.bounded(client.set(name, f"reserved {mine}", nx=True, ex=self._keep_s)):
            found = cast(bytes, await self._connection.bounded(client.get(name)) or b"").decode()
            state, _, known = found.partition(" ")
            if known and known != mine:
                raise IdempotencyConflict(key, task_id)
            if state == "sent":
                return False
            if time.monotonic() >= until:
                return True
            await asyncio.sleep(_LOOK_S)
        return True

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
