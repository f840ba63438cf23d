"""The rate limits of LM profiles as they stand in Redis: what is in force, how much of it is used, and who waits.

It is read by those who export metrics, so it runs no script and takes no right to write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys

# Slices of a window, as in buckets.lua.
_SLICES = 120
# A limit that no call was charged to for so long may be gone.
_FORGOTTEN_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class LimitUse:
    """One limit of an LM profile.

    Attributes:
        profile: the LM profile.
        kind: what is limited, such as ``requests_per_min``.
        allowed: how much may be used in a window, or at a time.
        used: how much is.
    """

    profile: str
    kind: str
    allowed: float
    used: float


@dataclass(frozen=True, slots=True)
class LimitsInUse:
    """All limits of LM profiles that calls were recently charged to.

    Attributes:
        limits: each limit.
        parked: how many predictions wait, by LM profile.
    """

    limits: Sequence[LimitUse]
    parked: Mapping[str, int]


async def read_limits(connection: RedisConnection, *, namespace: str = DEFAULT_NAMESPACE) -> LimitsInUse:
    """Return the limits in use, in two round trips.

    Raises:
        StoreUnavailableError: Redis is unreachable.
    """
    prefix = FleetKeys(namespace).limits
    names = ("in_force", "under_way", "waiting")
    in_force, under_way, waiting = map(_decode, await connection.send_each([("HGETALL", prefix + x) for x in names]))
    parked = {profile: int(count) for profile, count in waiting.items()}
    if not in_force:
        return LimitsInUse((), parked)
    (seconds, micros), *buckets = await connection.send_each(
        [("TIME",), *(("HGETALL", f"{prefix}bucket:{name}") for name in in_force)]
    )
    now_ms = int(seconds) * 1000 + int(micros) / 1000
    limits = [
        _parse_limit(name, rule, _decode(bucket), int(under_way.get(name, 0)), now_ms)
        for (name, rule), bucket in zip(in_force.items(), buckets, strict=True)
    ]
    return LimitsInUse([limit for limit in limits if limit is not None], parked)


def _parse_limit(name: str, rule: str, bucket: Mapping[str, str], under_way: int, now_ms: float) -> LimitUse | None:
    allowed, window_ms, charged_at_ms = map(float, rule.split())
    if now_ms - charged_at_ms > _FORGOTTEN_MS:
        return None
    profile, _, kind = name.partition(":")[2].rpartition(":")
    used = _sum_of_window(bucket, window_ms, now_ms) if window_ms else float(max(0, under_way))
    return LimitUse(profile, kind, allowed, used)


def _sum_of_window(bucket: Mapping[str, str], window_ms: float, now_ms: float) -> float:
    """Return what was charged in the slices of the window that ends now."""
    first = int(now_ms * _SLICES // window_ms) - _SLICES
    return sum(float(amount) for slice_, amount in bucket.items() if slice_.isdigit() and int(slice_) >= first)


def _decode(found: Mapping[Any, Any]) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in found.items()}
