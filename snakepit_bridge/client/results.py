"""Waiting for results: one subscription per process tells which task is done, so that waiting costs no polling.

Celery's Redis backend publishes each result on a channel of the task's own name. We subscribe first, wait for the
server to confirm, and only then look whether the result is there already: it can't fall between the two.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

from celery import Celery, states
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from snakepit_bridge.exceptions import (
    BridgeError,
    ConfigurationError,
    PredictionCancelled,
    PredictionFailed,
    PredictionTimeout,
    StoreUnavailableError,
)
from snakepit_bridge.messages import Result
from snakepit_bridge.stores.connection import RedisConnection

# A reconnecting subscription is silent for as long as the server is away; this look finds what was missed.
_LOOK_AGAIN_S = 5.0
_RECONNECT_S = 0.2


@dataclass(frozen=True, slots=True)
class Outcome:
    """A task's stored state: a Celery state, and the result or the error if it is final."""

    state: str
    result: Result | None = None
    error: BridgeError | None = None

    @property
    def ready(self) -> bool:
        """Whether the state is final."""
        return self.state in states.READY_STATES


PENDING = Outcome(states.PENDING)


class Results:
    """The results that one process waits for. All of it runs on the process's home loop.

    Args:
        app: the Celery app, whose backend knows keys and codecs.
        connection: the way to the backend's Redis.
    """

    def __init__(self, app: Celery, connection: RedisConnection) -> None:
        self._app = app
        self._connection = connection
        self._pid = os.getpid()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._pubsub: PubSub | None = None
        self._reader: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._inherited: list[object] = []

    async def outcome(self, task_id: str) -> Outcome:
        """Returns what is stored of a task now; PENDING also for one that nobody ever submitted."""
        stored = await self._connection.bounded(self._connection.client.get(self._key(task_id)))
        return PENDING if stored is None else self._read(task_id, stored)

    async def wait(self, task_id: str, timeout_s: float) -> Result:
        """Returns a task's result once it has one.

        Raises:
            PredictionTimeout: it had none in time.
            BridgeError: the task ended with this error.
        """
        self._leave_to_parent()
        news = asyncio.Event()
        self._waiting.setdefault(self._key(task_id), set()).add(news)
        try:
            async with asyncio.timeout(timeout_s):
                await self._subscribe(task_id)
                return _answer(await self._ready(task_id, news))
        except TimeoutError as late:
            if isinstance(late, BridgeError):
                raise  # a deadline that the task itself missed
            raise PredictionTimeout(task_id, timeout_s) from None
        finally:
            await self._leave(task_id, news)

    async def cancel(self, task_id: str) -> bool:
        """Stores a task's cancellation unless it has ended already; tells whether it is cancelled now."""
        end = self._app.backend.encode(
            {
                "status": states.REVOKED,
                "result": self._app.backend.prepare_exception(PredictionCancelled(task_id)),
                "traceback": None,
                "children": [],
                "task_id": task_id,
            }
        )
        key, client = self._key(task_id), self._connection.client
        # A state that isn't final, such as RETRY, gives way; a final one stays.
        if (await self.outcome(task_id)).state in (states.PENDING, states.RETRY):
            await self._connection.bounded(client.set(key, end, ex=self._expires()))
            await self._connection.bounded(client.publish(key, end))
        return (await self.outcome(task_id)).state == states.REVOKED

    def _expires(self) -> int | None:
        kept = self._app.conf.result_expires
        return int(kept.total_seconds() if hasattr(kept, "total_seconds") else kept) or None

    async def _ready(self, task_id: str, news: asyncio.Event) -> Outcome:
        while True:
            outcome = await self.outcome(task_id)
            if outcome.ready:
                return outcome
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await news.wait()
            news.clear()

    def _key(self, task_id: str) -> str:
        return self._app.backend.get_key_for_task(task_id).decode()

    def _read(self, task_id: str, stored: bytes | str) -> Outcome:
        meta = cast(dict[str, Any], json.loads(stored))
        state = meta["status"]
        if state == states.SUCCESS:
            return Outcome(state, _result(task_id, meta["result"]))
        if state in states.EXCEPTION_STATES and state != states.RETRY:
            return Outcome(state, error=_error(task_id, self._app.backend.exception_to_python(meta["result"])))
        return Outcome(state)

    async def _subscribe(self, task_id: str) -> None:
        await self._open()
        await self._listen_to(self._key(task_id))

    async def _listen_to(self, channel: str) -> None:
        """Subscribes and waits until the server says so; the reader wakes everybody who waits for the channel then."""
        assert self._pubsub is not None
        confirmed = asyncio.Event()
        self._waiting.setdefault(channel, set()).add(confirmed)
        try:
            await self._connection.bounded(self._pubsub.subscribe(channel))
            await self._connection.bounded(confirmed.wait())
        finally:
            self._forget(channel, confirmed)

    async def _leave(self, task_id: str, news: asyncio.Event) -> None:
        channel = self._key(task_id)
        self._forget(channel, news)
        if channel not in self._waiting and self._pubsub is not None:
            with suppress(StoreUnavailableError):  # a lost connection has unsubscribed already
                await self._connection.bounded(self._pubsub.unsubscribe(channel))

    def _forget(self, channel: str, waiter: asyncio.Event) -> None:
        waiting = self._waiting.get(channel, set())
        waiting.discard(waiter)
        if not waiting:
            self._waiting.pop(channel, None)

    async def _open(self) -> None:
        async with self._opening:
            if self._pubsub is None:
                self._pubsub = self._connection.client.pubsub()
                await self._connection.bounded(self._pubsub.connect())
                self._reader = asyncio.create_task(self._read_on(self._pubsub), name="dspex-results")
                # A channel that nobody publishes on: a subscription without any can't be read.
                await self._listen_to(f"dspex:results:{uuid4().hex}")

    def _leave_to_parent(self) -> None:
        """A fork's parent keeps its subscription, loop and waiters; freeing them here would close its sockets."""
        if self._pid != os.getpid():
            self._inherited.append((self._pubsub, self._reader))
            self._pid, self._waiting, self._pubsub, self._opening = os.getpid(), {}, None, asyncio.Lock()

    async def _read_on(self, pubsub: PubSub) -> None:
        """Wakes the waiters of a channel on each message, and on each confirmation: after a lost connection redis-py
        subscribes again, and what was published in between has to be looked for."""
        while True:
            try:
                message = await pubsub.get_message(timeout=_LOOK_AGAIN_S)
            except RedisError:  # waiters learn of it from their own look; here only the connection has to come back
                await asyncio.sleep(_RECONNECT_S)
                continue
            if message is not None and message["type"] in ("message", "subscribe"):
                self._wake(self._waiting.get(cast(bytes, message["channel"]).decode(), ()))

    def _wake(self, waiters: Iterable[asyncio.Event]) -> None:
        for waiter in tuple(waiters):
            waiter.set()


def _answer(outcome: Outcome) -> Result:
    if outcome.error is not None:
        raise outcome.error
    assert outcome.result is not None
    return outcome.result


def _result(task_id: str, message: Any) -> Result:
    if not isinstance(message, dict):
        raise PredictionFailed("unknown", "TypeError", f"task {task_id} is no prediction: its result is {message!r}")
    try:
        return Result.decode(cast(dict[str, Any], message))
    except ValueError as newer:
        raise ConfigurationError(str(newer)) from newer


def _error(task_id: str, raised: BaseException | None) -> BridgeError:
    """What a task ended with. Celery's own errors, such as a lost worker, come out as a failed prediction."""
    if isinstance(raised, BridgeError):
        return raised
    if type(raised).__name__ == "TaskRevokedError":
        return PredictionCancelled(task_id)
    return PredictionFailed(f"of task {task_id}", type(raised).__name__, str(raised))
