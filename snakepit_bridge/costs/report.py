"""The report on what predictions cost, by program, session, revision or LM profile."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, get_args

from snakepit_bridge.costs.hourly_sums import HOUR_S, MAX_DAYS, OTHER, REVISIONS_OTHER, Grouping, Sums, read_sums
from snakepit_bridge.costs.usage import LMUsage, sum_usage
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys

CostDimension = Literal["program", "session", "revision", "profile"]
"""What costs are summed by; a revision is a session with a token."""

COST_DIMENSIONS: tuple[str, ...] = get_args(CostDimension)
MAX_SINCE_S = MAX_DAYS * 86_400


@dataclass(frozen=True, slots=True)
class CostRow:
    """What the predictions of one group cost.

    Attributes:
        program, session, token, profile: the group; those that it isn't grouped by are empty.
        predictions: predictions that succeeded, and ``usage`` what their LM calls used: the sum of their provenances.
        failed: predictions that failed, and ``failed_usage`` what their LM calls used.
    """

    program: str = ""
    session: str = ""
    token: str = ""
    profile: str = ""
    predictions: int = 0
    failed: int = 0
    usage: LMUsage = field(default_factory=LMUsage)
    failed_usage: LMUsage = field(default_factory=LMUsage)

    @property
    def cost_usd(self) -> Decimal | None:
        """What the predictions that succeeded cost, exactly; None if no call of theirs is priced."""
        return self.usage.cost_usd

    def group(self) -> dict[str, str]:
        """Return the names that the row is grouped by."""
        names = {"program": self.program, "session": self.session, "token": self.token, "profile": self.profile}
        return {name: value for name, value in names.items() if value}

    def encode(self) -> dict[str, Any]:
        """Return the JSON form."""
        failed = {"predictions": self.failed, **self.failed_usage.encode()}
        return {**self.group(), "predictions": self.predictions, **self.usage.encode(), "failed": failed}


@dataclass(frozen=True, slots=True)
class CostReport:
    """What predictions cost.

    Attributes:
        by: what the rows are grouped by.
        since: when the first hour begins, in Unix seconds, and ``until`` when the report was made.
        rows: the groups, the dearest first.
        total: the sum over all rows. By profile a prediction counts for each profile that it used.
    """

    by: CostDimension
    since: int
    until: int
    rows: tuple[CostRow, ...]
    total: CostRow

    def encode(self) -> dict[str, Any]:
        """Return the JSON form."""
        rows = [row.encode() for row in self.rows]
        return {"by": self.by, "since": self.since, "until": self.until, "rows": rows, "total": self.total.encode()}


async def read_costs(
    connection: RedisConnection,
    keys: FleetKeys,
    by: CostDimension,
    since_s: float,
    covers: Callable[[str], bool] | None = None,
) -> CostReport:
    """Read the report of the hours since so many seconds ago; the hour of that moment counts as a whole.

    Args:
        connection: to the Redis of the results.
        keys: the fleet's.
        by: what to sum by.
        since_s: seconds, up to 35 days.
        covers: whether a session is reported, by session and by revision; all are if it isn't given.

    Raises:
        ValueError: ``by`` or ``since_s`` can't be.
        StoreUnavailableError: Redis is away.
    """
    if by not in COST_DIMENSIONS:
        raise ValueError(f"Costs are summed by {', '.join(COST_DIMENSIONS)}, not by {by!r}.")
    if not (math.isfinite(since_s) and 0 <= since_s <= MAX_SINCE_S):
        raise ValueError(f"Costs are kept for {MAX_DAYS} days: give 0 to {MAX_SINCE_S} seconds, not {since_s}.")
    now = int(time.time())
    first = int(now - since_s) // HOUR_S
    # The hours are those of the workers' clocks, which may be ahead of this one.
    hours = range(first, now // HOUR_S + 2)
    stored = "revision" if by == "session" else by
    other = REVISIONS_OTHER if by == "revision" else OTHER
    sums = await read_sums(connection, keys, stored, hours, group_of=_grouping(by, covers), other=other)
    return await asyncio.to_thread(build_report, by, sums, since=first * HOUR_S, until=now)


def _grouping(by: CostDimension, covers: Callable[[str], bool] | None) -> Grouping:
    """Return what the stored groups count for in a report."""
    if by in ("program", "profile"):
        return str

    def group_of(stored: str) -> str | None:
        _, _, session = stored.partition(":")
        if covers is not None and not covers(session):
            return None
        return session if by == "session" else stored

    return group_of


def build_report(by: CostDimension, sums: Mapping[str, Sums], *, since: int, until: int) -> CostReport:
    """Return the report on the sums of its groups; a revision's group is its token and its session."""
    rows = [_row(each, _names(by, group)) for group, each in sums.items()]
    rows.sort(key=lambda row: (-row.usage.cost_pico, -row.predictions, tuple(row.group().values())))
    return CostReport(by, since, until, tuple(rows), _sum_rows(rows))


def _sum_rows(rows: Sequence[CostRow]) -> CostRow:
    """Return the sum of some rows, which has no group."""
    return CostRow(
        predictions=sum(row.predictions for row in rows),
        failed=sum(row.failed for row in rows),
        usage=sum_usage(row.usage for row in rows),
        failed_usage=sum_usage(row.failed_usage for row in rows),
    )


def _names(by: CostDimension, group: str) -> dict[str, str]:
    token, _, session = group.partition(":")
    return {"session": session, "token": token} if by == "revision" else {by: group}


def _row(sums: Sums, names: Mapping[str, str]) -> CostRow:
    return CostRow(
        names.get("program", ""),
        names.get("session", ""),
        names.get("token", ""),
        names.get("profile", ""),
        sums.predictions,
        sums.failed,
        sums.usage,
        sums.failed_usage,
    )
