"""ChangeControl: the trail, the rules and the requests of one fleet, as what changes something uses them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from snakepit_bridge.audit.entries import AuditEntry, AuditOutcome, AuditSource
from snakepit_bridge.audit.protections import (
    MemoryProtections,
    ProtectionKind,
    Protections,
    RedisProtections,
    find_protection,
)
from snakepit_bridge.audit.requests import (
    REQUEST_TTL_S,
    ApprovalRequest,
    ApprovalRequests,
    MemoryApprovalRequests,
    RedisApprovalRequests,
)
from snakepit_bridge.audit.trail import AuditTrail, MemoryAuditTrail, RedisAuditTrail
from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.exceptions import (
    ApprovalNotFoundError,
    ApprovalRequiredError,
    CheckFailedError,
    SessionOwnedElsewhereError,
)
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection

T = TypeVar("T")

UNSET = "none"
"""What is expected of a program's label that isn't set."""

NOTHING = Token(0, 0)
"""The token of a session that wasn't published, and of a session's label that isn't set."""


class TargetProtectedError(Exception):
    """A rule protects what was to be changed. It becomes a request, and the caller gets ``ApprovalRequiredError``."""

    def __init__(self, rule: str, needed: int, found: str) -> None:
        super().__init__(rule, needed, found)
        self.rule, self.needed, self.found = rule, needed, found


def raise_if_protected(reply: Sequence[Any]) -> None:
    """Raise the error of a script that met a rule.

    Raises:
        TargetProtectedError: a rule protects what was to be changed.
    """
    if reply[0] == b"protected":
        rule, needed, found = (part.decode() for part in reply[1:])
        raise TargetProtectedError(rule, int(needed), found)


@dataclass(frozen=True, slots=True)
class ControlledChange:
    """A change that is about to be made.

    Attributes:
        operation, target, author, reason: as a request and the audit trail have them.
        kind, names: which rules may protect the target, and by which of its names; None and nothing for no rule.
        expected: what the target has to be at, if the author said so.
        build_arguments: returns what a request of it has to hold.
        changed: names of what changes within the target.
        approval: the id of the request for it that was approved; empty for none.
        is_own: whether an author of this fleet makes it, and not the refresher of an Elixir server.
    """

    operation: str
    target: str
    author: str = ""
    reason: str = ""
    kind: ProtectionKind | None = None
    names: tuple[str, ...] = ()
    expected: str = ""
    build_arguments: Callable[[], Mapping[str, Any]] = dict
    changed: tuple[str, ...] = ()
    approval: str = ""
    is_own: bool = True

    def describe(self, before: str, after: str = "") -> AuditEntry:
        """Return the entry of the audit trail for it."""
        return AuditEntry(
            self.operation,
            self.target,
            self.author,
            reason=self.reason,
            before=before,
            after=after,
            names=self.changed,
            changes=len(self.changed),
            approval=self.approval,
        )


