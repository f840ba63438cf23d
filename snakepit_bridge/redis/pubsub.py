"""Pub/sub with automatic reconnection and gap notices, over one connection for all channels of a process.

Every handler is notified after each reconnection that messages may have been missed, and then reads what they would
have said.
"""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context

from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError

from snakepit_bridge.exceptions import ConfigurationError, StoreUnavailableError, copy_error
from snakepit_bridge.process.aio import OutageLog, cancel_tasks
from snakepit_bridge.process.home_loop import share_future
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.outages import to_unavailable_error
from snakepit_bridge.redis.pubsub_connection import PubSubConnection

MessageHandler = Callable[[bytes | None], None]
"""Called with each message; None means that some may have been missed, so that the state has to be polled."""

# A subscription pings at this interval, and reconnects unless the pong arrives within the timeout of its connection.
RECHECK_INTERVAL_S = 5.0
_BACKOFF = ExponentialWithJitterBackoff(base=0.2, cap=1.0)

_log = logging.getLogger(__name__)


class Subscription:
    """A process's subscriptions to the channels of one Redis, over one connection, on the home loop.

    It reconnects by itself, with backoff. It ends when the object is freed, so a handler must not keep alive the object
    that holds it: see ``weak_handler``.

    Args:
        connection: the Redis.
        recheck: also call the handlers with None every few seconds, for callers that don't poll by themselves.
        outage: logs outages; without one they aren't logged.
    """

    def __init__(self, connection: RedisConnection, *, recheck: bool = True, outage: OutageLog | None = None) -> None:
        self._listening = _Listener(connection, recheck, outage)
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

    def register(self, channel: str, handler: MessageHandler) -> None:
        """Call a handler with every message of a channel once ``start`` has connected. Call before ``start``."""
        self._listening.register(channel, handler)

    def start(self) -> None:
        """Start listening in the background, unless it is running already; an outage only delays it."""
        self._listening.start()

    async def aclose(self) -> None:
        """Stop listening and close the connection."""
        await self._listening.aclose()


def weak_handler(method: MessageHandler) -> MessageHandler:
    """Return a handler that calls a bound method while its object lives, without keeping it alive."""
    reference = weakref.WeakMethod(method)

    def handler(message: bytes | None) -> None:
        if (bound := reference()) is not None:
            bound(message)

    return handler


def text_handler(on_message: Callable[[str], None], on_gap: Callable[[], None] = lambda: None) -> MessageHandler:
    """Return a handler that calls one function with each message as text, and another when some may be missing."""

    def handler(message: bytes | None) -> None:
        if message is None:
            on_gap()
        else:
            on_message(message.decode(errors="replace"))

    return handler


class _Listener:
    """The handlers of a subscription, and the task that keeps its connection open."""

    def __init__(self, connection: RedisConnection, recheck: bool, outage: OutageLog | None) -> None:
        self._connection = connection
        self._recheck = recheck
        self._outage = outage
        self._inherited: list[object] = []
        self._reset()

    async def listen(self, channel: str, handler: MessageHandler) -> None:
        self.start()
        self.register(channel, handler)
        try:
            await self._connection.wait_bounded(self._subscribe(channel.encode()))
        except BaseException:
            await self.leave(channel, handler)
            raise

    async def leave(self, channel: str, handler: MessageHandler) -> None:
        self._leave_to_parent()
        name = channel.encode()
        handlers = self._handlers.get(name, [])
        if handler in handlers:
            handlers.remove(handler)
        if not handlers and self._handlers.pop(name, None) is not None and self._link is not None:
            with suppress(StoreUnavailableError):  # the next connection is opened without it
                await self._link.unsubscribe(name)

    def register(self, channel: str, handler: MessageHandler) -> None:
        self._handlers.setdefault(channel.encode(), []).append(handler)

    def start(self) -> None:
        self._leave_to_parent()
        if self._task is None or self._task.done():
            self._opened = asyncio.get_running_loop().create_future()
            # In a context of its own: it outlives the prediction that starts it.
            self._task = asyncio.create_task(self._run(), name="dspex-subscription", context=Context())

    async def aclose(self) -> None:
        await cancel_tasks(self._task)

    def schedule_stop(self) -> None:
        """Cancel the task, which closes the connection, from the thread in which the last reference was dropped."""
        if self._task is not None and self._pid == os.getpid() and not (loop := self._task.get_loop()).is_closed():
            loop.call_soon_threadsafe(self._task.cancel)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._handlers: dict[bytes, list[MessageHandler]] = {}
        self._link: PubSubConnection | None = None
        self._opened: asyncio.Future[PubSubConnection] | None = None
        self._task: asyncio.Task[None] | None = None

    def _leave_to_parent(self) -> None:
        """Start afresh in a forked child, keeping the parent's objects alive: freeing them would close its sockets."""
        if self._pid == os.getpid():
            return
        if self._task is None:
            self._pid = os.getpid()  # only registered so far: there is nothing of the parent's
        else:
            self._inherited.append((self._link, self._task, self._opened))
            self._reset()

    async def _subscribe(self, name: bytes) -> None:
        assert self._opened is not None
        link = self._link or await share_future(self._opened)
        await link.subscribe(name)

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with PubSubConnection(self._connection, self._notify) as link:
                    self._set_link(link)
                    if self._handlers:
                        await link.subscribe(*self._handlers)
                    failures = 0
                    if self._outage is not None:
                        self._outage.recovered()
                    await self._ping(link)
            except (StoreUnavailableError, ConfigurationError, RedisError, OSError) as exc:
                self._handle_outage(to_unavailable_error(exc, self._connection.url, self._connection.user))
            finally:
                self._link = None
            await asyncio.sleep(_BACKOFF.compute(failures))
            failures += 1

    def _set_link(self, link: PubSubConnection) -> None:
        self._link = link
        if self._opened is not None:
            self._opened.set_result(link)
        self._opened = asyncio.get_running_loop().create_future()

    def _handle_outage(self, exc: StoreUnavailableError) -> None:
        """Fail the calls that wait for a connection; all other handlers are notified after the reconnection."""
        if self._outage is not None:
            self._outage.failed(exc)
        failed, self._opened = self._opened, asyncio.get_running_loop().create_future()
        if failed is not None:
            failed.set_exception(copy_error(exc))
            failed.exception()  # marks it as retrieved, since nobody may wait

    async def _ping(self, link: PubSubConnection) -> None:
        """Ping until the connection is lost."""
        while True:
            await asyncio.wait([link.lost], timeout=RECHECK_INTERVAL_S)
            await link.ping()
            for name in tuple(self._handlers) if self._recheck else ():
                self._notify(name, None)

    def _notify(self, name: bytes, message: bytes | None) -> None:
        for handler in tuple(self._handlers.get(name, ())):
            try:
                handler(message)
            except Exception:  # noqa: BLE001 (a message that one handler can't process must not end the subscription)
                _log.exception("Can't process a message of the channel %s", name.decode(errors="replace"))
