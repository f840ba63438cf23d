"""Checks that a user has the rights of a role, by queueing each command in a transaction that never runs.

A server rejects a forbidden command when it is queued. So a process learns all missing rights at its start, without
needing the right to read ACLs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError, ResponseError

from snakepit_bridge.exceptions import StoreForbiddenError, StoreUnavailableError
from snakepit_bridge.redis.acl import SETINFO, Rights, Role, rights_of
from snakepit_bridge.redis.connection import RedisConnection

# Argument counts to try: a wrong number of arguments is rejected before the right is checked.
_ARGUMENT_COUNTS = range(8)
# Commands that end the transaction or can't be queued; a user that may begin one can nearly always end it.
_UNTESTED_COMMANDS = {"multi", "exec", SETINFO}
_CHANNEL_COMMANDS = {"publish", "subscribe", "unsubscribe", "psubscribe", "punsubscribe"}
# The arguments of commands that are granted on some keys alone.
_SELECTED = {"setnx": ["1"], "xadd": ["*", "name", "value"], "xtrim": ["MAXLEN", "~", "1"]}
_COMMAND, _NAME = "command", "name"


@dataclass
class _MissingRights:
    commands: set[str] = field(default_factory=set[str])
    keys: set[str] = field(default_factory=set[str])
    channels: set[str] = field(default_factory=set[str])

    def __str__(self) -> str:
        parts = (("commands", self.commands), ("keys", self.keys), ("channels", self.channels))
        return "; ".join(f"{what} {', '.join(sorted(names))}" for what, names in parts if names)


async def check_role(role: Role, connection: RedisConnection, namespace: str, queue: str | None = None) -> None:
    """Check at a process's start that its user has the rights of its role; ignore an unreachable server.

    Raises:
        StoreForbiddenError: rights are missing; the error lists them all.
    """
    try:
        await check_rights(connection, rights_of(role, namespace, queue, db=connection.database))
    except StoreUnavailableError as exc:
        if isinstance(exc, StoreForbiddenError):
            raise


async def check_rights(connection: RedisConnection, rights: Rights) -> None:
    """Check that the connection's user has these rights.

    Raises:
        StoreForbiddenError: rights are missing; the error lists them all.
        StoreUnavailableError: Redis is unreachable.
    """
    raw = await connection.open_connection()
    try:
        missing = await connection.wait_bounded(_find_missing(raw, rights))
    finally:
        await raw.disconnect(nowait=True)  # discards the transaction
    if names := str(missing):
        raise StoreForbiddenError(connection.url, f"it lacks {names}", connection.user)


async def _find_missing(raw: AbstractConnection, rights: Rights) -> _MissingRights:
    missing = _MissingRights()
    if _COMMAND in await _collect_refusals(raw, [["MULTI"]]):
        missing.commands.add("multi")
        return missing
    for name in rights.commands:
        argument = _choose_argument(name, rights)
        counts = () if name in _UNTESTED_COMMANDS else _ARGUMENT_COUNTS
        if _COMMAND in await _collect_refusals(raw, [[*name.split("|"), *[argument] * count] for count in counts]):
            missing.commands.add(name)
    for pattern in (*rights.keys, *rights.reads):
        reading, writing = ["GET", _matching_name(pattern)], ["SET", _matching_name(pattern), "x"]
        if _NAME in await _collect_refusals(raw, [reading] if pattern in rights.reads else [reading, writing]):
            missing.keys.add(pattern)
    for granted, pattern in rights.selectors:
        calls = [[name, _matching_name(pattern), *_SELECTED[name]] for name in granted.split()]
        if await _collect_refusals(raw, calls):
            missing.keys.add(f"{pattern} (for {granted})")
    for pattern in rights.channels:
        if _NAME in await _collect_refusals(raw, [["PUBLISH", _matching_name(pattern), "x"]]):
            missing.channels.add(pattern)
    return missing


def _choose_argument(command: str, rights: Rights) -> str:
    """Return an allowed argument for a command, so that only the command itself can be rejected."""
    names = rights.channels if command in _CHANNEL_COMMANDS else (*rights.keys, *rights.reads)
    # Subscribing to a pattern needs a right to exactly that pattern.
    return "x" if not names else names[0] if command == "psubscribe" else _matching_name(names[0])


def _matching_name(pattern: str) -> str:
    """Return a name that a pattern matches."""
    return pattern.replace("\\", "").replace("*", "x")


async def _collect_refusals(raw: AbstractConnection, commands: Sequence[Sequence[str]]) -> set[str]:
    """Send commands, and return the kinds of rights (command, name) whose absence made some fail."""
    if not commands:
        return set()
    await raw.send_packed_command(raw.pack_commands(commands), check_health=False)
    refusals: set[str] = set()
    for _ in commands:
        try:
            await raw.read_response()
        except NoPermissionError as exc:
            # The same on Valkey, Redis 7.0 and newer Redis: "to run the 'get' command", "to access a key".
            refusals.add(_COMMAND if " to run " in str(exc) else _NAME)
        except ResponseError:
            continue  # a wrong number of arguments, or another node's key
    return refusals
