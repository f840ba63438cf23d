"""Kept snapshots: whole states beside the history, by content, so that pins and replays don't depend on trimming."""

from __future__ import annotations

import time
from typing import Any

from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots.redis_keys import Keys
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable
from snakepit_bridge.variables.codec import canonical, parse

# Tokens of which this process remembers until when they are kept.
_REMEMBERED = 4_096


class KeptSnapshots:
    """The kept snapshots of a store; equal content is kept once per session."""

    def __init__(self, connection: RedisConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._until: dict[tuple[str, Token], float] = {}

    async def keep(self, snapshot: Snapshot, seconds: float) -> None:
        """Keeps a snapshot for at least so long."""
        known = (snapshot.session, snapshot.token)
        if self._until.get(known, 0.0) >= time.time() + seconds:
            return
        # For somewhat longer, so that the next results of the same snapshot find it kept.
        longer = seconds * 1.25 + 60
        await self._write(snapshot, f"{longer * 1000:.0f}")
        self._until[known] = time.time() + longer
        while len(self._until) > _REMEMBERED:
            self._until.pop(next(iter(self._until)), None)

    async def read(self, session: str, token: Token) -> Snapshot | None:
        """Returns what is kept of a token, or None."""
        client, bounded = self._connection.client, self._connection.bounded
        pin: Any = await bounded(client.get(self._keys.pin(session, token)))
        if pin is None:
            return None
        digest, confirmed_at, authority = pin.decode().split(" ", 2)
        content: Any = await bounded(client.get(self._keys.state(session, digest)))
        if content is None:
            return None
        variables = {name: Variable.decode(name, encoded.encode()) for name, encoded in parse(content).items()}
        return Snapshot(session, token, variables, float(confirmed_at), authority=authority)

    async def _write(self, snapshot: Snapshot, ms: str) -> None:
        pin = self._keys.pin(snapshot.session, snapshot.token)
        state = self._keys.state(snapshot.session, snapshot.digest)
        about = f"{snapshot.digest} {snapshot.confirmed_at!r} {snapshot.authority}"
        *_, there = await self._connection.send_each(
            [
                ("SET", pin, about, "NX", "PX", ms),
                ("PEXPIRE", pin, ms, "GT"),
                ("PEXPIRE", state, ms, "GT"),
                ("EXISTS", state),
            ]
        )
        if not there:
            content = canonical({name: each.encode().decode() for name, each in snapshot.variables.items()})
            await self._connection.bounded(self._connection.client.set(state, content, px=int(ms)))
