"""Checks that a user has the rights of a role, by queueing each command in a transaction that never runs.

A server rejects a forbidden command when it is queued. So a process learns all missing rights at its start, without
needing the right to read ACLs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

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


class _Probe(NamedTuple):
    """Calls that show whether a right is missing.

    Attributes:
        what: the field of ``_MissingRights`` that holds such rights.
        name: what is reported as missing.
        calls: the commands.
        kinds: of refusals that tell it.
    """

    what: str
    name: str
    calls: Sequence[Sequence[str]]
    kinds: frozenset[str]


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
    [refusals] = await _collect_refusals(raw, [[["MULTI"]]])
    if _COMMAND in refusals:
        missing.commands.add("multi")
        return missing
    probes = [*_probe_commands(rights), *_probe_names(rights)]
    # All at once: a round trip for each would be some hundred at each start.
    for probe, refusals in zip(probes, await _collect_refusals(raw, [probe.calls for probe in probes]), strict=True):
        if refusals & probe.kinds:
            getattr(missing, probe.what).add(probe.name)
    return missing


def _probe_commands(rights: Rights) -> Iterator[_Probe]:
    for name in rights.commands:
        argument = _choose_argument(name, rights)
        counts = () if name in _UNTESTED_COMMANDS else _ARGUMENT_COUNTS
        calls = [[*name.split("|"), *[argument] * count] for count in counts]
        yield _Probe("commands", name, calls, frozenset({_COMMAND}))


def _probe_names(rights: Rights) -> Iterator[_Probe]:
    for pattern in (*rights.keys, *rights.reads):
        reading, writing = ["GET", _matching_name(pattern)], ["SET", _matching_name(pattern), "x"]
        calls = [reading] if pattern in rights.reads else [reading, writing]
        yield _Probe("keys", pattern, calls, frozenset({_NAME}))
    for granted, pattern in rights.selectors:
        calls = [[name, _matching_name(pattern), *_SELECTED[name]] for name in granted.split()]
        yield _Probe("keys", f"{pattern} (for {granted})", calls, frozenset({_COMMAND, _NAME}))
    for pattern in rights.channels:
        yield _Probe("channels", pattern, [["PUBLISH", _matching_name(pattern), "x"]], frozenset({_NAME}))


def _choose_argument(command: str, rights: Rights) -> str:
    """Return an allowed argument for a command, so that only the command itself can be rejected."""
    names = rights.channels if command in _CHANNEL_COMMANDS else (*rights.keys, *rights.reads)
    # Subscribing to a pattern needs a right to exactly that pattern.
    return "x" if not names else names[0] if command == "psubscribe" else _matching_name(names[0])


def _matching_name(pattern: str) -> str:
    """Return a name that a pattern matches."""
    return pattern.replace("\\", "").replace("*", "x")


async def _collect_refusals(raw: AbstractConnection, groups: Sequence[Sequence[Sequence[str]]]) -> list[set[str]]:
    """Send groups of commands; return for each the kinds of rights (command, name) whose absence made some fail."""
    await raw.send_packed_command(raw.pack_commands(chain.from_iterable(groups)), check_health=False)
    return [{kind for _ in group if (kind := await _read_refusal(raw))} for group in groups]


async def _read_refusal(raw: AbstractConnection) -> str | None:
    """Return the kind of right whose absence made the next command fail, or None."""
    try:
        await raw.read_response()
    except NoPermissionError as exc:
        # The same on Valkey, Redis 7.0 and newer Redis: "to run the 'get' command", "to access a key".
        return _COMMAND if " to run " in str(exc) else _NAME
    except ResponseError:
        pass  # a wrong number of arguments, or another node's key
    return None
