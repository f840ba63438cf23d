"""Whether a user has the rights of a role: found out by asking for each of them in a transaction that never runs.

A server refuses what a user may not do as it is queued. So a process learns at its start all that it lacks, without a
right to look at the rights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError, ResponseError

from snakepit_bridge.exceptions import StoreForbiddenError, StoreUnavailableError
from snakepit_bridge.redis.acl import SETINFO, Rights, Role, rights_of
from snakepit_bridge.redis.connection import RedisConnection

# How many words may follow a command: a wrong number is refused before its right is looked at.
_WORDS = range(8)
# What would end the transaction, or can't stand in it; whoever may begin one is rarely forbidden to end it.
_NOT_ASKED = {"multi", "exec", SETINFO}
_OF_CHANNELS = {"publish", "subscribe", "unsubscribe", "psubscribe", "punsubscribe"}
_COMMAND, _NAME = "command", "name"


@dataclass
class _Lacking:
    commands: set[str] = field(default_factory=set[str])
    keys: set[str] = field(default_factory=set[str])
    channels: set[str] = field(default_factory=set[str])

    def __str__(self) -> str:
        parts = (("commands", self.commands), ("keys", self.keys), ("channels", self.channels))
        return "; ".join(f"{what} {', '.join(sorted(names))}" for what, names in parts if names)


async def check_role(role: Role, connection: RedisConnection, namespace: str, queue: str | None = None) -> None:
    """Check at a process's start that its user has the rights of its role; a server that is away is left to later.

    Raises:
        StoreForbiddenError: it lacks some; it names them all.
    """
    try:
        await check_rights(connection, rights_of(role, namespace, queue, db=connection.database))
    except StoreUnavailableError as exc:
        if isinstance(exc, StoreForbiddenError):
            raise


async def check_rights(connection: RedisConnection, rights: Rights) -> None:
    """Check that the connection's user has rights.

    Raises:
        StoreForbiddenError: it lacks some; it names them all.
        StoreUnavailableError: Redis is away.
    """
    line = await connection.open_connection()
    try:
        lacking = await connection.bounded(_lacking(line, rights))
    finally:
        await line.disconnect(nowait=True)  # which is the end of the transaction
    if found := str(lacking):
        raise StoreForbiddenError(connection.url, f"it lacks {found}", connection.user)


async def _lacking(line: AbstractConnection, rights: Rights) -> _Lacking:
    lacking = _Lacking()
    if _COMMAND in await _refusals(line, [["MULTI"]]):
        lacking.commands.add("multi")
        return lacking
    for name in rights.commands:
        word = _word(name, rights)
        ways = [] if name in _NOT_ASKED else [[*name.split("|"), *[word] * count] for count in _WORDS]
        if _COMMAND in await _refusals(line, ways):
            lacking.commands.add(name)
    for pattern in (*rights.keys, *rights.reads):
        reading, writing = ["GET", _example(pattern)], ["SET", _example(pattern), "x"]
        if _NAME in await _refusals(line, [reading] if pattern in rights.reads else [reading, writing]):
            lacking.keys.add(pattern)
    for pattern in rights.channels:
        if _NAME in await _refusals(line, [["PUBLISH", _example(pattern), "x"]]):
            lacking.channels.add(pattern)
    return lacking


def _word(command: str, rights: Rights) -> str:
    """Return a word that may follow a command, so that the command alone can be what is refused."""
    names = rights.channels if command in _OF_CHANNELS else (*rights.keys, *rights.reads)
    # To subscribe to a pattern takes a right to the very pattern.
    return "x" if not names else names[0] if command == "psubscribe" else _example(names[0])


def _example(pattern: str) -> str:
    """Return a name that a pattern matches."""
    return pattern.replace("\\", "").replace("*", "x")


async def _refusals(line: AbstractConnection, commands: Sequence[Sequence[str]]) -> set[str]:
    """Send commands, and return for want of which rights some were refused."""
    if not commands:
        return set()
    await line.send_packed_command(line.pack_commands(commands), check_health=False)
    refusals: set[str] = set()
    for _ in commands:
        try:
            await line.read_response()
        except NoPermissionError as exc:
            # Of Valkey, Redis 7.0 and newer Redis alike: "to run the 'get' command", "to access a key".
            refusals.add(_COMMAND if " to run " in str(exc) else _NAME)
        except ResponseError:
            continue  # a wrong number of words, or another node's key
    return refusals
