"""Calls that the gateway denies, for the audit trail: few entries, however many calls there are.

Equal calls within a moment are one entry, which counts them. Each token may cause a few entries at once and then one a
minute, and so may all callers together whose token isn't known: what more they call is counted in the next one.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from snakepit_bridge.audit.entries import AuditEntry, AuditOutcome
from snakepit_bridge.audit.trail import AuditTrail
from snakepit_bridge.exceptions import BridgeError
from workers.gateway.errors import NotGrantedError, UnauthenticatedError

BURST = 10
"""How many entries a caller causes at once."""

REFILL_S = 60.0
"""Seconds after which one more may be written, once these are used up."""

FLUSH_INTERVAL_S = 1.0
"""Seconds between two looks at what was denied."""

# Distinct calls of one caller that are remembered until they are written.
_MAX_KINDS = 20
_MAX_TEXT = 200
_GATEWAY = "gateway"
_MANY = "calls"


@dataclass(frozen=True, slots=True)
class _DeniedCall:
    action: str
    target: str
    problem: str


# Whatever else a caller calls before these are written.
_FURTHER = _DeniedCall(_MANY, _GATEWAY, "further kinds of calls")


@dataclass(slots=True)
class _Budget:
    """What one caller may still write, and what waits for that."""

    entries: float
    filled_at: float
    waiting: Counter[_DeniedCall] = field(default_factory=Counter[_DeniedCall])

    def fill(self, now: float) -> None:
        self.entries = min(float(BURST), self.entries + (now - self.filled_at) / REFILL_S)
        self.filled_at = now

    def add(self, call: _DeniedCall, count: int = 1) -> None:
        known = call in self.waiting or len(self.waiting) < _MAX_KINDS
        self.waiting[call if known else _FURTHER] += count


class DeniedCalls:
    """Collects the denied calls of a gateway, and writes them to the audit trail.

    Args:
        trail: the fleet's.
        clock: monotonic seconds.
    """

    def __init__(self, trail: AuditTrail, clock: Callable[[], float] = time.monotonic) -> None:
        self._trail = trail
        self._clock = clock
        self._budgets: dict[str, _Budget] = {}

    def note(self, error: BridgeError, action: str, *, actor: str = "", session: str = "", address: str = "") -> None:
        """Note a call, if it was denied and didn't fail otherwise; it is written a moment later.

        Args:
            error: what it was answered.
            action: the operation.
            actor: the name of its token; empty if the error has it, or if it isn't known.
            session: the session that it was for.
            address: where it came from, which is told of unknown callers.
        """
        if isinstance(error, NotGrantedError):
            actor, session = error.grant, error.session.replace("*", "") or session
        unknown = isinstance(error, UnauthenticatedError)
        problem = f"{error.problem}; it came from {address or 'an unknown address'}" if unknown else str(error)
        target = f"session:{session}"[:_MAX_TEXT] if session else _GATEWAY
        self._find_budget("" if unknown else actor).add(_DeniedCall(action, target, problem[:_MAX_TEXT]))

    async def flush(self, *, is_last: bool = False) -> None:
        """Write what may be written.

        Args:
            is_last: write what waits as one entry for each caller, whatever they have written already.

        Raises:
            StoreUnavailableError: Redis is away; what isn't written waits.
        """
        for actor, budget in list(self._budgets.items()):
            budget.fill(self._clock())
            if is_last:
                budget.entries = max(1.0, budget.entries)
            if budget.entries >= 1 and budget.waiting:
                await self._write(actor, budget)

    async def _write(self, actor: str, budget: _Budget) -> None:
        waiting, budget.waiting = budget.waiting, Counter()
        try:
            while waiting:
                # The last entry that may be written counts everything that is left.
                calls = list(waiting)[: 1 if budget.entries >= 2 else None]
                await self._trail.record(_describe(actor, calls, sum(waiting[call] for call in calls)))
                budget.entries -= 1
                for call in calls:
                    del waiting[call]
        finally:
            for call, count in waiting.items():
                budget.add(call, count)

    def _find_budget(self, actor: str) -> _Budget:
        if actor not in self._budgets:
            self._budgets[actor] = _Budget(float(BURST), self._clock())
        return self._budgets[actor]


def _describe(actor: str, calls: Sequence[_DeniedCall], count: int) -> AuditEntry:
    """Return the entry of calls of one kind, or of several that have to share one."""
    first, names = calls[0], tuple(sorted({call.action for call in calls}))
    if len(calls) == 1:
        return AuditEntry(
            first.action, first.target, actor, problem=first.problem, outcome=AuditOutcome.DENIED, changes=count
        )
    problem = f"{len(calls)} kinds of calls, such as: {first.problem}"
    return AuditEntry(_MANY, _GATEWAY, actor, problem=problem, outcome=AuditOutcome.DENIED, names=names, changes=count)


def format_address(peer: str) -> str:
    """Return the host of a peer as gRPC names it: ``ipv4:10.0.0.7:4711``; empty if that isn't an address."""
    host = peer.partition(":")[2].rpartition(":")[0].strip("[]").replace("%5B", "").replace("%5D", "")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ""
