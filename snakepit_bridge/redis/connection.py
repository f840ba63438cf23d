"""Redis connections: one pool per event loop and process, one timeout per call, and named errors.

Pools can't be shared between event loops or across a fork, but store objects are. Passwords of the URL never appear in
a repr or an error.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
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
from snakepit_bridge.redis.data_format import DataFormatGuard
from snakepit_bridge.redis.durable_writes import DurableWrites
from snakepit_bridge.redis.outages import OUTAGES, is_outage, to_database_error, to_unavailable_error
from snakepit_bridge.redis.pipeliner import Command, Pipeliner
from snakepit_bridge.redis.scripts import Script
from snakepit_bridge.redis.urls import Address, OptionError, database_of, mask_url, user_of
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import REDIS_COMMANDS, REDIS_DURATION

T = TypeVar("T")

# Enough for a process at full speed, since the server executes one command at a time.
_MAX_CONNECTIONS = 16
_RETRIES = 4
# Concurrent scripts on a cluster, where each is a command of its own.
_MAX_CONCURRENT_SCRIPTS = 16
# What round trips are called in metrics.
_PIPELINE, _SCRIPT, _COMMAND = "PIPELINE", "EVALSHA", "COMMAND"


# What a parent process opened: freeing a client would close the parent's sockets.
_inherited: list[object] = []


async def _hold_open(client: Redis) -> AsyncGenerator[None]:
    """Close a client's connections with this generator, which an event loop that shuts down does with all of its own.

    So nothing stays open behind ``asyncio.run`` where the connection outlives it.
    """
    try:
        yield
    finally:
        await client.aclose()


def _start(generator: AsyncGenerator[None]) -> None:
    """Run a generator up to its first ``yield``, by which the running loop gets to know it."""
    with suppress(StopIteration):
        generator.asend(None).send(None)


def _schedule_close(held: AsyncGenerator[None], loop: asyncio.AbstractEventLoop, pid: int) -> None:
    """Close a client's connections on its own loop, from the thread in which its last reference was dropped."""
    if pid != os.getpid():
        _inherited.append(held)
    elif not loop.is_closed():
        loop.call_soon_threadsafe(lambda: loop.create_task(held.aclose(), name="dspex-redis-close"))


@dataclass(frozen=True, slots=True)
class _Link:
    client: Redis
    pipeliner: Pipeliner
    durable: DurableWrites
    held: AsyncGenerator[None]
    closing: weakref.finalize[..., Any]
    registered: dict[Script, AsyncScript] = field(default_factory=dict[Script, AsyncScript])

    def register(self, script: Script) -> AsyncScript:
        """Return redis-py's object for a script, which loads the script if the server doesn't know it."""
        registered = self.registered.get(script)
        if registered is None:
            registered = self.registered[script] = self.client.register_script(script.text)
        return registered


