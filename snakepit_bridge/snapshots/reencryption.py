"""Encrypt by the newest key what a session has under others, or unencrypted: variables, kept states and history."""

from __future__ import annotations

from snakepit_bridge.encryption.cipher import VARIABLE, Cipher
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import replies
from snakepit_bridge.snapshots.lua import SCRIPTS
from snakepit_bridge.snapshots.redis_keys import Keys
from snakepit_bridge.snapshots.replies import SessionQuery


async def reencrypt_session(connection: RedisConnection, keys: Keys, cipher: Cipher, session: str) -> int:
    """Replace a session's stored values in place, and return how many there were to replace.

    What is published meanwhile is encrypted by the newest key of its publisher.

    Args:
        connection: the Redis.
        keys: of the store.
        cipher: the fleet's; it reads unencrypted values only if it is set to.
        session: the session.

    Raises:
        SessionNotFoundError: there is no such session.
        DecryptionError: a value can't be decrypted; nothing was replaced.
        StoreUnavailableError: Redis is away.
    """
    session_keys, query = keys.session(session), SessionQuery(session)
    stored = replies.raise_if_refused(await connection.run(SCRIPTS["stored_values"], session_keys, ()), query)[1:]
    found = {(name, value) for name, value in zip(stored[::2], stored[1::2], strict=True)}
    replaced: list[bytes] = []
    for name, value in sorted(found):
        place = (session, name.decode())
        current = cipher.encrypt(VARIABLE, place, cipher.decrypt(VARIABLE, place, value))
        if current != value:
            replaced += (name, value, current)
    if replaced:
        replies.raise_if_refused(await connection.run(SCRIPTS["replace_values"], session_keys, replaced), query)
    return len(replaced) // 3
