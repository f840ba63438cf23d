"""The way to Redis: one connection pool per event loop and process, bounded waits, and errors that name the remedy.

Pools can't be shared between event loops or across a fork, and a store object is: programs hold one and use it from
wherever they are. No password that the URL holds gets into a repr or an error.
"""

from __future__ import annotations

import asyncio
import functools
import os
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError, ResponseError

from snakepit_bridge.exceptions import ConfigurationError, StoreUnavailableError
from snakepit_bridge.process.open_files import OPEN_FILES
from snakepit_bridge.redaction import register_url
from snakepit_bridge.redis.outages import OUTAGES, is_outage, unavailable
from snakepit_bridge.redis.pipeliner import Command, Pipeliner
from snakepit_bridge.redis.scripts import Script
from snakepit_bridge.redis.urls import Address, OptionError, database_of, masked, user_of

T = TypeVar("T")

# Enough for a process at full speed: the server answers one command after the other anyway.
_CONNECTIONS = 16
_RETRIES = 4
# Scripts that are on their way to a cluster at a time, where each is a command of its own.
_TOGETHER = 16


# Clients of a parent process, which a fork has inherited: freeing one would close the parent's sockets.
_inherited_clients: list[Redis] = []


def _close_soon(client: Redis, loop: asyncio.AbstractEventLoop, pid: int) -> None:
    """Close a client's connections on its own loop, from whichever thread its last holder was let go in."""
    if pid != os.getpid():
        _inherited_clients.append(client)
    elif not loop.is_closed():
        loop.call_soon_threadsafe(lambda: loop.create_task(client.aclose(), name="dspex-redis-close"))


@dataclass(frozen=True, slots=True)
class _Link:
    client: Redis
    tick: Pipeliner
    closing: weakref.finalize[..., Any]
    registered: dict[Script, AsyncScript] = field(default_factory=dict[Script, AsyncScript])

    def runnable(self, script: Script) -> AsyncScript:
        """Return redis-py's object for a script, which loads it where the server doesn't know it yet."""
        found = self.registered.get(script)
        if found is None:
            found = self.registered[script] = self.client.register_script(script.text)
        return found


