"""Kept snapshots: whole states stored by content digest, so that pins and replays don't depend on the history."""

from __future__ import annotations

import time
from typing import Any

from snakepit_bridge.encryption.cipher import Cipher
from snakepit_bridge.process.lru_cache import ThreadSafeLRUCache
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots.redis_keys import Keys
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable
from snakepit_bridge.variables.codec import encode_canonical, parse

# Maximum number of tokens whose expiry is cached.
_MAX_CACHED = 4_096
_STATE = "state"


class KeptSnapshots:
    """The kept snapshots of a store; equal content is stored once per session.

    Args:
        connection: the Redis.
        keys: of the store.
        cipher: encrypts them.
    """

    def __init__(self, connection: RedisConnection, keys: Keys, cipher: Cipher) -> None:
        self._connection = connection
        self._keys = keys
        self._cipher = cipher
        self._until: ThreadSafeLRUCache[tuple[str, Token], float] = ThreadSafeLRUCache(_MAX_CACHED)

    async def keep(self, snapshot: Snapshot, seconds: float) -> None:
        """Keep a snapshot for at least ``seconds``."""
        key = (snapshot.session, snapshot.token)
        if (self._until.get(key) or 0.0) >= time.time() + seconds:
            return
        # Somewhat longer, so that the next results of the same snapshot needn't write again.
        ttl_s = seconds * 1.25 + 60
        await self._write(snapshot, f"{ttl_s * 1000:.0f}")
        self._until.put(key, time.time() + ttl_s)

    async def read(self, session: str, token: Token) -> Snapshot | None:
        """Return the kept snapshot of a token, or None.

        Raises:
            DecryptionError: it can't be decrypted.
        """
        client, bounded = self._connection.client, self._connection.wait_bounded
        pin: Any = await bounded(client.get(self._keys.pin(session, token)))
        if pin is None:
            return None
        digest, confirmed_at, authority = pin.decode().split(" ", 2)
        content: Any = await bounded(client.get(self._keys.state(session, digest)))
        if content is None:
            return None
        found = parse(self._cipher.decrypt(_STATE, (session, digest), content))
        variables = {name: Variable.decode(name, encoded.encode()) for name, encoded in found.items()}
        return Snapshot(session, token, variables, float(confirmed_at), authority=authority)

    async def _write(self, snapshot: Snapshot, ms: str) -> None:
        pin = self._keys.pin(snapshot.session, snapshot.token)
        digest = self._digest(snapshot)
        state = self._keys.state(snapshot.session, digest)
        header = f"{digest} {snapshot.confirmed_at!r} {snapshot.authority}"
        *_, exists = await self._connection.send_each(
            [
                ("SET", pin, header, "NX", "PX", ms),
                ("PEXPIRE", pin, ms, "GT"),
                ("PEXPIRE", state, ms, "GT"),
                ("EXISTS", state),
            ]
        )
        if not exists:
            content = encode_canonical(
                {name: variable.encode().decode() for name, variable in snapshot.variables.items()}
            )
            sealed = self._cipher.encrypt(_STATE, (snapshot.session, digest), content)
            await self._connection.wait_bounded(self._connection.client.set(state, sealed, px=int(ms)))

    def _digest(self, snapshot: Snapshot) -> str:
        """Return the digest of a snapshot's content, which nobody without the keys can compute if there are some."""
        return self._cipher.digest(_STATE, snapshot.digest.encode()) if self._cipher.is_on else snapshot.digest
