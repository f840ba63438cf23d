"""What ``doctor`` says of the fleet's data format, of calls that were denied, and of rules that protect nothing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from snakepit_bridge.audit.entries import AuditFilter, AuditOutcome
from snakepit_bridge.audit.protections import ProtectionKind
from snakepit_bridge.exceptions import DataFormatError
from snakepit_bridge.protocol.checks import Check
from snakepit_bridge.redis.data_format import DATA_FORMAT
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.snapshots.records import STORE

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet

_SINCE_S = 86_400.0
_MAX_ENTRIES = 1_000
_NAMES_SHOWN = 5


async def check_changes(fleet: Fleet) -> list[Check]:
    """Check the format of the fleet's data, denied calls and rules.

    Raises:
        StoreUnavailableError: Redis is away.
    """
    found = await fleet.connection.execute_read("GET", FleetKeys(fleet.namespace).data_format)
    written = "1, of a release that wrote no number" if found is None else found.decode()
    return [Check("data format", "ok", written), await _check_denied(fleet), *await _check_rules(fleet)]


def describe_data_format(exc: DataFormatError) -> Check:
    """Return the check of data that a newer release wrote."""
    found = f"'{exc.found}', and this shell's release reads formats up to {DATA_FORMAT}"
    return Check("data format", "fail", found, "upgrade it; see docs/how-to/upgrade.md")


async def _check_denied(fleet: Fleet) -> Check:
    since = await fleet.audit_trail.read_time() - _SINCE_S
    chosen = AuditFilter(outcome=AuditOutcome.DENIED)
    entries = await fleet.audit_trail.read(chosen, since=since, limit=_MAX_ENTRIES)
    if not entries:
        return Check("denied calls", "ok", "none in 24 h")
    calls: Counter[str] = Counter()
    for entry in entries:
        calls[entry.actor or "callers without a known token"] += entry.changes
    callers = ", ".join(f"{name}: {count}" for name, count in calls.most_common(_NAMES_SHOWN))
    return Check("denied calls", "warn", f"in 24 h {callers}", "see which: dspex-fleet audit --outcome denied")


async def _check_rules(fleet: Fleet) -> list[Check]:
    """Return a check for each rule that names sessions of an Elixir server, for which it doesn't hold."""
    rules = [rule for rule in await fleet.protections.aio.list() if rule.kind is ProtectionKind.SESSION]
    heads = await fleet.store.sessions() if rules else {}
    followed = sorted(name for name, head in heads.items() if head.authority != STORE)
    checks: list[Check] = []
    for rule in rules:
        names = [name for name in followed if rule.matches(name)]
        if names:
            more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
            shown = ", ".join(names[:_NAMES_SHOWN])
            what = f"{rule} doesn't hold for {shown}{more}, which an Elixir server publishes"
            checks.append(Check("protection", "warn", what, "see docs/how-to/protect.md"))
    return checks
