"""One subscription for all that a process listens to, over a connection that comes back by itself and says so.

Not redis-py's PubSub: what is published while that one connects again is missed without a word. Here after every gap,
and every few seconds whether there was one or not, each listener is told to look for itself.
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
from snakepit_bridge.process.home_loop import share
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.outages import unavailable

Heard = Callable[[bytes | None], None]
"""Told what a channel said; None where something may have been missed, so that one has to look."""

# A line on which nothing came for two of these is dead, however open it looks: a ping goes out on each.
LOOK_AGAIN_S = 5.0
_RECONNECT_S = 0.2


class Subscription:
    """What a process hears from one Redis. All of it runs on the process's home loop.

    It ends with its last holder: what listens for as long as the holder lives must not hold it in turn, see ``weakly``.

    Args:
        connection: the way there.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._listening = _Listening(connection)
        weakref.finalize(self, self._listening.end_soon).atexit = False

    async def listen(self, channel: str, heard: Heard) -> None:
        """Calls back with all that a channel says from the moment at which this returns, until ``leave``.

        Raises:
            StoreUnavailableError: the server is away, or doesn't confirm in time.
        """
        await self._listening.listen(channel, heard)

    async def leave(self, channel: str, heard: Heard) -> None:
        """Ends one ``listen``; the last one of a channel takes it off the server."""
        await self._listening.leave(channel, heard)


def weakly(method: Heard) -> Heard:
    """Return a callback that calls a bound method for as long as its object lives, and doesn't keep it alive."""
    reference = weakref.WeakMethod(method)

    def heard(what: bytes | None) -> None:
        if (alive := reference()) is not None:
            alive(what)

    return heard


class _Listening:
    """The connection of one subscription, and the tasks that read it."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._inherited: list[object] = []
        self._begin()

    async def listen(self, channel: str, heard: Heard) -> None:
        self._leave_to_parent()
        name = channel.encode()
        self._listeners.setdefault(name, []).append(heard)
        if name in self._confirmed:
            return
        asked = self._asked.setdefault(name, asyncio.get_running_loop().create_future())
        self._start()
        try:
            if self._line is not None:
                await self._send(self._line, "SUBSCRIBE", name)
            await self._connection.bounded(share(asked))
        except BaseException:
            await self.leave(channel, heard)
            raise

    async def leave(self, channel: str, heard: Heard) -> None:
        name = channel.encode()
        listeners = self._listeners.get(name, [])
        if heard in listeners:
            listeners.remove(heard)
        if not listeners and self._listeners.pop(name, None) is not None:
            self._confirmed.discard(name)
            self._asked.pop(name, None)
            if self._line is not None:
                await self._send(self._line, "UNSUBSCRIBE", name)

    def end_soon(self) -> None:
        """Ends the tasks, which close the connection, from whichever thread the last holder was let go in."""
        if self._tasks and self._pid == os.getpid() and not (loop := self._tasks[0].get_loop()).is_closed():
            loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._listeners: dict[bytes, list[Heard]] = {}
        self._confirmed: set[bytes] = set()
        self._asked: dict[bytes, asyncio.Future[None]] = {}
        self._line: AbstractConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def _leave_to_parent(self) -> None:
        """A fork's parent keeps its line, loop and tasks; freeing them here would close its sockets."""
        if self._pid != os.getpid():
            self._inherited.append((self._line, self._tasks, self._asked))
            self._begin()

    def _start(self) -> None:
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._keep(), name="dspex-subscription"),
                asyncio.create_task(self._beat(), name="dspex-subscription-beat"),
            ]

    async def _keep(self) -> None:
        while True:
            try:
                line = await self._connection.open_connection()
                try:
                    self._line = line
                    if self._listeners:
                        await self._connection.bounded(line.send_command("SUBSCRIBE", *self._listeners))
                    await self._read(line)
                finally:
                    self._line = None
                    self._confirmed.clear()
                    await line.disconnect(nowait=True)
            except (StoreUnavailableError, RedisError, OSError) as lost:  # a read that timed out is one of these
                self._refuse(lost)
            await asyncio.sleep(_RECONNECT_S)

    async def _read(self, line: AbstractConnection) -> None:
        while True:
            told = await line.read_response(timeout=2 * LOOK_AGAIN_S, push_request=True)
            if told is None:  # redis-py's way to say that the time is over
                raise RedisTimeoutError(f"nothing was heard for {2 * LOOK_AGAIN_S:g} s")
            if not isinstance(told, list):
                continue  # a pong of a connection that has no subscription
            if told[0] == b"message":
                self._tell(told[1], told[2])
            elif told[0] == b"subscribe":
                self._confirm(told[1])

    def _confirm(self, name: bytes) -> None:
        if name not in self._listeners:
            return  # left before the server got to it
        self._confirmed.add(name)
        asked = self._asked.pop(name, None)
        if asked is not None and not asked.done():
            asked.set_result(None)
        self._tell(name, None)

    def _tell(self, name: bytes, what: bytes | None) -> None:
        for heard in tuple(self._listeners.get(name, ())):
            heard(what)

    def _refuse(self, lost: Exception) -> None:
        """Whoever waits for a confirmation hears at once that none will come; all others find out when they look."""
        refused, self._asked = self._asked, {}
        for asked in refused.values():
            if not asked.done():
                asked.set_exception(unavailable(lost, self._connection.url, self._connection.user))
                asked.exception()  # nobody may be waiting for it any more

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            if self._line is not None:
                await self._send(self._line, "PING")
            for name in tuple(self._listeners):
                self._tell(name, None)

    async def _send(self, line: AbstractConnection, *words: bytes | str) -> None:
        try:
            await self._connection.bounded(line.send_command(*words, check_health=False))
        except StoreUnavailableError:
            # The reader meets the same end and connects again, which subscribes to all that is listened to.
            await line.disconnect(nowait=True)