class RedisConnection:
    """The way to one Redis or Valkey server, one behind Sentinel, or a cluster.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``valkey://``, and the like; for several hosts see ``Address``.
        timeout_s: seconds within which every call ends, retries included.

    Raises:
        ConfigurationError: the URL can't be read.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        register_url(url)
        self.url = masked(url)
        self.user, self.database = user_of(url), database_of(url)
        self.timeout_s = timeout_s
        self.reached = False
        """Whether the server has ever answered: one that hasn't may be the wrong one, and not merely away."""
        self._pid = os.getpid()
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}
        self._inherited: list[object] = []
        scheme, separator, _ = url.partition("://")
        try:
            self._address = Address.parse(url)
        except OptionError as exc:
            raise ConfigurationError(f"Can't read the Redis URL {self.url}: {exc}.") from None
        except ValueError:
            # The parser's own words may quote a piece of the password, so they go no further.
            shown = self.url if "@" in url else f"{scheme}://***" if separator else "***"
            raise ConfigurationError(
                f"Can't read the Redis URL {shown}; it looks like redis://host:6379/0, "
                "redis+sentinel://host:26379,host:26379/service or redis+cluster://host:6379,host:6379, "
                "with special characters of the password percent-encoded."
            ) from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def cluster(self) -> bool:
        """Whether each session is on a node of its own, so that no command spans several."""
        return self._address.kind == "cluster"

    @property
    def client(self) -> Redis:
        """The client of the running event loop and process, for commands that no script covers."""
        return self._link.client

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Return what a script answers, in one round trip once the server knows the script.

        Raises:
            StoreUnavailableError: no answer within the timeout.
        """
        return await self._with_file(lambda: self.bounded(self._link.runnable(script)(keys, args)))

    async def run_each(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Returns what a script answers to each ``(keys, args)``, all of them sent together.

        Raises:
            StoreUnavailableError: no answer within the timeout.
        """
        if self.cluster:
            return await self._run_apart(script, calls)
        link = self._link
        async with link.client.pipeline(transaction=False) as pipeline:
            for keys, args in calls:
                await link.runnable(script)(keys, args, client=pipeline)
            return await self.bounded(pipeline.execute())

    async def _run_apart(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        room = asyncio.Semaphore(_TOGETHER)

        async def run(keys: Sequence[str], args: Sequence[Any]) -> Any:
            async with room:
                return await self.run(script, keys, args)

        return await asyncio.gather(*(run(keys, args) for keys, args in calls))

    async def send_each(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Returns the answers to plain commands, all of them sent together.

        Raises:
            StoreUnavailableError: no answer within the timeout.
        """
        async with self._link.client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return await self.bounded(pipeline.execute())

    def execute(self, *command: Any) -> Awaitable[Any]:
        """Has a plain command sent with all else that is asked in this tick of the event loop, and returns its answer.

        For commands that answer at once and may run twice, since a lost answer repeats them. Awaiting the answer raises
        ``StoreUnavailableError`` where there is none within the timeout.
        """
        return self._link.tick.ask(command)

    def execute_read(self, *command: Any) -> Awaitable[Any]:
        """Does the same for a command that only reads; equal ones of one round trip are sent once."""
        return self._link.tick.read(command)

    async def execute_script(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """Do the same for a script.

        Raises:
            StoreUnavailableError: no answer within the timeout.
        """
        tick = self._link.tick
        try:
            return await tick.ask(("EVALSHA", script.sha, len(keys), *keys, *args))
        except NoScriptError:
            return await tick.ask(("EVAL", script.text, len(keys), *keys, *args))

    async def open_connection(self) -> AbstractConnection:
        """Returns a connection that no pool knows of, for the caller alone to use and to disconnect.

        Raises:
            StoreUnavailableError: it can't be opened.
        """
        return await self.bounded(self._connected_line())

    async def _connected_line(self) -> AbstractConnection:
        client = self._link.client
        if isinstance(client, RedisCluster):
            # Any node will do: a cluster passes what is published on to all of them.
            await client.initialize()
            node = client.get_random_node()
            line = node.connection_class(**node.connection_kwargs)
        else:
            line = client.connection_pool.make_connection()
        await line.connect()
        return line

    async def bounded(self, answer: Awaitable[T]) -> T:
        """Returns what a command answers.

        Raises:
            StoreUnavailableError: no answer within the timeout, or the server can't do its work.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                found = await answer
        except TimeoutError:
            raise StoreUnavailableError(self.url, f"no answer within {self.timeout_s:g} s") from None
        except (*OUTAGES, ResponseError) as exc:
            named = self._named(exc)
            if named is exc:
                raise
            raise named from exc
        self.reached = True
        return found

    def _named(self, exc: Exception) -> Exception:
        """Return an error of ours for what says that the server can't do its work; a command's own stays as it is."""
        return unavailable(exc, self.url, self.user) if is_outage(exc) else exc

    async def aclose(self) -> None:
        """Closes the connections of the running event loop."""
        link = self._links.pop(asyncio.get_running_loop(), None)
        if link is not None and self._pid == os.getpid():
            link.closing.detach()
            await link.client.aclose()

    @property
    def _link(self) -> _Link:
        if self._pid != os.getpid():
            self._leave_to_parent()
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None:
            for closed in [known for known in self._links if known.is_closed()]:
                if (gone := self._links.pop(closed, None)) is not None:
                    gone.closing.detach()
            link = self._links[loop] = self._open()
        return link

    def _leave_to_parent(self) -> None:
        """A fork shares its parent's sockets and selectors: closing them here would unregister them there."""
        self._inherited.append(self._links)
        self._links, self._pid = {}, os.getpid()

    def _open(self) -> _Link:
        # `bounded` is the one timer of a call: the pool's and the sockets' own would only cost time beside it.
        client = self._address.client(
            max_connections=_CONNECTIONS,
            socket_timeout=None,
            socket_connect_timeout=self.timeout_s,
            retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), _RETRIES),
        )
        closing = weakref.finalize(self, _close_soon, client, asyncio.get_running_loop(), self._pid)
        closing.atexit = False
        return _Link(client, Pipeliner(functools.partial(self._send_patiently, client)), closing)

    async def _with_file(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does some work, and again where no open file was left to connect by: nothing was sent then."""
        return await OPEN_FILES.wait_for_files(work, self.timeout_s)

    async def _send_patiently(self, client: Redis, commands: Sequence[Command]) -> list[Any]:
        return await self._with_file(lambda: self._send_together(client, commands))

    async def _send_together(self, client: Redis, commands: Sequence[Command]) -> list[Any]:
        if self.cluster:
            return await self._send_apart(client, commands)
        async with client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            answers = await self.bounded(pipeline.execute(raise_on_error=False))
        return [self._named(answer) if isinstance(answer, Exception) else answer for answer in answers]

    async def _send_apart(self, client: Redis, commands: Sequence[Command]) -> list[Any]:
        """A cluster has no round trip that all of them could share."""
        sent = (self.bounded(client.execute_command(*command)) for command in commands)
        return await asyncio.gather(*sent, return_exceptions=True)
