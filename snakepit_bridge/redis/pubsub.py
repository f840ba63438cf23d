"""Pub/sub with automatic reconnection and gap notices, over one connection for all channels of a process.

Not redis-py's PubSub: messages that are published while that one reconnects are lost silently. Here every handler is
notified after each reconnection, and every few seconds anyway, that messages may have been missed.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.process.home_loop import share_future
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.outages import to_unavailable_error

MessageHandler = Callable[[bytes | None], None]
"""Called with each message; None means that some may have been missed, so that the state has to be polled."""

# A ping is sent at this interval; a connection without any reply for two intervals counts as dead.
RECHECK_INTERVAL_S = 5.0
_RECONNECT_DELAY_S = 0.2


class Subscription:
    """A process's subscriptions to the channels of one Redis, on the home loop.

    It ends when the object is freed, so a handler must not keep alive the object that holds it: see ``weak_handler``.

    Args:
        connection: the Redis.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._listening = _Listener(connection)
        weakref.finalize(self, self._listening.schedule_stop).atexit = False

    async def subscribe(self, channel: str, handler: MessageHandler) -> None:
        """Call a handler with every message of a channel, from when this returns until ``unsubscribe``.

        Raises:
            StoreUnavailableError: the server is unreachable, or doesn't confirm within the timeout.
        """
        await self._listening.listen(channel, handler)

    async def unsubscribe(self, channel: str, handler: MessageHandler) -> None:
        """Undo one ``subscribe``; the last one of a channel unsubscribes from it."""
        await self._listening.leave(channel, handler)


def weak_handler(method: MessageHandler) -> MessageHandler:
    """Return a handler that calls a bound method while its object lives, without keeping it alive."""
    reference = weakref.WeakMethod(method)

    def handler(message: bytes | None) -> None:
        if (bound := reference()) is not None:
            bound(message)

    return handler


class _Listener:
    """The connection of a subscription, and the tasks that read from it."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._inherited: list[object] = []
        self._reset()

    async def listen(self, channel: str, handler: MessageHandler) -> None:
        self._leave_to_parent()
        name = channel.encode()
        self._handlers.setdefault(name, []).append(handler)
        if name in self._confirmed:
            return
        confirmation = self._pending.setdefault(name, asyncio.get_running_loop().create_future())
        self._start()
        try:
            if self._current is not None:
                await self._send(self._current, "SUBSCRIBE", name)
            await self._connection.wait_bounded(share_future(confirmation))
        except BaseException:
            await self.leave(channel, handler)
            raise

    async def leave(self, channel: str, handler: MessageHandler) -> None:
        name = channel.encode()
        handlers = self._handlers.get(name, [])
        if handler in handlers:
            handlers.remove(handler)
        if not handlers and self._handlers.pop(name, None) is not None:
            self._confirmed.discard(name)
            self._pending.pop(name, None)
            if self._current is not None:
                await self._send(self._current, "UNSUBSCRIBE", name)

    def schedule_stop(self) -> None:
        """Cancel the tasks, which close the connection, from the thread in which the last reference was dropped."""
        if self._tasks and self._pid == os.getpid() and not (loop := self._tasks[0].get_loop()).is_closed():
            loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._handlers: dict[bytes, list[MessageHandler]] = {}
        self._confirmed: set[bytes] = set()
        self._pending: dict[bytes, asyncio.Future[None]] = {}
        self._current: AbstractConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def _leave_to_parent(self) -> None:
        """Start afresh in a forked child, keeping the parent's objects alive: freeing them would close its sockets."""
        if self._pid != os.getpid():
            self._inherited.append((self._current, self._tasks, self._pending))
            self._reset()

    def _start(self) -> None:
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._run(), name="dspex-subscription"),
                asyncio.create_task(self._ping(), name="dspex-subscription-beat"),
            ]

    async def _run(self) -> None:
        while True:
            try:
                connection = await self._connection.open_connection()
                try:
                    self._current = connection
                    if self._handlers:
                        await self._connection.wait_bounded(connection.send_command("SUBSCRIBE", *self._handlers))
                    await self._read(connection)
                finally:
                    self._current = None
                    self._confirmed.clear()
                    await connection.disconnect(nowait=True)
            except (StoreUnavailableError, RedisError, OSError) as exc:  # including a read that timed out
                self._fail_pending(exc)
            await asyncio.sleep(_RECONNECT_DELAY_S)

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            message = await connection.read_response(timeout=2 * RECHECK_INTERVAL_S, push_request=True)
            if message is None:  # redis-py's result of a timeout
                raise RedisTimeoutError(f"no reply for {2 * RECHECK_INTERVAL_S:g} s")
            if not isinstance(message, list):
                continue  # a pong on a connection without subscriptions
            if message[0] == b"message":
                self._notify(message[1], message[2])
            elif message[0] == b"subscribe":
                self._confirm(message[1])

    def _confirm(self, name: bytes) -> None:
        if name not in self._handlers:
            return  # unsubscribed before the confirmation
        self._confirmed.add(name)
        confirmation = self._pending.pop(name, None)
        if confirmation is not None and not confirmation.done():
            confirmation.set_result(None)
        self._notify(name, None)

    def _notify(self, name: bytes, message: bytes | None) -> None:
        for handler in tuple(self._handlers.get(name, ())):
            handler(message)

    def _fail_pending(self, exc: Exception) -> None:
        """Fail the calls that wait for a confirmation; all other handlers are notified after the reconnection."""
        pending, self._pending = self._pending, {}
        for confirmation in pending.values():
            if not confirmation.done():
                confirmation.set_exception(to_unavailable_error(exc, self._connection.url, self._connection.user))
                confirmation.exception()  # marks it as retrieved, since the caller may have gone

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_INTERVAL_S)
            if self._current is not None:
                await self._send(self._current, "PING")
            for name in tuple(self._handlers):
                self._notify(name, None)

    async def _send(self, connection: AbstractConnection, *command: bytes | str) -> None:
        try:
            await self._connection.wait_bounded(connection.send_command(*command, check_health=False))
        except StoreUnavailableError:
            # The reader fails as well and reconnects, which subscribes to all channels again.
            await connection.disconnect(nowait=True)
