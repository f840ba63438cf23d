"""The Variables service: what a client reads and publishes, wherever the session's authority is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.demand import WantedSessions
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import RevisionNotReachedError, SessionNotFoundError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import Changes, SnapshotStore
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable
from workers.gateway.access.authentication import Grant, GrantScope
from workers.gateway.api import converters as values
from workers.gateway.api.idempotent_publish import IdempotentPublisher, PublishCommand
from workers.gateway.api.session_feed import SessionFeed
from workers.gateway.call import ClientCall, seconds
from workers.gateway.errors import MalformedError, NotGrantedError, TooLargeError

_HISTORY, _HISTORY_MOST = 20, 1_000
_CONTROL = "dspex."


class Variables:
    """The operations on session variables.

    Args:
        fleet: the fleet.
        hub: the sessions that are followed.
        changes: how many variables a publish may change.
    """

    def __init__(self, fleet: Fleet, hub: SessionFeed, changes: int) -> None:
        self._changes = changes
        self._store: SnapshotStore = fleet.store
        self._hub = hub
        self._committing = IdempotentPublisher(fleet)
        self._wanted = WantedSessions(fleet.connection, namespace=fleet.namespace) if fleet.elixir else None

    async def publish(self, request: pb.PublishRequest, call: ClientCall) -> pb.PublishResponse:
        """Commits all changes as one revision, or none."""
        if not request.changes and not request.replace:
            raise MalformedError("changes", "there are none")
        if len(request.changes) > self._changes:
            raise TooLargeError("list of changes", self._changes)

        def proposal(now: Mapping[str, Variable]) -> Changes:
            asked = values.changes(request.changes, now)
            return _whole(now, asked, call.grant) if request.replace else asked

        _check_control(request.session, [one.name for one in request.changes], call.grant)
        names = None if request.replace else frozenset(one.name for one in request.changes)
        return await self._commit(request, names, proposal, request.reason, call)

    async def rollback(self, request: pb.RollbackRequest, call: ClientCall) -> pb.PublishResponse:
        """Commits the state at a past revision as a new one."""
        if not request.to:
            raise MalformedError("to", "it names no revision: a token, a label or latest")
        values.token(request.expected, "expected")  # before anything is looked for
        past = (await self._store.read_at(request.session, request.to)).variables

        _check_control(request.session, (), call.grant)

        def proposal(now: Mapping[str, Variable]) -> Changes:
            return _whole(now, past, call.grant)

        return await self._commit(request, None, proposal, request.reason or f"rollback to {request.to}", call)

    async def get(self, request: pb.GetVariablesRequest, call: ClientCall) -> pb.Snapshot:
        """Returns the current snapshot, the first at or past ``at_least``, or exactly the one at ``exactly``."""
        await self._want(request.session)
        exactly, at_least = values.token(request.exactly, "exactly"), values.token(request.at_least, "at_least")
        wait_s = min(seconds(request.wait_s, "wait_s"), call.remaining_s)
        if exactly is not None:
            found = await self._store.read_at(request.session, exactly)
        elif at_least is not None:
            found = await self._reaching(request.session, at_least, wait_s)
        else:
            found = await self._store.read(request.session)
        return values.snapshot(found, request.names, await self._now(request.session))

    async def watch(self, request: pb.WatchRequest, call: ClientCall) -> AsyncGenerator[pb.Snapshot]:
        """Yields the current snapshot, then each newer one."""
        after = values.token(request.after, "after")
        await self._want(request.session)
        async with aclosing(self._hub.follow(request.session)) as snapshots:
            async for found in snapshots:
                if after is None or not found.meets(after) or found.token > after:
                    yield _some(found, request, await self._now(request.session))

    async def history(self, request: pb.HistoryRequest, call: ClientCall) -> pb.HistoryResponse:
        """Returns the latest changes, newest first."""
        limit = min(request.limit or _HISTORY, _HISTORY_MOST)
        changes = await self._store.history(request.session, limit)
        return pb.HistoryResponse(revisions=map(values.revision, changes))

    async def _commit(
        self,
        request: pb.PublishRequest | pb.RollbackRequest,
        names: frozenset[str] | None,
        proposal: values.Proposal,
        reason: str,
        call: ClientCall,
    ) -> pb.PublishResponse:
        expected, author = values.token(request.expected, "expected"), call.grant.author(request.author)
        commit = PublishCommand(request.session, names, proposal, expected, author, reason)
        content = request.SerializeToString(deterministic=True)
        token = await self._committing.once(call.grant.name, request.request_id, content, commit)
        return pb.PublishResponse(token=str(token))

    async def _reaching(self, session: str, token: Token, wait_s: float) -> Snapshot:
        found: Snapshot | None = None
        try:
            found = await self._store.read(session)
        except SessionNotFoundError:
            if not wait_s:
                raise
        if found is not None and found.meets(token):
            return found
        try:
            async with asyncio.timeout(wait_s), aclosing(self._hub.follow(session)) as snapshots:
                async for found in snapshots:
                    if found.meets(token):
                        return found
        except TimeoutError:
            pass
        at = "nothing yet" if found is None else str(found.token)
        raise RevisionNotReachedError(session, str(token), at, wait_s)

    async def _want(self, session: str) -> None:
        """Somebody reads the session, so a refresher should follow it if Elixir has it."""
        if self._wanted is not None:
            await self._wanted.want([session])

    async def _now(self, session: str) -> float:
        """The store's clock: staleness isn't to be measured by another."""
        heads = await self._store.heads([session])
        return heads[session].now if session in heads else 0.0


def _check_control(session: str, names: Iterable[str], grant: Grant) -> None:
    """Return if a grant may change these variables: what steers the fleet itself needs a scope of its own.

    Raises:
        NotGrantedError: it may not.
    """
    if GrantScope.CONTROL not in grant.scopes and any(_is_control(name) for name in (session, *names)):
        raise NotGrantedError(grant.name, GrantScope.CONTROL, session)


def _whole(now: Mapping[str, Variable], wanted: Changes, grant: Grant) -> Changes:
    """Return the changes that make the state the wanted one, but for what the grant may not change."""
    changes = {**dict.fromkeys(now.keys() - wanted.keys()), **wanted}
    if GrantScope.CONTROL in grant.scopes:
        return changes
    return {name: variable for name, variable in changes.items() if not _is_control(name)}


def _is_control(name: str) -> bool:
    return name.startswith(_CONTROL)


def _some(found: Snapshot, request: pb.WatchRequest, now: float) -> pb.Snapshot:
    """A watched variable may come and go."""
    names = [name for name in request.names if name in found.variables]
    message = values.snapshot(found, names, now)
    if request.names and not names:
        del message.variables[:]
    return message
