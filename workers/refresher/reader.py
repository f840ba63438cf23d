"""Looking at one session on the Elixir server: all its variables at one moment, or as near to that as it lets us."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from snakepit_bridge.elixir.client import BridgeClient
from snakepit_bridge.elixir.errors import ElixirFailedError, UnreadableVariableError
from snakepit_bridge.elixir.listing import VariableListing
from snakepit_bridge.exceptions import VariableNotFoundError
from snakepit_bridge.variables import Variable
from workers.refresher.schedule import boot_clock
from workers.refresher.unreadable import bisect_unreadable

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class SessionReading:
    """One look at a session.

    Attributes:
        began: when it began, by ``pace.clock``: it shows nothing older.
        variables: what it found, by name.
        unreadable: variables that are there and can't be read, by name, with the problem.
        ids: the ids of what was found.
        dropped: constraints that have no meaning here, by variable.
        raw: what the server sent, where one answer was all of it; equal to the last look's, nothing has changed.
    """

    began_at: float
    variables: Mapping[str, Variable] = field(repr=False)
    unreadable: Mapping[str, str]
    ids: tuple[str, ...] = field(repr=False, default=())
    dropped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    raw: bytes = field(repr=False, default=b"")


class SessionReader:
    """Looks at one session, again and again.

    Args:
        client: the way to the server.
        session: the session.
    """

    def __init__(self, client: BridgeClient, session: str) -> None:
        self._client = client
        self._session = session
        self._last: SessionReading | None = None
        self._unreadable_names: frozenset[str] = frozenset()
        self._chosen_ids: dict[tuple[str, ...], str] = {}

    async def read(self, known: Iterable[str] = ()) -> SessionReading:
        """Returns what the session holds now; the last look's very ``variables`` if nothing has changed.

        Args:
            known: names to ask for where the server can't list them.

        Raises:
            ElixirError, ElixirSessionNotFoundError
        """
        for _ in range(_ATTEMPTS - 1):
            seen = await self._read_once(known)
            if seen is not None:
                return seen
        raise ElixirFailedError("ListVariables", self._session, "OK", "a name registered twice changed at every look")

    async def _read_once(self, known: Iterable[str]) -> SessionReading | None:
        began, last = boot_clock(), self._last
        raw, listing = await self._read_listing(last.raw if last else b"")
        if listing is None and raw and last is not None:
            self._last = SessionReading(began, last.variables, last.unreadable, last.ids, last.dropped, raw)
            return self._last
        listing = await self._read_around_unreadable(known) if listing is None else listing
        meant = await self._resolve_duplicates(listing)
        if meant is None:
            return None
        variables = _reuse_unchanged(listing.variables(meant), last.variables if last else {})
        self._last = SessionReading(began, variables, listing.unreadable, listing.ids, listing.dropped, raw)
        return self._last

    async def _read_listing(self, last: bytes) -> tuple[bytes, VariableListing | None]:
        """Returns one answer and its listing; no listing if it is the last answer again, and no answer if it failed."""
        try:
            raw = await self._client.list_raw(self._session)
            listing = None if raw and raw == last else VariableListing.read(raw, self._session)
        except ElixirFailedError:
            return b"", None
        self._unreadable_names = frozenset()
        return raw, listing

    async def _read_around_unreadable(self, known: Iterable[str]) -> VariableListing:
        """One variable that can't be encoded breaks the whole list, so the others are read without it."""
        listing, self._unreadable_names = await bisect_unreadable(
            self._client, self._session, known, self._unreadable_names
        )
        return listing

    async def _resolve_duplicates(self, listing: VariableListing) -> dict[str, str] | None:
        """Returns the id that each name registered twice stands for; None if that changed since the listing."""
        meant: dict[str, str] = {}
        for name, remotes in listing.duplicates().items():
            ids = tuple(sorted(remote.id for remote in remotes))
            if ids not in self._chosen_ids:
                found = await self._current_id(name)
                if found and found not in ids and name not in listing.ids:
                    return None
                self._chosen_ids[ids] = found if found in ids else ""
            meant[name] = self._chosen_ids[ids]
        return meant

    async def _current_id(self, name: str) -> str:
        try:
            return (await self._client.get(self._session, name)).id
        except (VariableNotFoundError, UnreadableVariableError):
            return ""


def _reuse_unchanged(fresh: Mapping[str, Variable], held: Mapping[str, Variable]) -> dict[str, Variable]:
    """What did not change stays the same object: its encoding is known, and comparing it costs nothing."""
    return {name: held[name] if held.get(name) == variable else variable for name, variable in fresh.items()}