class RedisConnection:
    """Connections to a Redis or Valkey server, a primary behind Sentinel, or a cluster.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``valkey://``, and the like; for several hosts see ``Address``.
        timeout_s: maximum seconds for every call, including retries.
        namespace: of the fleet whose data is read, so that calls raise ``DataFormatError`` if a newer release wrote it.

    Raises:
        ConfigurationError: the URL is invalid.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0, namespace: str | None = None) -> None:
        register_url(url)
        self.url = mask_url(url)
        self.user, self.database = user_of(url), database_of(url)
        self.timeout_s = timeout_s
        self.reached = False
        """Whether the server has ever answered; if not, the address may be wrong."""
        self._format = None if namespace is None else DataFormatGuard(namespace)
        self._pid = os.getpid()
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}
        self._inherited: list[object] = []
        scheme, separator, _ = url.partition("://")
        try:
            self._address = Address.parse(url)
        except OptionError as exc:
            raise ConfigurationError(f"Can't read the Redis URL {self.url}: {exc}.") from None
        except ValueError:
            # The parser's message may quote part of the password, so it is dropped.
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
        """Whether sessions are spread over the nodes of a cluster, so that no command can span several."""
        return self._address.kind == "cluster"

    @property
    def by_sentinel(self) -> bool:
        """Whether Sentinel says where the primary is."""
        return self._address.kind == "sentinel"

    @property
    def client(self) -> Redis:
        """The redis-py client of the running event loop."""
        return self._link.client

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script and return its reply, in one round trip once the server knows the script.

        Raises:
            StoreUnavailableError: no reply within the timeout.
        """
        return await self._retry_without_files(
            lambda: self.wait_bounded(self._link.register(script)(keys, args), _SCRIPT)
        )

    @property
    def durable(self) -> DurableWrites:
        """The writes that wait for replicas or disks.

        Raises:
            ConfigurationError: the Redis is a cluster, where a connection can't wait for what it wrote.
        """
        if self.cluster:
            raise ConfigurationError(f"{self!r} is a cluster, where no write can wait: use durability 'primary'.")
        return self._link.durable

    async def run_each(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Run a script for each ``(keys, args)`` in one pipeline and return the replies.

        Raises:
            StoreUnavailableError: no reply within the timeout.
        """
        if self.cluster:
            return await self._run_separately(script, calls)
        link = self._link
        async with link.client.pipeline(transaction=False) as pipeline:
            for keys, args in calls:
                await link.register(script)(keys, args, client=pipeline)
            return await self.wait_bounded(pipeline.execute(), _PIPELINE, len(calls))

    async def _run_separately(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        limit = asyncio.Semaphore(_MAX_CONCURRENT_SCRIPTS)

        async def run(keys: Sequence[str], args: Sequence[Any]) -> Any:
            async with limit:
                return await self.run(script, keys, args)

        return await asyncio.gather(*(run(keys, args) for keys, args in calls))

    async def send_each(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Send commands in one pipeline and return the replies.

        Raises:
            StoreUnavailableError: no reply within the timeout.
        """
        async with self._link.client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return await self.wait_bounded(pipeline.execute(), _PIPELINE, len(commands))

    def execute(self, *command: Any) -> Awaitable[Any]:
        """Execute a command by automatic pipelining, together with others of this moment, and return the future reply.

        For commands that don't block and may run twice, since a lost reply makes the client send them again. Awaiting
        the reply raises ``StoreUnavailableError`` if there is none within the timeout.
        """
        return self._link.pipeliner.execute(command)

    def execute_read(self, *command: Any) -> Awaitable[Any]:
        """Execute a read-only command by automatic pipelining; equal ones of one round trip are sent once."""
        return self._link.pipeliner.execute_read(command)

    async def execute_script(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """Run a script by automatic pipelining and return its reply.

        Raises:
            StoreUnavailableError: no reply within the timeout.
        """
        pipeliner = self._link.pipeliner
        try:
            return await pipeliner.execute(("EVALSHA", script.sha, len(keys), *keys, *args))
        except NoScriptError:
            return await pipeliner.execute(("EVAL", script.text, len(keys), *keys, *args))

    async def open_connection(self) -> AbstractConnection:
        """Open a connection outside of the pool; the caller has to disconnect it.

        Raises:
            StoreUnavailableError: it can't be opened.
        """
        return await self.wait_bounded(self._connect())

    async def _connect(self) -> AbstractConnection:
        client = self._link.client
        if isinstance(client, RedisCluster):
            # Any node will do: a cluster forwards published messages to all nodes.
            await client.initialize()
            node = client.get_random_node()
            connection = node.connection_class(**node.connection_kwargs)
        else:
            connection = client.connection_pool.make_connection()
        await connection.connect()
        return connection

    async def wait_bounded(
        self, answer: Awaitable[T], operation: str = _COMMAND, count: int = 1, *, more_s: float = 0.0
    ) -> T:
        """Await a reply within the timeout and return it.

        Args:
            answer: the reply.
            operation: what its round trip is called in metrics.
            count: how many commands share the round trip.
            more_s: seconds that the server itself waits before it replies.

        Raises:
            StoreUnavailableError: no reply within the timeout, or the server is out of service.
            ConfigurationError: the server has no database of the URL's number.
            DataFormatError: a newer release wrote what is there.
        """
        started = time.perf_counter() if TELEMETRY.meter.enabled else None
        try:
            async with asyncio.timeout(self.timeout_s + more_s):
                if self._format is not None:
                    await self._check_format(self._format, answer)
                reply = await answer
        except TimeoutError:
            self._forget_format()
            _record_round_trip(started, operation, count, TimeoutError.__name__)
            raise StoreUnavailableError(self.url, f"no answer within {self.timeout_s:g} s") from None
        except (*OUTAGES, ResponseError) as exc:
            _record_round_trip(started, operation, count, type(exc).__name__)
            translated = self._translate(exc)
            if translated is exc:
                raise
            self._forget_format()
            raise translated from exc
        self.reached = True
        if started is not None:
            _record_round_trip(started, operation, count)
        return reply

    async def _check_format(self, guard: DataFormatGuard, answer: Awaitable[Any]) -> None:
        if not guard.is_readable:
            await guard.check_before(answer, self._link.client.execute_command)
        elif guard.is_due:
            guard.read_later(self._link.pipeliner.execute)

    def _forget_format(self) -> None:
        if self._format is not None:
            self._format.forget()

    def _translate(self, exc: Exception) -> Exception:
        """Return a named error for an outage and for a database that isn't there, and any other error as it is."""
        if (misnamed := to_database_error(exc, self.url)) is not None:
            return misnamed
        return to_unavailable_error(exc, self.url, self.user) if is_outage(exc) else exc

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        link = self._links.pop(asyncio.get_running_loop(), None)
        if link is not None and self._pid == os.getpid():
            link.closing.detach()
            await link.held.aclose()

    @property
    def _link(self) -> _Link:
        if self._pid != os.getpid():
            self._leave_to_parent()
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None:
            for closed in [each for each in self._links if each.is_closed()]:
                if (stale := self._links.pop(closed, None)) is not None:
                    stale.closing.detach()
            link = self._links[loop] = self._open()
        return link

    def _leave_to_parent(self) -> None:
        """Keep the parent's links alive: a fork shares sockets and selectors, so closing them breaks the parent."""
        self._inherited.append(self._links)
        self._links, self._pid = {}, os.getpid()

    def _open(self) -> _Link:
        # `bounded` is the only timer of a call: timeouts of the pool and the sockets would only add cost.
        client = self._address.client(
            max_connections=_MAX_CONNECTIONS,
            socket_timeout=None,
            socket_connect_timeout=self.timeout_s,
            retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), _RETRIES),
        )
        held = _hold_open(client)
        _start(held)
        closing = weakref.finalize(self, _schedule_close, held, asyncio.get_running_loop(), self._pid)
        closing.atexit = False
        send = functools.partial(self._send_with_retries, client)
        return _Link(client, Pipeliner(send), DurableWrites(send, self.url), held, closing)

    async def _retry_without_files(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await some work, and retry if no file descriptor was left for its connection: nothing was sent then."""
        return await OPEN_FILES.wait_for_files(work, self.timeout_s)

    async def _send_with_retries(self, client: Redis, commands: Sequence[Command], more_s: float = 0.0) -> list[Any]:
        return await self._retry_without_files(lambda: self._send_pipeline(client, commands, more_s))

    async def _send_pipeline(self, client: Redis, commands: Sequence[Command], more_s: float) -> list[Any]:
        if self.cluster:
            return await self._send_separately(client, commands)
        async with client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            sent = pipeline.execute(raise_on_error=False)
            answers = await self.wait_bounded(sent, _PIPELINE, len(commands), more_s=more_s)
        return [self._translate(answer) if isinstance(answer, Exception) else answer for answer in answers]

    async def _send_separately(self, client: Redis, commands: Sequence[Command]) -> list[Any]:
        """Send each command by itself: on a cluster they can't share a round trip."""
        sent = (self.wait_bounded(client.execute_command(*command)) for command in commands)
        return await asyncio.gather(*sent, return_exceptions=True)


def _record_round_trip(started: float | None, operation: str, count: int, error_type: str = "") -> None:
    """Record a round trip, if metrics were on when it began.

    Args:
        started: when it began, by ``time.perf_counter``.
        operation: what it is called in metrics.
        count: how many commands shared it.
        error_type: the class of the error that it ended with; empty for none.
    """
    if started is None:
        return
    labels = {"db.system.name": "redis", "db.operation.name": operation, "error.type": error_type}
    TELEMETRY.meter.record(REDIS_DURATION, time.perf_counter() - started, labels)
    TELEMETRY.meter.add(REDIS_COMMANDS, count)
