"""The sessions in use, as workers report them, so that refreshers follow them and drop idle ones."""

from __future__ import annotations

from collections.abc import Iterable

from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.scripts import ScriptPackage

IDLE_S = 600.0
"""Default seconds without use after which a session is dropped."""

# A client that invents names must not make a refresher follow them all.
_MAX_SESSIONS = 20_000
_BATCH_SIZE = 1_000


class SessionDemand:
    """The sessions in use, in Redis.

    Args:
        connection: connection to Redis.
        namespace: prefix of the key.
        idle_s: seconds without use after which a session is dropped; must be the same in all processes.
    """

    def __init__(
        self, connection: RedisConnection, *, namespace: str = DEFAULT_NAMESPACE, idle_s: float = IDLE_S
    ) -> None:
        self._connection = connection
        self._key = FleetKeys(namespace).wanted_sessions
        self._refreshers = FleetKeys(namespace).refreshers
        self._idle_s = max(1, round(idle_s))

    async def touch(self, sessions: Iterable[str]) -> None:
        """Record that sessions are in use now. A session that isn't followed yet is followed within about a second.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        names = list(sessions)
        for start in range(0, len(names), _BATCH_SIZE):
            args = (self._idle_s, _MAX_SESSIONS, *names[start : start + _BATCH_SIZE])
            await self._connection.run(_SCRIPTS["demand"], [self._key], args)

    async def has_live_refresher(self) -> bool:
        """Check whether a refresher runs that reaches its Elixir server; a dead one counts until its lease expires.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        return bool((await self._connection.send_each([("EXISTS", self._refreshers)]))[0])

    async def read_idle_times(self) -> dict[str, float]:
        """Return the sessions in use, each with the seconds since its last use.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        commands = [("TIME",), ("ZRANGE", self._key, 0, -1, "WITHSCORES")]
        (seconds, _), scored = await self._connection.send_each(commands)
        times = {_as_text(name): float(seconds) - float(at) for name, at in scored}
        return {name: idle for name, idle in times.items() if idle <= self._idle_s}


def _as_text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


_SCRIPTS = ScriptPackage("snakepit_bridge.elixir")
