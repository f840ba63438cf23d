"""The Variables service: read and publish variables, whether the store or Elixir is the session's authority."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

from snakepit_bridge.audit.protections import ProtectionKind, find_protection
from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.demand import SessionDemand
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import RevisionNotReachedError, RolloutMovedError, SessionNotFoundError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.releases import steps
from snakepit_bridge.snapshots import STORE, Changes, Head, SnapshotStore
from snakepit_bridge.snapshots.records import LATEST
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable
from workers.gateway.access.authentication import Grant, GrantScope
from workers.gateway.api import converters
from workers.gateway.api.control import check_control, is_control
from workers.gateway.api.idempotent_publish import IdempotentPublisher, PublishCommand
from workers.gateway.call import ClientCall, require_seconds
from workers.gateway.errors import MalformedError, NotGrantedError, TooLargeError

_DEFAULT_HISTORY, _MAX_HISTORY = 20, 1_000


class Variables:
    """The operations on session variables.

    Args:
        fleet: the fleet.
        replica: delivers new snapshots to streams.
        max_changes: maximum number of variables in a publish.
    """

    def __init__(self, fleet: Fleet, replica: Replica, max_changes: int) -> None:
        self._max_changes = max_changes
        self._store: SnapshotStore = fleet.store
        self._replica = replica
        self._publisher = IdempotentPublisher(fleet)
        self._demand = SessionDemand(fleet.connection, namespace=fleet.namespace) if fleet.elixir else None

    async def publish(self, request: pb.PublishRequest, call: ClientCall) -> pb.PublishResponse:
        """Commit all changes as one revision, or none."""
        if not request.changes and not request.replace:
            raise MalformedError("changes", "there are none")
        if len(request.changes) > self._max_changes:
            raise TooLargeError("list of changes", self._max_changes)

        def build_changes(now: Mapping[str, Variable]) -> Changes:
            changes = converters.parse_changes(request.changes, now)
            return _replace_all(now, changes, call.grant) if request.replace else changes

        check_control(request.session, [change.name for change in request.changes], call.grant)
        names = None if request.replace else frozenset(change.name for change in request.changes)
        return await self._commit(request, names, build_changes, request.reason, call)

    async def rollback(self, request: pb.RollbackRequest, call: ClientCall) -> pb.PublishResponse:
        """Commit the state at a past revision as a new one."""
        if not request.to:
            raise MalformedError("to", "it names no revision: a token, a label or latest")
        converters.parse_token(request.expected, "expected")  # check it before reading the store
        past = (await self._store.read_at(request.session, request.to)).variables

        check_control(request.session, (), call.grant)

        def build_changes(now: Mapping[str, Variable]) -> Changes:
            return _replace_all(now, past, call.grant)

        reason = request.reason or f"rollback to {request.to}"
        before = await self._store.head(request.session)
        await self._check_candidate(request, before, call)
        if await self._is_protected(request.session, before):
            return await self._roll_back_protected(request, past, call, reason)
        answer = await self._commit(request, None, build_changes, reason, call)
        if answer.token != str(before.token):
            await self._promote(request.session, answer.token, call.grant.format_author(request.author), reason)
        return answer

    async def _is_protected(self, session: str, head: Head) -> bool:
        rules = await self._store.change_control.protections.list()
        return head.authority == STORE and find_protection(rules, ProtectionKind.SESSION, session) is not None

    async def _roll_back_protected(
        self, request: pb.RollbackRequest, past: Mapping[str, Variable], call: ClientCall, reason: str
    ) -> pb.PublishResponse:
        """Request a rollback as what it is: as a publish it would be tried by stages once it is approved.

        Raises:
            NotGrantedError: it would change what steers the fleet, which the grant may not.
            ApprovalRequiredError: as long as the rule is there.
        """
        now = (await self._store.read(request.session)).variables
        changed = [name for name in {*now, *past} if now.get(name) != past.get(name)]
        check_control(request.session, changed, call.grant)
        token = await self._store.rollback(
            request.session,
            request.to,
            expected=converters.parse_token(request.expected, "expected"),
            author=call.grant.format_author(request.author),
            reason=reason,
        )
        return pb.PublishResponse(token=str(token))

    async def _check_candidate(self, request: pb.RollbackRequest, head: Head, call: ClientCall) -> None:
        """Refuse a rollback to what a rollout tries, or has taken back, unless the grant may decide on rollouts.

        Raises:
            NotGrantedError: it may not.
        """
        record = head.rollout
        if record is None or not record.is_staged or call.grant.allows(GrantScope.RELEASE):
            return
        if str(await self._store.resolve(request.session, request.to)) == record.candidate:
            raise NotGrantedError(call.grant.name, GrantScope.RELEASE, request.session)

    async def _promote(self, session: str, token: str, author: str, reason: str) -> None:
        """Give a revision to everybody if a rollout has begun to stage it: what is taken back is not tried first."""
        while True:
            head = await self._store.head(session)
            record = head.rollout
            if record is None or record.candidate != token or not record.is_open:
                return
            event = steps.promote(record, head.now, author=author, reason=reason)
            with suppress(RolloutMovedError):
                await self._store.step_rollout(session, record, event)

    async def get(self, request: pb.GetVariablesRequest, call: ClientCall) -> pb.Snapshot:
        """Return the current snapshot, the first at or past ``at_least``, or exactly the one at ``exactly``."""
        await self._record_demand(request.session)
        exactly, at_least = (
            converters.parse_token(request.exactly, "exactly"),
            converters.parse_token(request.at_least, "at_least"),
        )
        wait_s = min(require_seconds(request.wait_s, "wait_s"), call.remaining_s)
        if exactly is not None:
            snapshot = await self._store.read_at(request.session, exactly)
        elif at_least is not None:
            snapshot = await self._wait_for_token(request.session, at_least, wait_s)
        else:
            snapshot = await self._store.read(request.session)
        return converters.snapshot_message(snapshot, request.names, await self._store_time(request.session))

    async def watch(self, request: pb.WatchRequest, call: ClientCall) -> AsyncGenerator[pb.Snapshot]:
        """Yield the current snapshot, then each newer one."""
        after = converters.parse_token(request.after, "after")
        await self._record_demand(request.session)
        async with aclosing(self._replica.changes(request.session)) as snapshots:
            async for snapshot in snapshots:
                if after is None or not snapshot.satisfies(after) or snapshot.token > after:
                    yield _select_names(snapshot, request, await self._store_time(request.session))

    async def history(self, request: pb.HistoryRequest, call: ClientCall) -> pb.HistoryResponse:
        """Return the latest changes, newest first."""
        limit = min(request.limit or _DEFAULT_HISTORY, _MAX_HISTORY)
        changes = await self._store.history(request.session, limit)
        return pb.HistoryResponse(revisions=map(converters.revision_message, changes))

    async def diff(self, request: pb.DiffRequest, call: ClientCall) -> pb.DiffResponse:
        """Return the variables that differ between two revisions."""
        if not request.before:
            raise MalformedError("before", "it names no revision: a token, a label or latest")
        found = await self._store.diff(request.session, request.before, request.after or LATEST)
        return pb.DiffResponse(
            changes=[converters.difference_message(name, *sides) for name, sides in sorted(found.items())]
        )

    async def _commit(
        self,
        request: pb.PublishRequest | pb.RollbackRequest,
        names: frozenset[str] | None,
        build_changes: converters.ChangeBuilder,
        reason: str,
        call: ClientCall,
    ) -> pb.PublishResponse:
        expected, author = (
            converters.parse_token(request.expected, "expected"),
            call.grant.format_author(request.author),
        )
        commit = PublishCommand(request.session, names, build_changes, expected, author, reason)
        content = request.SerializeToString(deterministic=True)
        token = await self._publisher.publish(call.grant.name, request.request_id, content, commit)
        return pb.PublishResponse(token=str(token))

    async def _wait_for_token(self, session: str, token: Token, wait_s: float) -> Snapshot:
        snapshot: Snapshot | None = None
        try:
            snapshot = await self._store.read(session)
        except SessionNotFoundError:
            if not wait_s:
                raise
        if snapshot is not None and snapshot.satisfies(token):
            return snapshot
        try:
            async with asyncio.timeout(wait_s), aclosing(self._replica.changes(session)) as snapshots:
                async for snapshot in snapshots:
                    if snapshot.satisfies(token):
                        return snapshot
        except TimeoutError:
            pass
        at = "nothing yet" if snapshot is None else str(snapshot.token)
        raise RevisionNotReachedError(session, str(token), at, wait_s)

    async def _record_demand(self, session: str) -> None:
        """Record that the session is in use, so that a refresher follows it if Elixir has it."""
        if self._demand is not None:
            await self._demand.touch([session])

    async def _store_time(self, session: str) -> float:
        """Return the store's time in Unix seconds, which staleness is measured by."""
        heads = await self._store.heads([session])
        return heads[session].now if session in heads else 0.0


def _replace_all(now: Mapping[str, Variable], target: Changes, grant: Grant) -> Changes:
    """Return the changes that turn the current state into the target, except what the grant may not change."""
    changes = {**dict.fromkeys(now.keys() - target.keys()), **target}
    if GrantScope.CONTROL in grant.scopes:
        return changes
    return {name: variable for name, variable in changes.items() if not is_control(name)}


def _select_names(snapshot: Snapshot, request: pb.WatchRequest, now: float) -> pb.Snapshot:
    """Return a snapshot with the watched variables that it has: a watched variable may be created and deleted."""
    names = [name for name in request.names if name in snapshot.variables]
    message = converters.snapshot_message(snapshot, names, now)
    if request.names and not names:
        del message.variables[:]
    return message
