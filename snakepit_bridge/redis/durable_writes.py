"""Writes that wait for replicas or disks: those of one moment share a round trip and the wait at its end.

They have connections of their own, so that nothing that doesn't wait is sent behind them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.redis.pipeliner import Command, Pipeliner
from snakepit_bridge.redis.replication import Replication
from snakepit_bridge.redis.scripts import Script
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import REDIS_UNCONFIRMED

Send = Callable[[Sequence[Command], float], Awaitable[list[Any]]]
"""Sends commands in one pipeline, for which the server may take this many seconds more, and returns their replies."""

# Asks whether the server can wait for its disk, and waits for nothing.
_PROBE = ("WAITAOF", 1, 0, 1)
_SET_UP = "docs/how-to/redis-failover.md"


class DurableWrites:
    """The durable writes of one event loop to one server.

    Args:
        send: sends commands.
        url: of the server, without a password.
    """

    def __init__(self, send: Send, url: str) -> None:
        self._send = send
        self._url = url
        self._pipeliners: dict[Replication, Pipeliner] = {}
        self._can_fsync = False

    async def run(
        self, script: Script, keys: Sequence[Any], args: Sequence[Any], replication: Replication, touch: Command
    ) -> tuple[Any, int]:
        """Run a script; return its reply, and how many servers have confirmed what it wrote.

        Args:
            script: the script.
            keys: its keys.
            args: its arguments.
            replication: what is waited for.
            touch: a command that writes in any case: a script that was sent twice may have written nothing the second
                time, and a connection that wrote nothing has nothing to wait for.

        Raises:
            StoreUnavailableError: no reply within the timeout.
            ConfigurationError: the server can't do it; nothing was sent.
        """
        try:
            return await self._run(("EVALSHA", script.sha, len(keys), *keys, *args), replication, touch)
        except NoScriptError:
            return await self._run(("EVAL", script.text, len(keys), *keys, *args), replication, touch)

    async def confirm(self, replication: Replication, touch: Command) -> int:
        """Return how many servers have confirmed everything that was written before this call, by any client.

        Args:
            replication: what is waited for.
            touch: a command that writes.

        Raises:
            StoreUnavailableError: no reply within the timeout.
            ConfigurationError: the server can't do it; nothing was sent.
        """
        _, confirmed = await self._pipeliner(replication).execute(touch)
        return confirmed

    async def check(self, replication: Replication) -> None:
        """Refuse what the server can't wait for; free of cost once it is known that it can.

        Raises:
            ConfigurationError: it doesn't know WAITAOF, or has no append-only file.
            StoreUnavailableError: no reply within the timeout.
        """
        if replication.fsync and not self._can_fsync:
            await self._check_fsync()

    async def _run(self, command: Command, replication: Replication, touch: Command) -> tuple[Any, int]:
        pipeliner = self._pipeliner(replication)
        # In this order, and so in one batch or in two that follow each other.
        written, touched = pipeliner.execute(command), pipeliner.execute(touch)
        reply, _ = await written
        _, confirmed = await touched
        return reply, confirmed

    def _pipeliner(self, replication: Replication) -> Pipeliner:
        pipeliner = self._pipeliners.get(replication)
        if pipeliner is None:
            pipeliner = self._pipeliners[replication] = Pipeliner(partial(self._send_batch, replication))
        return pipeliner

    async def _send_batch(self, replication: Replication, commands: Sequence[Command]) -> list[Any]:
        """Send commands and wait for what they wrote; return each one's reply and how many servers have confirmed."""
        await self.check(replication)
        *replies, waited = await self._send([*commands, replication.command], replication.wait_s)
        if isinstance(waited, ResponseError):
            self._can_fsync, confirmed = False, 0  # the server is another one now, or another setting is in force
        elif isinstance(waited, Exception):
            raise waited
        else:
            confirmed = replication.count(waited)
        if confirmed < replication.wanted:
            TELEMETRY.meter.add(
                REDIS_UNCONFIRMED, 1, {"dspex.durability": "fsynced" if replication.fsync else "replicated"}
            )
        return [reply if isinstance(reply, Exception) else (reply, confirmed) for reply in replies]

    async def _check_fsync(self) -> None:
        """Refuse a server that can't say what is on its disk, before anything is written.

        Raises:
            ConfigurationError: it doesn't know WAITAOF, or has no append-only file.
        """
        (reply,) = await self._send([_PROBE], 0.0)
        if isinstance(reply, ResponseError):
            raise ConfigurationError(fsync_problem(str(reply), self._url))
        if isinstance(reply, Exception):
            raise reply
        self._can_fsync = True


def fsync_problem(answer: str, url: str) -> str:
    """Return why a server can't wait for its disk, and what to do.

    Args:
        answer: the error that it gave to ``WAITAOF``.
        url: of the server, without a password.
    """
    if "unknown command" in answer.lower():
        return (
            f"Durability 'fsynced' needs WAITAOF, which Redis at {url} doesn't know: it is older than Redis 7.2. "
            f"Upgrade it to Redis 7.2 or Valkey, or use 'replicated' or 'primary'; see {_SET_UP}."
        )
    return (
        f"Durability 'fsynced' needs an append-only file, and Redis at {url} has none: {answer.rstrip('.')}. "
        f"Set appendonly yes there, or use 'replicated' or 'primary'; see {_SET_UP}."
    )
