"""Waiting for results: one pub/sub channel per client process announces ended tasks, so that no client polls.

Each request names the reply channel of its sender. A handle that was made elsewhere, such as for a
task that another process submitted, waits on the task's own channel instead, as stock Celery does. Either way it is
subscribed to first, and then looked at whether the result is there already, so that it can't fall between the two.

What is stored is parsed into a :class:`TaskResult`: the task's state, and the result or the error of a final one.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast
from uuid import uuid4

from celery import Celery, states

from snakepit_bridge.audit.change_control import ControlledChange, open_change_control, read_nothing
from snakepit_bridge.audit.entries import AuditSource
from snakepit_bridge.audit.trail import RedisAuditTrail
from snakepit_bridge.client import lua
from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.exceptions import (
    BridgeError,
    ConfigurationError,
    DecryptionError,
    PredictionCancelledError,
    PredictionFailedError,
    PredictionTimeoutError,
    PredictionUnknownError,
    StoreUnavailableError,
)
from snakepit_bridge.protocol.error_encryption import decrypt_error
from snakepit_bridge.protocol.json_values import read_message
from snakepit_bridge.protocol.messages import Result, cancel_channel, is_final_state
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.outages import is_transient
from snakepit_bridge.redis.pubsub import Subscription, weak_handler

T = TypeVar("T")

_FORGOTTEN_RESULT = {"v": 1, "forgotten": True}
FORGOTTEN = json.dumps({"status": states.SUCCESS, "result": _FORGOTTEN_RESULT})
"""What is stored for a short while of a task whose result was forgotten: that it has ended."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0


class Results:
    """The results that one process waits for. All of it runs on the process's home loop.

    Args:
        app: the Celery app, whose backend knows keys and codecs.
        connection: the way to the backend's Redis.
        namespace: prefix of the fleet's keys and channels.
        cipher: decrypts errors.
    """

    def __init__(
        self,
        app: Celery,
        connection: RedisConnection,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        cipher: Cipher = PLAIN,
        source: AuditSource = AuditSource.CLIENT,
    ) -> None:
        self._app = app
        self._control = open_change_control(connection, namespace, source)
        self._trail = RedisAuditTrail(connection, namespace=namespace, source=source)
        self._connection = connection
        self._namespace = namespace
        self._cipher = cipher
        self._subscription = Subscription(connection)
        self._reset()

    @property
    def reply_channel(self) -> str:
        """The reply channel of this process; its requests name it."""
        if self._pid != os.getpid():
            self._reset()  # the waiters that a fork inherits are its parent's
        return self._channel

    async def outcome(self, task_id: str) -> TaskResult:
        """Return a task's current state; PENDING also for an unknown id."""
        return self.parse(task_id, await self._connection.execute_read("GET", self.key_of(task_id)))

    def parse(self, task_id: str, stored: bytes | str | None) -> TaskResult:
        """Return the state of a task whose stored result was read already; PENDING where there is none."""
        return parse_task_result(self._app, task_id, stored, self._cipher)

    async def wait(self, task_id: str, timeout_s: float, replies: str | None = None) -> Result:
        """Return a task's result once it has one. An outage of the server costs time and nothing else.

        Args:
            task_id: the task.
            timeout_s: seconds to wait.
            replies: the channel that its request named, if that is known.

        Raises:
            PredictionTimeoutError: it had none in time.
            StoreUnavailableError: the server was away to the end, or has never answered.
            BridgeError: the task ended with this error.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return result_or_raise(await self.wait_for_end(task_id, replies))
        except TimeoutError as late:
            if isinstance(late, BridgeError):
                raise  # a deadline that the task itself missed
            if self._outage is not None:
                raise StoreUnavailableError(
                    self._outage.url, f"{self._outage.problem}, during the whole wait"
                ) from None
            # A short time, such as 0, ends before the first read: what is there by now counts.
            if (outcome := await self.outcome(task_id)).ready:
                return result_or_raise(outcome)
            raise PredictionTimeoutError(task_id, timeout_s) from None

    async def wait_for_end(self, task_id: str, replies: str | None = None) -> TaskResult:
        """Return how a task ended, as soon as it has."""
        if replies == self.reply_channel:
            await self.retry_through_outages(self._subscribe_to_replies)
            return await self._wait_for_final(task_id)
        heard = partial(self._on_message, task_id)
        channel = self.key_of(task_id)
        try:
            await self.retry_through_outages(lambda: self._subscription.subscribe(channel, heard))
            return await self._wait_for_final(task_id)
        finally:
            await self._subscription.unsubscribe(channel, heard)

    async def cancel(self, task_id: str, *, author: str = "", what: str = "prediction") -> bool:
        """Store a task's cancellation unless it has ended; return whether it is cancelled.

        Args:
            task_id: the task.
            author: who cancels it, for the audit trail.
            what: the task is, for the audit trail.

        Raises:
            StoreUnavailableError: the result backend is away.
        """
        change = ControlledChange(f"{what}.cancel", f"{what}:{task_id}", author)
        announced = (cancel_channel(self._namespace), task_id, author, change.operation)
        args = (
            self._encode_cancellation(task_id),
            self._expires_s(),
            *announced,
            *self._trail.build_args(change.target),
        )

        async def cancel() -> bool:
            return bool(await self._connection.execute_script(lua.SCRIPTS["cancel"], [self.key_of(task_id)], args))

        return await self._control.carry_out(change, cancel, read_nothing)

    async def subscribe(self, channel: str, heard: Callable[[], None]) -> Callable[[], Any]:
        """Call ``heard`` on each message of a channel and after each reconnect; return the unsubscribe function."""

        def notify(_: bytes | None) -> None:
            heard()

        await self._subscription.subscribe(channel, notify)
        return partial(self._subscription.unsubscribe, channel, notify)

    async def retry_through_outages(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of ``work``, retried through outages; the caller sets the time limit.

        Raises:
            StoreUnavailableError: the server has never answered, so that it may be the wrong one, or refuses for good.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                found = await work()
            except StoreUnavailableError as exc:
                if not self._connection.reached or not is_transient(exc):
                    raise
                self._outage = exc
            else:
                self._outage = None
                return found
            await asyncio.sleep(pause_s * random.uniform(0.7, 1.0))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _wait_for_final(self, task_id: str) -> TaskResult:
        news = asyncio.Event()
        waiting = self._waiting.setdefault(task_id, [])
        waiting.append(news)
        try:
            while True:
                news.clear()
                outcome = await self.retry_through_outages(lambda: self.outcome(task_id))
                if outcome.ready:
                    return outcome
                await news.wait()
        finally:
            waiting.remove(news)
            if not waiting and self._waiting.get(task_id) is waiting:
                del self._waiting[task_id]

    async def _subscribe_to_replies(self) -> None:
        """Subscribe to the channels that stay open: replies to this process, and cancellations of any client."""
        if self._subscribed:
            return
        async with self._opening:
            if not self._subscribed:
                replied = weak_handler(self._on_reply)
                await self._subscription.subscribe(self._channel, replied)
                await self._subscription.subscribe(cancel_channel(self._namespace), replied)
                self._subscribed = True

    def _on_reply(self, task_id: bytes | None) -> None:
        if task_id is None:
            for each in tuple(self._waiting):
                self._wake(each)
        else:
            self._wake(task_id.decode())

    def _on_message(self, task_id: str, _: bytes | None) -> None:
        self._wake(task_id)

    def _wake(self, task_id: str) -> None:
        for news in self._waiting.get(task_id, ()):
            news.set()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._channel = FleetKeys(self._namespace).replies(uuid4().hex)
        self._waiting: dict[str, list[asyncio.Event]] = {}
        self._subscribed = False
        self._outage: StoreUnavailableError | None = None
        self._opening = asyncio.Lock()

    def key_of(self, task_id: str) -> str:
        """Return the key of a task's result, which is also the task's own channel."""
        return self._app.backend.get_key_for_task(task_id).decode()

    def _encode_cancellation(self, task_id: str) -> str:
        backend = self._app.backend
        end = {"status": states.REVOKED, "result": backend.prepare_exception(PredictionCancelledError(task_id))}
        return backend.encode({**end, "traceback": None, "children": [], "task_id": task_id})

    def _expires_s(self) -> int:
        kept: Any = self._app.conf.result_expires
        return int(kept.total_seconds() if hasattr(kept, "total_seconds") else kept or 0)


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A task's stored state: a Celery state, and the result or the error if it is final."""

    state: str
    result: Result | None = None
    error: BridgeError | None = None

    @property
    def ready(self) -> bool:
        """Whether the state is final."""
        return is_final_state(self.state)