@dataclass(frozen=True, slots=True)
class ChangeControl:
    """How the changes of one fleet are recorded, and which of them need approval.

    Attributes:
        trail: the audit trail.
        protections: the rules.
        requests: what waits for approval.
    """

    trail: AuditTrail
    protections: Protections
    requests: ApprovalRequests

    async def request(self, hit: TargetProtectedError, change: ControlledChange) -> ApprovalRequiredError:
        """Store the request for a change that a rule forbids, and return the error that tells of it.

        Args:
            hit: the rule, and what the target is at.
            change: what was to be done.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        now = time.time()
        waiting = ApprovalRequest(
            change.operation,
            change.target,
            change.build_arguments(),
            change.expected or hit.found,
            change.author,
            change.reason,
            rule=hit.rule,
            needed=hit.needed,
            source=self.trail.source,
            created_at=now,
            expires_at=now + REQUEST_TTL_S,
        )
        kept = await self.requests.add(waiting)
        if kept.created_at == waiting.created_at:
            await self.trail.record(_describe(kept, AuditOutcome.REQUESTED, kept.author))
        return ApprovalRequiredError(kept.id, kept.target, kept.rule, kept.needed - len(kept.approvers))

    async def record_approval(self, request: ApprovalRequest, approver: str) -> None:
        """Record that somebody has approved a request."""
        await self.trail.record(_describe(request, AuditOutcome.DONE, approver, action="approve"))

    async def reject(self, request: ApprovalRequest, author: str, reason: str) -> None:
        """Remove a request, and record who rejected it, and why."""
        await self.requests.remove(request.id)
        entry = _describe(request, AuditOutcome.DONE, author, action="reject")
        await self.trail.record(replace(entry, reason=reason))

    async def carry_out(
        self, change: ControlledChange, work: Callable[[], Awaitable[T]], read_found: Callable[[], Awaitable[str]]
    ) -> T:
        """Make a change by its script, do what the script can't do on a cluster, and return what it returns.

        Args:
            change: what is to be done.
            work: runs the script.
            read_found: returns what the target is at; it is called on a cluster alone.

        Raises:
            ApprovalRequiredError: a rule protects the target; a request waits now.
            ApprovalNotFoundError: the change's approval is gone.
            BridgeError: what ``work`` raises.
        """
        in_scripts = self.trail.in_scripts
        before = "" if in_scripts else await read_found()
        try:
            if not in_scripts:
                await self._check_apart(change, before)
            result = await work()
        except TargetProtectedError as hit:
            raise await self.request(hit, change) from None
        except (SessionOwnedElsewhereError, CheckFailedError) as exc:
            if change.is_own:
                # The class and not the text, which may hold a value.
                await self.trail.record(change.describe(before).refuse(type(exc).__name__))
            raise
        after = str(result) if isinstance(result, Token) else ""
        has_changed = not before or before not in (after, after or str(NOTHING))
        if not in_scripts and has_changed:
            await self.trail.record(change.describe(before, after))
        if change.approval:
            await self.requests.remove(change.approval)
        return result

    async def _check_apart(self, change: ControlledChange, found: str) -> None:
        """Check what scripts check, where they can't: on a cluster, whose nodes have the rules and the target apart."""
        if change.approval:
            if not (await self.requests.get(change.approval)).is_approved:
                raise ApprovalNotFoundError(change.approval)
        elif change.kind is not None and change.expected in ("", found):
            # A change of what has moved on is refused by its script.
            rule = find_protection(await self.protections.list(), change.kind, *change.names)
            if rule is not None:
                raise TargetProtectedError(str(rule), rule.approvals, found)


async def read_nothing() -> str:
    """Return nothing, for a change that is recorded whatever its target is at."""
    return ""


def open_change_control(
    connection: RedisConnection,
    namespace: str = DEFAULT_NAMESPACE,
    source: AuditSource = AuditSource.CLIENT,
    cipher: Cipher = PLAIN,
) -> ChangeControl:
    """Return that of a fleet in Redis.

    Args:
        connection: the fleet's Redis.
        namespace: prefix of every key.
        source: where this process's changes come from.
        cipher: encrypts what waits for approval.
    """
    return ChangeControl(
        RedisAuditTrail(connection, namespace=namespace, source=source),
        RedisProtections(connection, namespace=namespace),
        RedisApprovalRequests(connection, namespace=namespace, cipher=cipher),
    )


def create_change_control() -> ChangeControl:
    """Return a new one in memory."""
    return ChangeControl(MemoryAuditTrail(), MemoryProtections(), MemoryApprovalRequests())


def _describe(request: ApprovalRequest, outcome: AuditOutcome, actor: str, *, action: str = "") -> AuditEntry:
    return AuditEntry(
        action or request.operation,
        request.target,
        actor,
        reason=request.reason,
        before=request.expected,
        outcome=outcome,
        names=tuple(request.arguments.get("changes", ())),
        approval=request.id,
        approvers=request.approvers,
    )
