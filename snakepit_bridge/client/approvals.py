"""``fleet.approvals``: list, show, approve and reject the changes that wait for approval."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snakepit_bridge.audit.change_control import ChangeControl
from snakepit_bridge.audit.entries import identify
from snakepit_bridge.audit.requests import ApprovalRequest
from snakepit_bridge.client.protections import AsyncProtections
from snakepit_bridge.exceptions import (
    ApprovalNotFoundError,
    ApprovalOutdatedError,
    RolloutCandidateError,
    RolloutMovedError,
    RolloutOverlapError,
    StaleTokenError,
)
from snakepit_bridge.process.blocking_methods import blocking
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.releases.index import RolloutIndex
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.approved import apply_session_change

if TYPE_CHECKING:
    from snakepit_bridge.programs.registry import ProgramRegistry

# What a change raises whose target isn't what it was when the change was requested.
_OUTDATED = (StaleTokenError, RolloutMovedError, RolloutOverlapError, RolloutCandidateError)


@dataclass(frozen=True, slots=True)
class Approval:
    """What an approval led to.

    Attributes:
        request: the request, with the approvals that it has now.
        applied: whether the change was made.
        result: what it led to, as text: a token, a version or an id; empty if there is nothing to tell.
    """

    request: ApprovalRequest
    applied: bool
    result: str = ""


class AsyncApprovals:
    """The requests of a fleet, for callers that await.

    Args:
        store: the sessions.
        open_registry: returns the programs; it is called for a program alone, since programs load DSPy.
        protections: the rules, which are changed by requests too.
        index: of the targets with rollouts.
    """

    def __init__(
        self,
        store: SnapshotStore,
        open_registry: Callable[[], ProgramRegistry],
        protections: AsyncProtections,
        index: RolloutIndex,
    ) -> None:
        self._store = store
        self._open_registry = open_registry
        self._protections = protections
        self._index = index

    @property
    def _control(self) -> ChangeControl:
        return self._protections.control

    async def list(self) -> list[ApprovalRequest]:
        """Return the requests that wait, the oldest first.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._control.requests.list())

    async def get(self, id: str) -> ApprovalRequest:
        """Return a request that waits.

        Raises:
            ApprovalNotFoundError: there is none of this id.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._control.requests.get(id))

    async def approve(self, id: str, *, author: str) -> Approval:
        """Approve a request; the change is made by this, exactly as it was requested, if no approval is missing then.

        Args:
            id: of the request.
            author: who approves it: somebody else than requested it.

        Raises:
            ApprovalError: this author can't approve it.
            ApprovalNotFoundError: it was applied or rejected, or it has expired.
            ApprovalOutdatedError: its target has moved on; it is withdrawn.
            BridgeError: what the change raises; the request waits still.
        """
        return await run_on_home_loop(self._approve(id, author))

    async def reject(self, id: str, *, author: str, reason: str = "") -> ApprovalRequest:
        """Reject a request, which its own author may do too, and return it.

        Args:
            id: of the request.
            author: who rejects it.
            reason: why, for the audit trail.

        Raises:
            ApprovalNotFoundError: it was applied or rejected, or it has expired.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._reject(id, author, reason))

    async def _approve(self, id: str, author: str) -> Approval:
        waiting = await self._control.requests.get(id)
        # One whose change failed, by an outage, has its approvals already; the next one to approve it tries again.
        retries = waiting.is_approved and identify(author) in waiting.approvers
        request = waiting if retries else await self._control.requests.approve(id, author)
        await self._control.record_approval(request, author)
        if not request.is_approved:
            return Approval(request, applied=False)
        try:
            return Approval(request, applied=True, result=await self._apply(request))
        except _OUTDATED as exc:
            # Of two who approve it at once the second finds a target that the first has moved.
            await self._check_waits(id)
            await self._control.requests.remove(id)
            raise ApprovalOutdatedError(id, request.target, str(exc)) from None

    async def _check_waits(self, id: str) -> None:
        await self._control.requests.get(id)

    async def _reject(self, id: str, author: str, reason: str) -> ApprovalRequest:
        request = await self._control.requests.get(id)
        await self._control.reject(request, author, reason)
        return request

    async def _apply(self, request: ApprovalRequest) -> str:
        kind = request.target.partition(":")[0]
        if kind == "session":
            return await self._change_session(request)
        if kind == "program":
            from snakepit_bridge.programs.approved import apply_program_change

            registry = await asyncio.to_thread(self._open_registry)
            return await apply_program_change(registry, request)
        return await self._change_rule(request)

    async def _change_session(self, request: ApprovalRequest) -> str:
        result = await apply_session_change(self._store, request)
        if request.operation == "publish":
            # Of a rollout that it begins the controller learns by the index.
            session = request.target.removeprefix("session:")
            heads = await self._store.heads([session])
            if session in heads and heads[session].rollout is not None:
                await self._index.add(request.target)
        return result

    async def _change_rule(self, request: ApprovalRequest) -> str:
        kind, _, pattern = request.target.removeprefix("protection:").partition(":")
        found = await self._protections.control.protections.list()
        approvals = next((rule.approvals for rule in found if str(rule) == f"{kind}:{pattern}"), 0)
        if str(approvals) != request.expected:
            await self._control.requests.remove(request.id)
            raise ApprovalNotFoundError(request.id)
        if request.operation == "unprotect":
            await self._protections.unprotect(kind, pattern, author=request.author, approval=request.id)
            return ""
        needed: int = request.arguments["approvals"]
        await self._protections.protect(kind, pattern, approvals=needed, author=request.author, approval=request.id)
        return str(needed)


class Approvals:
    """The requests of a fleet; each method does what the one of the same name of ``aio`` does.

    It can be used in any thread, with or without a running event loop.

    Args:
        aio: the same for callers that await.
    """

    def __init__(self, aio: AsyncApprovals) -> None:
        self.aio = aio

    list = blocking(AsyncApprovals.list)
    get = blocking(AsyncApprovals.get)
    approve = blocking(AsyncApprovals.approve)
    reject = blocking(AsyncApprovals.reject)