PENDING = TaskResult(states.PENDING)


def parse_task_result(app: Celery, task_id: str, stored: bytes | str | None, cipher: Cipher = PLAIN) -> TaskResult:
    """Parse a task's stored result; PENDING where there is none, also for an unknown id."""
    if stored is None:
        return PENDING
    meta = cast(dict[str, Any], read_message(stored))
    state = meta["status"]
    if state == states.SUCCESS:
        return _parse_success(task_id, meta["result"])
    if state in states.EXCEPTION_STATES and state != states.RETRY:
        try:
            error = decrypt_error(cipher, task_id, meta["result"])
        except DecryptionError as exc:
            return TaskResult(state, error=exc)
        return TaskResult(state, error=_to_bridge_error(task_id, app.backend.exception_to_python(error)))
    return TaskResult(state)


def result_or_raise(outcome: TaskResult) -> Result:
    """Return the result of a final outcome, or raises what it ended with.

    Raises:
        BridgeError: the task ended with this error.
    """
    if outcome.error is not None:
        raise outcome.error
    assert outcome.result is not None
    return outcome.result


def _parse_success(task_id: str, message: Any) -> TaskResult:
    if message == _FORGOTTEN_RESULT:
        return TaskResult(states.SUCCESS, error=PredictionUnknownError(task_id, "the results: it was forgotten"))
    if not isinstance(message, dict):
        what = f"task {task_id} is no prediction: its result is {message!r}"
        raise PredictionFailedError("unknown", "TypeError", what)
    try:
        return TaskResult(states.SUCCESS, Result.decode(cast(dict[str, Any], message)))
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc


def _to_bridge_error(task_id: str, raised: BaseException | None) -> BridgeError:
    """Return the error that a task ended with; Celery's own, such as a lost worker, become PredictionFailedError."""
    if isinstance(raised, BridgeError):
        return raised
    if type(raised).__name__ == "TaskRevokedError":
        return PredictionCancelledError(task_id)
    return PredictionFailedError("unknown", type(raised).__name__, _text(raised))


def _text(raised: BaseException | None) -> str:
    try:
        return str(raised)
    except Exception:  # noqa: BLE001 - a class of somebody's own, made again from what was stored
        return "its text can't be rendered"
