"""Read one session from the Elixir server as a consistent snapshot, or as close to one as the server allows."""

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
    """The result of reading a session once.

    Attributes:
        began_at: when the read began, by ``boot_clock``; the values are at least this recent.
        variables: the variables by name.
        unreadable: variables that exist but can't be read: name to problem.
        ids: the server's ids of the variables.
        dropped: constraints that this library has no equivalent of, by variable.
        raw: the server's answer, if a single one held everything; equal to the last one's if nothing has changed.
    """

    began_at: float
    variables: Mapping[str, Variable] = field(repr=False)
    unreadable: Mapping[str, str]
    ids: tuple[str, ...] = field(repr=False, default=())
    dropped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    raw: bytes = field(repr=False, default=b"")


class SessionReader:
    """Reads one session repeatedly, reusing the last reading where nothing changed.

    Args:
        client: the client of the Elixir server.
        session: the session's name.
    """

    def __init__(self, client: BridgeClient, session: str) -> None:
        self._client = client
        self._session = session
        self._last: SessionReading | None = None
        self._unreadable_names: frozenset[str] = frozenset()
        self._chosen_ids: dict[tuple[str, ...], str] = {}

    async def read(self, known: Iterable[str] = ()) -> SessionReading:
        """Return the session's current content, with the last reading's ``variables`` object if nothing has changed.

        Args:
            known: names to read one by one if the server can't list the session.

        Raises:
            ElixirError: the server failed, or names registered twice changed during every attempt.
            ElixirSessionNotFoundError: the server doesn't have the session.
        """
        for _ in range(_ATTEMPTS - 1):
            reading = await self._read_once(known)
            if reading is not None:
                return reading
        raise ElixirFailedError(
            "ListVariables", self._session, "OK", "a name registered twice changed during every read"
        )

    async def _read_once(self, known: Iterable[str]) -> SessionReading | None:
        began_at, last = boot_clock(), self._last
        raw, listing = await self._read_listing(last.raw if last else b"")
        if listing is None and raw and last is not None:
            self._last = SessionReading(began_at, last.variables, last.unreadable, last.ids, last.dropped, raw)
            return self._last
        listing = await self._read_around_unreadable(known) if listing is None else listing
        chosen = await self._resolve_duplicates(listing)
        if chosen is None:
            return None
        variables = _reuse_unchanged(listing.choose_variables(chosen), last.variables if last else {})
        self._last = SessionReading(began_at, variables, listing.unreadable, listing.ids, listing.dropped, raw)
        return self._last

    async def _read_listing(self, last: bytes) -> tuple[bytes, VariableListing | None]:
        """Return the raw answer and its listing; no listing if it equals the last answer, neither if it failed."""
        try:
            raw = await self._client.list_raw(self._session)
            listing = None if raw and raw == last else VariableListing.read(raw, self._session)
        except ElixirFailedError:
            return b"", None
        self._unreadable_names = frozenset()
        return raw, listing

    async def _read_around_unreadable(self, known: Iterable[str]) -> VariableListing:
        """Read the session without the variables that break its listing."""
        listing, self._unreadable_names = await bisect_unreadable(
            self._client, self._session, known, self._unreadable_names
        )
        return listing

    async def _resolve_duplicates(self, listing: VariableListing) -> dict[str, str] | None:
        """Return the current id of each name registered twice, or None if that changed since the listing."""
        chosen: dict[str, str] = {}
        for name, remotes in listing.find_duplicates().items():
            ids = tuple(sorted(remote.id for remote in remotes))
            if ids not in self._chosen_ids:
                current = await self._current_id(name)
                if current and current not in ids and name not in listing.ids:
                    return None
                self._chosen_ids[ids] = current if current in ids else ""
            chosen[name] = self._chosen_ids[ids]
        return chosen

    async def _current_id(self, name: str) -> str:
        try:
            return (await self._client.get(self._session, name)).id
        except (VariableNotFoundError, UnreadableVariableError):
            return ""


def _reuse_unchanged(fresh: Mapping[str, Variable], held: Mapping[str, Variable]) -> dict[str, Variable]:
    """Return the variables, keeping the held object of each unchanged one: it is encoded and compares by identity."""
    return {name: held[name] if held.get(name) == variable else variable for name, variable in fresh.items()}
