"""Change control of the memory store: its trail, its rules and its requests, which the store's lock guards too."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from snakepit_bridge.audit.change_control import ChangeControl, ControlledChange, TargetProtectedError, read_nothing
from snakepit_bridge.audit.entries import NAMES_RECORDED
from snakepit_bridge.audit.protections import MemoryProtections, find_protection
from snakepit_bridge.audit.requests import MemoryApprovalRequests
from snakepit_bridge.audit.trail import MemoryAuditTrail
from snakepit_bridge.exceptions import ApprovalNotFoundError
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.snapshots.controlled import describe_rollout_step

T = TypeVar("T")


class MemoryChanges:
    """How one store's changes are made.

    Args:
        lock: the store's.

    Attributes:
        control: what the store shows of it.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._trail, self._rules, self._requests = MemoryAuditTrail(), MemoryProtections(), MemoryApprovalRequests()
        self.control = ChangeControl(self._trail, self._rules, self._requests)

    async def carry_out(self, change: ControlledChange, work: Callable[[], T]) -> T:
        """Make a change under the store's lock, and return what it returns; see ``ChangeControl.carry_out``."""

        async def locked() -> T:
            with self._lock:
                return work()

        return await self.control.carry_out(change, locked, read_nothing)

    def check_approval(self, change: ControlledChange) -> None:
        """Check that a change which claims an approval has it.

        Raises:
            ApprovalNotFoundError: the request is gone, or lacks approvals.
        """
        request = self._requests.find(change.approval) if change.approval else None
        if change.approval and (request is None or not request.is_approved):
            raise ApprovalNotFoundError(change.approval)

    def guard(self, change: ControlledChange, found: str) -> None:
        """Check that no rule protects what is changed, unless the change is approved.

        Raises:
            TargetProtectedError: a rule does.
        """
        if change.kind is not None and not change.approval:
            rule = find_protection(self._rules.rules, change.kind, *change.names)
            if rule is not None:
                raise TargetProtectedError(str(rule), rule.approvals, found)

    def record(
        self, change: ControlledChange, before: str = "", after: str = "", changed: Iterable[str] | None = None
    ) -> None:
        """Record a change that was made, and use up its approval."""
        entry = change.describe(before, after)
        if changed is not None:
            names = tuple(changed)
            entry = replace(entry, names=names[:NAMES_RECORDED], changes=len(names))
        if request := self._requests.find(change.approval):
            entry = replace(entry, approvers=request.approvers)
            self._requests.discard(change.approval)
        self._trail.append(entry)

    def record_event(self, session: str, event: RolloutEvent) -> None:
        """Record a step of a session's rollout."""
        record = event.record
        self.record(describe_rollout_step(session, event), record.baseline, record.candidate)
