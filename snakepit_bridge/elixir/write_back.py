"""Write-back: send changes of a session to the Elixir server that owns it, and wait for the revision that has them.

Elixir stays the source of truth. The store is not written here: a refresher finds the change in Elixir like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from snakepit_bridge.audit.entries import AuditEntry
from snakepit_bridge.audit.protections import ProtectionKind, find_protection
from snakepit_bridge.elixir.client import BridgeClient
from snakepit_bridge.elixir.codec import RemoteVariable
from snakepit_bridge.elixir.demand import SessionDemand
from snakepit_bridge.elixir.listing import VariableListing, registration_number
from snakepit_bridge.elixir.write_transaction import WriteTransaction, registers_variable
from snakepit_bridge.exceptions import (
    SessionError,
    SessionOwnedElsewhereError,
    SessionProtectedError,
    StoreUnavailableError,
    ValidationError,
)
from snakepit_bridge.process.aio import BackgroundTasks
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.lease import Leases
from snakepit_bridge.snapshots import STORE, Changes, SnapshotStore
from snakepit_bridge.snapshots.records import Head, check_changes
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable

Proposal = Callable[[Mapping[str, Variable]], Changes]
"""Computes the changes from the present variables."""

_FIRST_POLL_S, _MAX_POLL_S = 0.01, 0.1


@dataclass(eq=False, repr=False)
class WriteNotShownError(SessionError, TimeoutError):
    """A change that Elixir has, but that no refresher has published in time. It will appear later."""

    session: str
    waited_s: float
    problem: str

    def __str__(self) -> str:
        problem = self.problem.rstrip(".")
        return (
            f"Elixir has the change of session '{self.session}', but no token showed it within {self.waited_s:g} s: "
            f"{problem}. Look whether a refresher runs: dspex-fleet status."
        )


@dataclass(frozen=True, slots=True)
class _WriteRequest:
    session: str
    names: Iterable[str] | None
    proposal: Proposal
    metadata: Mapping[str, str]
    written: dict[str, Variable | None]


class ElixirAuthority:
    """The Elixir server as the authority of its sessions, for callers that change them.

    It is used on one event loop at a time; our own code uses the process's home loop.

    Args:
        address: ``HOST:PORT`` of its bridge.
        store: where its refreshers publish.
        demand: records that a session is in use, so that a refresher follows it.
        leases: distributed locks under which processes register variables, since Elixir creates a second variable for
            an existing name. Without them, a name registered twice at once is merged into one variable a little later.
        namespace: prefix of the locks' keys.
        name: under which its refreshers publish.
        wait_s: seconds that a change may take to appear in the store.
        timeout_s: seconds within which each call to Elixir ends.
        credentials: for a server behind TLS.
    """

    def __init__(
        self,
        address: str,
        store: SnapshotStore,
        *,
        demand: SessionDemand | None = None,
        leases: Leases | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        name: str = "elixir",
        wait_s: float = 10.0,
        timeout_s: float = 5.0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.address = address
        self.name = name
        self._store = store
        self._demand = demand
        self._leases = leases
        self._keys = FleetKeys(namespace)
        self._wait_s = wait_s
        self._options: dict[str, Any] = {"timeout_s": timeout_s, "credentials": credentials}
        self._clients: dict[asyncio.AbstractEventLoop, BridgeClient] = {}
        self._write_locks: dict[str, asyncio.Lock] = {}
        self._pending_writes = BackgroundTasks()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    async def owns(self, session: str) -> bool:
        """Check whether Elixir owns the session: it publishes it, or has it while no other server publishes it.

        Raises:
            SessionOwnedElsewhereError: another Elixir server publishes it.
            ElixirUnavailableError: nobody has published it, and Elixir can't be asked whether it is Elixir's.
            StoreUnavailableError
        """
        head = await self._read_head(session)
        if head is None:
            return await self._client.heartbeat(session)
        if head.authority not in (STORE, self.name):
            raise SessionOwnedElsewhereError(session, head.authority, self.name)
        return head.authority == self.name

    async def change(
        self, session: str, names: Iterable[str] | None, proposal: Proposal, *, author: str = "", reason: str = ""
    ) -> Token:
        """Change variables in Elixir and returns the token of the first look at it that began afterwards.

        Args:
            session: one that Elixir owns.
            names: the variables that the proposal needs; all of them if None.
            proposal: computes the changes from Elixir's present variables, not from the store's, which may be older.
            author, reason: stored by Elixir in the metadata of single changes.

        Raises:
            ValidationError: a value violates its type or a constraint, here or in Elixir; nothing was changed.
            SessionProtectedError: a rule protects the session; nothing was changed.
            ElixirUnavailableError: Elixir can't be reached; nothing was changed.
            HalfWrittenError: the connection was lost during several changes, which could not be undone.
            WriteNotShownError: Elixir has the changes, but no refresher published them in time.
            ElixirError, SessionNotFoundError, StoreUnavailableError
        """
        await self._check_rules(session, author, reason)
        before = await self._read_head(session)
        if self._demand is not None:
            await self._demand.touch([session])
        metadata = {key: text for key, text in (("author", author), ("reason", reason)) if text}
        writing = self._pending_writes.spawn(
            self._write(_WriteRequest(session, names, proposal, metadata, written := {}))
        )
        # A cancelled caller must not leave half of the changes behind.
        await asyncio.shield(writing)
        return await self._wait_until_shown(session, written, before.token if before else None)

    async def rollback(self, session: str, to: Token | str, *, author: str = "", reason: str = "") -> Token:
        """Make Elixir hold the variables of an earlier revision, and return the token that shows them.

        Raises:
            RevisionLostError: the store no longer has that revision.
            BridgeError: the errors of ``change``.
        """
        past = await self._store.read_at(session, to)

        def back(now: Mapping[str, Variable]) -> Changes:
            return {**dict.fromkeys(now.keys() - past.variables.keys()), **past.variables}

        return await self.change(session, None, back, author=author, reason=reason or f"rollback to {to}")

    async def aclose(self) -> None:
        """Wait for pending writes on the running event loop and close the connections."""
        await self._pending_writes.wait()
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    @property
    def _client(self) -> BridgeClient:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = BridgeClient(self.address, **self._options)
        return self._clients[loop]

    async def _read_head(self, session: str) -> Head | None:
        return (await self._store.heads([session])).get(session)

    async def _check_rules(self, session: str, author: str, reason: str) -> None:
        """Refuse a change of what a rule protects: Elixir can't be asked to make it only if nothing else has changed.

        Raises:
            SessionProtectedError: a rule names the session.
        """
        control = self._store.change_control
        rule = find_protection(await control.protections.list(), ProtectionKind.SESSION, session)
        if rule is None:
            return
        wanted = AuditEntry("publish", f"session:{session}", author, reason=reason)
        await control.trail.record(wanted.refuse(SessionProtectedError.__name__))
        raise SessionProtectedError(session, str(rule), self.name)

    async def _write(self, request: _WriteRequest) -> None:
        """Write under a lock per session: concurrent writers would both register a name that neither found."""
        lock = self._write_locks.setdefault(request.session, asyncio.Lock())
        try:
            async with lock:
                if await self._try_write(request, alone=self._leases is None) or self._leases is None:
                    return
                async with self._leases.acquire(self._keys.session_writing(request.session)):
                    await self._try_write(request, alone=True)
        finally:
            if not lock.locked():
                self._write_locks.pop(request.session, None)

    async def _try_write(self, request: _WriteRequest, *, alone: bool) -> bool:
        """Write the request; return False if it registers a variable while other processes might, too."""
        found, ids = await self._find_remotes(request.session, request.names, thorough=alone)
        # The changes are checked against the constraints before anything is sent: a malformed one could take Elixir's
        # sessions down.
        changes = check_changes(request.proposal({name: remote.variable for name, remote in found.items()}))
        if registers_variable(changes, found) and not alone:
            return False
        await WriteTransaction(self._client, request.session, found, request.metadata, ids).write(changes)
        request.written.update(changes)
        return True

    async def _find_remotes(
        self, session: str, names: Iterable[str] | None, *, thorough: bool
    ) -> tuple[dict[str, RemoteVariable], dict[str, str]]:
        """Return variables by name, and the ids of those that Elixir can't find by name; see ``WriteTransaction``."""
        listing = VariableListing() if names is not None else await self._read_listing(session)
        wanted = {*(listing.remotes if names is None else names)}
        found = await self._client.get_many(session, wanted)
        for name, remote in found.items():
            if remote.variable.name != name:
                rule = f"Elixir takes the name for the id of variable '{remote.variable.name}'"
                raise ValidationError(name, "changed", rule)
        if names is not None and thorough and wanted - found.keys():
            listing = await self._read_listing(session)
        nameless = {
            name: max(listing.remotes[name], key=lambda remote: registration_number(remote.id))
            for name in (wanted - found.keys()) & listing.remotes.keys()
        }
        return {**found, **nameless}, {name: remote.id for name, remote in nameless.items()}

    async def _read_listing(self, session: str) -> VariableListing:
        return VariableListing.read(await self._client.list_raw(session), session)

    async def _wait_until_shown(self, session: str, written: Changes, before: Token | None) -> Token:
        since: float | None = None
        pause = _FIRST_POLL_S
        try:
            async with asyncio.timeout(self._wait_s):
                while True:
                    head = await self._read_head(session)
                    # The store's clock after the write: a poll that started later has seen the write.
                    since = head.now if head is not None and since is None else since
                    if head is not None and since is not None and head.confirmed_at >= since:
                        return head.token
                    if head is not None and head.token != before:
                        snapshot = await self._store.read(session)
                        if _includes(snapshot, written):
                            return snapshot.token  # perhaps a later one than the head's, which needn't include them
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, _MAX_POLL_S)
        except TimeoutError:
            problem = "nobody follows the session" if since is None else "it was not looked at since, or only in part"
            raise WriteNotShownError(session, self._wait_s, problem) from None
        except StoreUnavailableError as exc:
            raise WriteNotShownError(session, self._wait_s, str(exc)) from exc


def _includes(snapshot: Snapshot, written: Changes) -> bool:
    """Check whether a snapshot includes changes: one with an unreadable variable is never fully confirmed."""
    return all(snapshot.variables.get(name) == variable for name, variable in written.items())
