"""Hourly sums of what predictions cost, in one Redis hash for each hour and dimension.

A worker adds a prediction's amounts in the script that commits its result, so that each prediction counts once. A hash
has a field for each group, and another one for its failed predictions; sums by session are those of its revisions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
"""The group of what is beyond the bound on the groups of an hour."""

# Users choose the groups' names. So many groups take about 1.5 MB.
_MAX_GROUPS = 10_000
_DAY_S = 86_400
_KEYS_AT_ONCE, _FIELDS_AT_ONCE = 64, 1_000
_PICO_PER_MICRO = 10**6

Stored = Literal["program", "profile", "revision"]
"""The dimensions that have hashes."""

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

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.predictions + other.predictions,
            self.failed + other.failed,
            self.usage + other.usage,
            self.failed_usage + other.failed_usage,
        )


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
    args: list[Any] = [days * _DAY_S, _MAX_GROUPS]
    args += (first_key, f"{mark}{prediction.program}", f"{mark}{OTHER}", 1, *_amounts(total))
    args += (first_key + 1, f"{mark}{revision}", f"{mark}:{OTHER}", 1, *_amounts(total))
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
    connection: RedisConnection, keys: FleetKeys, dimension: Stored, hours: Iterable[int]
) -> dict[str, Sums]:
    """Return the sums of each group over some hours.

    Args:
        connection: to the Redis of the results.
        keys: the fleet's.
        dimension: which hashes to read.
        hours: since the Unix epoch.

    Raises:
        StoreUnavailableError: Redis is away.
    """
    totals: defaultdict[str, Sums] = defaultdict(Sums)
    names = [keys.cost(dimension, hour) for hour in hours]
    for start in range(0, len(names), _KEYS_AT_ONCE):
        for hashed in await _read_hashes(connection, names[start : start + _KEYS_AT_ONCE]):
            for group, sums in _parse(hashed).items():
                totals[group] += sums
    return dict(totals)


async def _read_hashes(connection: RedisConnection, names: Sequence[str]) -> list[dict[bytes, bytes]]:
    """Return whole hashes, in steps that don't block the server; a field may come twice in a scan."""
    found: dict[str, dict[bytes, bytes]] = {name: {} for name in names}
    cursors: dict[str, Any] = dict.fromkeys(names, 0)
    while cursors:
        scans = [("HSCAN", name, cursor, "COUNT", _FIELDS_AT_ONCE) for name, cursor in cursors.items()]
        replies = await connection.send_each(scans)
        for name, (cursor, page) in zip(list(cursors), replies, strict=True):
            found[name].update(page if isinstance(page, dict) else zip(page[::2], page[1::2], strict=True))
            cursors[name] = cursor
        cursors = {name: cursor for name, cursor in cursors.items() if int(cursor)}
    return list(found.values())


def _parse(hashed: Mapping[bytes, bytes]) -> dict[str, Sums]:
    totals: defaultdict[str, Sums] = defaultdict(Sums)
    for name, amounts in hashed.items():
        field, (count, *counts, micro, pico) = name.decode("utf-8", "replace"), map(int, amounts.split())
        usage = LMUsage(*counts, cost_pico=micro * _PICO_PER_MICRO + pico)
        failed = field.startswith(_FAILED)
        totals[field[1:]] += Sums(failed=count, failed_usage=usage) if failed else Sums(count, usage=usage)
    return dict(totals)
