"""Read a session in spite of variables that break every listing that includes them.

If the server filters before it encodes, a pattern excludes the bad variables, and the rest is read in one consistent
listing; the bad names are found by bisection. Otherwise the known variables are read one by one until two consecutive
rounds agree.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

from snakepit_bridge.elixir.client import BridgeClient
from snakepit_bridge.elixir.codec import RemoteVariable
from snakepit_bridge.elixir.errors import ElixirFailedError, UnreadableVariableError
from snakepit_bridge.elixir.listing import VariableListing
from snakepit_bridge.exceptions import VariableNotFoundError

UNKNOWN_NAME = "(a variable that was never read)"
_PROBLEM = "Elixir can't encode it, or its text isn't UTF-8; see Elixir's log"

# Enough to find a name of fifty characters; beyond that the search costs the server more than it is worth.
_MAX_CALLS = 2_000
_MAX_ROUNDS = 5
_MATCH_NOTHING = r"(?!)"
_NON_ASCII = r"[^\x00-\x7f]"


async def bisect_unreadable(
    client: BridgeClient, session: str, known: Iterable[str], bad: frozenset[str]
) -> tuple[VariableListing, frozenset[str]]:
    """Return a listing in which the variables that break it are marked unreadable, and the names of those.

    Args:
        client: the client of the Elixir server.
        session: the session's name.
        known: names that were read before.
        bad: the names that the last call returned.

    Raises:
        ElixirFailedError: nothing can be read, or the variables kept changing.
        ElixirUnavailableError: the server can't be reached.
        ElixirSessionNotFoundError: the server doesn't have the session.
    """
    search = _Search(client, session)
    if not await search.is_readable(_MATCH_NOTHING):
        return await _read_individually(client, session, list(known))
    if not bad or not await search.is_readable(_pattern_excluding(bad)):
        bad = frozenset(await search.find_unreadable("^", ""))
    listing = VariableListing.read(await client.list_raw(session, _pattern_excluding(bad)), session)
    return VariableListing(listing.remotes, {**listing.unreadable, **dict.fromkeys(bad, _PROBLEM)}), bad


class _Search:
    def __init__(self, client: BridgeClient, session: str) -> None:
        self._client, self._session = client, session
        self._calls = 0

    async def is_readable(self, pattern: str) -> bool:
        self._calls += 1
        try:
            VariableListing.read(await self._client.list_raw(self._session, pattern), self._session)
        except ElixirFailedError:
            if self._calls > _MAX_CALLS:
                raise
            return False
        return True

    async def find_unreadable(self, pattern: str, prefix: str) -> list[str]:
        """Return the unreadable names that begin with a prefix, which the pattern matches."""
        names = [] if await self.is_readable(rf"{pattern}\Z") else [prefix]
        for letter in await self._find_letters(pattern, 0, 0x80):
            names += await self.find_unreadable(pattern + _escape_letter(letter), prefix + letter)
        # The server's patterns match bytes, not characters: names beyond ASCII are excluded by their ASCII prefix.
        return names if await self.is_readable(pattern + _NON_ASCII) else [*names, f"{prefix}…"]

    async def _find_letters(self, pattern: str, low: int, high: int) -> list[str]:
        """Return the characters in a range that continue the pattern in an unreadable name."""
        if await self.is_readable(rf"{pattern}[\x{low:02x}-\x{high - 1:02x}]"):
            return []
        if high - low == 1:
            return [chr(low)]
        middle = (low + high) // 2
        return [*await self._find_letters(pattern, low, middle), *await self._find_letters(pattern, middle, high)]


def _pattern_excluding(bad: frozenset[str]) -> str:
    """Return a pattern that excludes these names; one that ends in … stands for all non-ASCII continuations."""
    names = (_escape(name[:-1]) + _NON_ASCII if name.endswith("…") else rf"{_escape(name)}\Z" for name in sorted(bad))
    return f"^(?!{'|'.join(names)})" if bad else ""


def _escape(text: str) -> str:
    return "".join(map(_escape_letter, text))


def _escape_letter(letter: str) -> str:
    # The server turns every star into .*, escaped or not, so a star is written as its code point.
    return r"\x2a" if letter == "*" else re.escape(letter)


async def _read_individually(
    client: BridgeClient, session: str, known: list[str]
) -> tuple[VariableListing, frozenset[str]]:
    before = await _read_variables(client, session, known)
    for _ in range(_MAX_ROUNDS):
        after = await _read_variables(client, session, known)
        if _fingerprints(before) == _fingerprints(after):
            return _build_listing(after, await client.count_variables(session)), frozenset()
        before = after
    raise ElixirFailedError("GetVariable", session, "OK", "the variables kept changing while they were read one by one")


async def _read_variables(
    client: BridgeClient, session: str, known: list[str]
) -> dict[str, RemoteVariable | str | None]:
    return dict(
        zip(known, await asyncio.gather(*(_read_variable(client, session, name) for name in known)), strict=True)
    )


async def _read_variable(client: BridgeClient, session: str, name: str) -> RemoteVariable | str | None:
    try:
        return await client.get(session, name)
    except VariableNotFoundError:
        return None
    except ElixirFailedError:
        return _PROBLEM
    except UnreadableVariableError as exc:
        return exc.problem


def _fingerprints(collected: dict[str, RemoteVariable | str | None]) -> dict[str, object]:
    return {
        name: (value.id, value.version, value.variable) if isinstance(value, RemoteVariable) else value
        for name, value in collected.items()
    }


def _build_listing(collected: dict[str, RemoteVariable | str | None], count: int) -> VariableListing:
    remotes = {name: (value,) for name, value in collected.items() if isinstance(value, RemoteVariable)}
    unreadable = {name: problem for name, problem in collected.items() if isinstance(problem, str)}
    if count > len(remotes) + len(unreadable):
        unreadable[UNKNOWN_NAME] = _PROBLEM
    return VariableListing(remotes, unreadable)
