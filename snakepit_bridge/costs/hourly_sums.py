"""Hourly sums of what predictions cost, in one Redis hash for each hour and dimension.

A worker adds a prediction's amounts in the script that commits its result, so that each prediction counts once. A hash
has a field for each group, and another one for its failed predictions; sums by session are those of its revisions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from snakepit_bridge.costs.usage import LMUsage, sum_usage
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.scripts import source

SUMS = source("snakepit_bridge.costs", "sums")
"""The Lua function ``add_sums``, for the script that commits results."""

HOUR_S = 3_600
MAX_DAYS = 35
"""Days for which hourly sums are kept at most."""

OTHER = "(other)"
"""The group of what is beyond the bound on the groups of an hour, and of a report."""

REVISIONS_OTHER = f":{OTHER}"
"""The same among revisions, whose groups are a token, a colon and a session."""

# Users choose the groups' names. So many groups take about 1.5 MB in an hour, and 40 MB in a report.
_MAX_GROUPS, _MAX_REPORTED = 10_000, 100_000
_DAY_S = 86_400
# A page of fields takes an event loop about 2 ms.
_KEYS_AT_ONCE, _FIELDS_AT_ONCE = 16, 500
_PICO_PER_MICRO = 10**6

# A field's value: the predictions, and what LMUsage has, with its money in two parts.
_AMOUNTS = 9

Stored = Literal["program", "profile", "revision"]
"""The dimensions that have hashes."""

Grouping = Callable[[str], str | None]
"""Returns the group of a report that a stored group counts for; None leaves it out."""

_SUCCEEDED, _FAILED = "+", "-"
"""The first letter of a group's two fields."""


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums of one group.

    Attributes:
        predictions: predictions that succeeded, and ``usage`` what their calls used.
        failed: predictions that failed, and ``failed_usage`` what their calls used.
    """

    predictions: int = 0
    failed: int = 0
    usage: LMUsage = field(default_factory=LMUsage)
    failed_usage: LMUsage = field(default_factory=LMUsage)


@dataclass(frozen=True, slots=True)
class EndedPrediction:
    """What a prediction adds to the sums.

    Attributes:
        program, session, token: what it ran.
        failed: whether it failed.
        by_profile: what its calls used, by LM profile.
    """

    program: str
    session: str
    token: str
    failed: bool
    by_profile: Mapping[str, LMUsage]


def script_arguments(
    keys: FleetKeys, prediction: EndedPrediction, *, now_s: float, days: int, first_key: int
) -> tuple[list[str], list[Any]]:
    """Return the keys and arguments by which ``add_sums`` adds a prediction.

    Args:
        keys: the fleet's.
        prediction: what it adds.
        now_s: when it ended, in Unix seconds.
        days: for which the sums are kept.
        first_key: the index of the first of these keys among those of the script, from 1.
    """
    hour = int(now_s) // HOUR_S
    total = sum_usage(prediction.by_profile.values())
    hashes = [keys.cost(name, hour) for name in ("program", "revision", "profile")]
    mark, revision = _FAILED if prediction.failed else _SUCCEEDED, f"{prediction.token}:{prediction.session}"
    # An hour longer than the days, so that the hour in which a report over all of them begins is still there.
    args: list[Any] = [days * _DAY_S + HOUR_S, _MAX_GROUPS]
    args += (first_key, f"{mark}{prediction.program}", f"{mark}{OTHER}", 1, *_amounts(total))
    args += (first_key + 1, f"{mark}{revision}", f"{mark}{REVISIONS_OTHER}", 1, *_amounts(total))
    for profile, usage in prediction.by_profile.items():
        args += (first_key + 2, f"{mark}{profile}", f"{mark}{OTHER}", 1, *_amounts(usage))
    return hashes, args


def _amounts(usage: LMUsage) -> tuple[int, ...]:
    """Return what ``sums.lua`` adds, in its order."""
    return (
        usage.calls,
        usage.unpriced_calls,
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        *divmod(usage.cost_pico, _PICO_PER_MICRO),
    )


async def read_sums(
    connection: RedisConnection,
    keys: FleetKeys,
    dimension: Stored,
    hours: Iterable[int],
    *,
    group_of: Grouping = str,
    other: str = OTHER,
) -> dict[str, Sums]:
    """Return the sums of each group over some hours. The event loop runs on after each page of fields.

    Args:
        connection: to the Redis of the results.
        keys: the fleet's.
        dimension: which hashes to read.
        hours: since the Unix epoch.
        group_of: the group that a stored one counts for; None leaves it out.
        other: the group of those beyond the most that a report has.

    Raises:
        StoreUnavailableError: Redis is away.
    """
    tally = _Tally(group_of, other)
    names = [keys.cost(dimension, hour) for hour in hours]
    for start in range(0, len(names), _KEYS_AT_ONCE):
        await _add_hashes(connection, names[start : start + _KEYS_AT_ONCE], tally)
    return await asyncio.to_thread(tally.sums)


async def _add_hashes(connection: RedisConnection, names: Sequence[str], tally: _Tally) -> None:
    """Add the fields of whole hashes, in steps that don't block the server; a field may come twice in a scan."""
    seen: dict[str, set[bytes]] = {name: set() for name in names}
    cursors: dict[str, Any] = dict.fromkeys(names, 0)
    while cursors:
        count = max(_FIELDS_AT_ONCE // len(cursors), 10)
        replies = await connection.send_each([("HSCAN", name, at, "COUNT", count) for name, at in cursors.items()])
        for name, (cursor, page) in zip(list(cursors), replies, strict=True):
            found: dict[bytes, bytes] = (
                page if isinstance(page, dict) else dict(zip(page[::2], page[1::2], strict=True))
            )
            tally.add({field: amounts for field, amounts in found.items() if field not in seen[name]})
            seen[name].update(found)
            cursors[name] = cursor
            await asyncio.sleep(0)
        cursors = {name: cursor for name, cursor in cursors.items() if int(cursor)}


class _Tally:
    """Adds up the fields of hashes, in whole numbers: a report may read millions of them.

    Args:
        group_of, other: see ``read_sums``.
    """

    def __init__(self, group_of: Grouping, other: str) -> None:
        self._group_of = group_of
        self._other = other
        self._amounts: dict[str, list[int]] = {}

    def add(self, page: Mapping[bytes, bytes]) -> None:
        """Add the fields of a page."""
        for name, amounts in page.items():
            field = name.decode("utf-8", "replace")
            group = self._group_of(field[1:])
            if group is None:
                continue
            total = self._amounts.get(group) or self._begin(group)
            first = _AMOUNTS if field.startswith(_FAILED) else 0
            for at, amount in enumerate(amounts.split(), first):
                total[at] += int(amount)

    def _begin(self, group: str) -> list[int]:
        """Return the amounts of a new group, which are those of the others if there are too many."""
        if len(self._amounts) >= _MAX_REPORTED:
            group = self._other
        return self._amounts.setdefault(group, [0] * 2 * _AMOUNTS)

    def sums(self) -> dict[str, Sums]:
        """Return the sums of each group."""
        return {group: _sums(amounts) for group, amounts in self._amounts.items()}


def _sums(amounts: Sequence[int]) -> Sums:
    (count, usage), (failed, failed_usage) = map(_decode, (amounts[:_AMOUNTS], amounts[_AMOUNTS:]))
    return Sums(count, failed, usage, failed_usage)


def _decode(amounts: Sequence[int]) -> tuple[int, LMUsage]:
    """Return a field's predictions and what they used."""
    count, *counts, micro, pico = amounts
    return count, LMUsage(*counts, cost_pico=micro * _PICO_PER_MICRO + pico)
