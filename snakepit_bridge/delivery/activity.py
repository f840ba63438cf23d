"""The activity of a fleet: which worker processes are live and what they do, and what has ended, minute by minute.

Each process reports every few seconds what it is and what has ended since, off every hot path. What ended is counted
per minute in a hash with a sketch of the latencies, which add up over processes and minutes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.scripts import ScriptPackage
from snakepit_bridge.rollouts.sketch import Buckets, merge, quantile

REPORT_INTERVAL_S = 5.0
"""Seconds between two reports of a process."""

KEPT_S = 86_400
"""Seconds for which minutes are kept."""

MINUTE_S = 60

_GONE_S = 3 * REPORT_INTERVAL_S
_LATENCY = "latency:"
_SCRIPTS = ScriptPackage("snakepit_bridge.delivery")


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """What a worker process reports of itself.

    Attributes:
        node: the Celery node that it belongs to.
        pid: its process id.
        pool: the node's pool.
        concurrency: how many predictions the process runs at a time.
        queues: what the node consumes from.
        in_flight: how many messages it processes now.
        started_at: Unix seconds at which it started.
        ended: predictions that have ended in it since, by outcome.
        newer_release: what it leaves to workers of a newer release; empty if it leaves nothing.
    """

    node: str
    pid: int
    pool: str
    concurrency: int
    queues: tuple[str, ...] = ()
    in_flight: int = 0
    started_at: float = 0.0
    ended: Mapping[str, int] = field(default_factory=dict[str, int])
    newer_release: str = ""


_REPORTED = frozenset(each.name for each in fields(ProcessReport))


@dataclass(frozen=True, slots=True)
class LiveProcess:
    """A live worker process.

    Attributes:
        report: its newest report.
        reported_at: when that was, in Unix seconds by the server's clock.
    """

    report: ProcessReport
    reported_at: float


@dataclass(frozen=True, slots=True)
class EndedPredictions:
    """The predictions that ended in a span of time.

    Attributes:
        at: when it began, in Unix seconds.
        outcomes: how many there are, by outcome: ``ok``, ``failed`` or ``cancelled``.
        latencies: a sketch of the milliseconds from submission to the end, of those that succeeded.
    """

    at: float = 0.0
    outcomes: Mapping[str, int] = field(default_factory=dict[str, int])
    latencies: Buckets = field(default_factory=dict[str, int])

    def latency_s(self, level: float) -> float | None:
        """Return a quantile of the latencies in seconds; None if there are none."""
        milliseconds = quantile(self.latencies, level)
        return None if milliseconds is None else milliseconds / 1000

    def fields(self) -> dict[str, int]:
        """Return the counts by their fields in Redis."""
        return {**self.outcomes, **{_LATENCY + bucket: count for bucket, count in self.latencies.items()}}


class ActivityStore:
    """The activity of one fleet in Redis.

    Args:
        connection: the Redis.
        namespace: prefix of every key.
    """

    def __init__(self, connection: RedisConnection, *, namespace: str = DEFAULT_NAMESPACE) -> None:
        self._connection = connection
        self._keys = FleetKeys(namespace)

    async def report(self, report: ProcessReport, ended: EndedPredictions) -> None:
        """Report a process, and what has ended in it since its last report.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        keys = (self._keys.live_processes, self._keys.process_reports, self._keys.activity_minute(ended.at))
        counts = [part for item in ended.fields().items() for part in item]
        process = f"{report.node}/{report.pid}"
        args = (process, json.dumps(asdict(report)), _GONE_S, KEPT_S, *counts)
        await self._connection.run(_SCRIPTS["report_activity"], keys, args)

    async def read_processes(self) -> list[LiveProcess]:
        """Return the live processes, sorted by node and process id.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        live_key, reports_key = self._keys.live_processes, self._keys.process_reports
        (seconds, micros), live, reports = cast(
            "tuple[Any, list[Any], Mapping[bytes, bytes]]",
            await self._connection.send_each(
                [("TIME",), ("ZRANGE", live_key, 0, -1, "WITHSCORES"), ("HGETALL", reports_key)]
            ),
        )
        since = int(seconds) + int(micros) / 1e6 - _GONE_S
        times = {name: float(at) for name, at in _pairs(live) if float(at) >= since and name in reports}
        found = [LiveProcess(_parse_report(reports[name]), at) for name, at in times.items()]
        return sorted(found, key=lambda process: (process.report.node, process.report.pid))

    async def read_minutes(self, since: float, until: float) -> list[EndedPredictions]:
        """Return what ended in each minute of a span, oldest first.

        Args:
            since: Unix seconds at which it begins.
            until: at which it ends.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        starts = range(int(since // MINUTE_S) * MINUTE_S, int(until) + 1, MINUTE_S)
        found = await self._connection.send_each([("HGETALL", self._keys.activity_minute(start)) for start in starts])
        return [_parse_minute(start, counts) for start, counts in zip(starts, found, strict=True)]


def merge_minutes(minutes: Sequence[EndedPredictions], width: int) -> list[EndedPredictions]:
    """Return wider spans.

    Args:
        minutes: what ended in each minute, oldest first.
        width: minutes of a span.
    """
    groups = [minutes[start : start + width] for start in range(0, len(minutes), width)]
    return [EndedPredictions(group[0].at, _sum(group), merge(each.latencies for each in group)) for group in groups]


def _sum(minutes: Iterable[EndedPredictions]) -> dict[str, int]:
    total: dict[str, int] = {}
    for minute in minutes:
        for outcome, count in minute.outcomes.items():
            total[outcome] = total.get(outcome, 0) + count
    return total


def _parse_minute(start: float, counts: Mapping[bytes, bytes]) -> EndedPredictions:
    found = {name.decode(): int(count) for name, count in counts.items()}
    latencies = {name.removeprefix(_LATENCY): count for name, count in found.items() if name.startswith(_LATENCY)}
    return EndedPredictions(start, {n: c for n, c in found.items() if not n.startswith(_LATENCY)}, latencies)


def _parse_report(text: bytes) -> ProcessReport:
    # A process of a newer release may report more than this one knows.
    record: dict[str, Any] = {name: value for name, value in json.loads(text).items() if name in _REPORTED}
    record["queues"] = tuple(record["queues"])
    return ProcessReport(**record)


def _pairs(flat: list[Any]) -> Iterable[tuple[bytes, Any]]:
    """Return the pairs of a reply that has them one after the other, or in lists of their own (RESP3)."""
    if flat and isinstance(flat[0], list | tuple):
        return [(name, score) for name, score in flat]
    return zip(flat[::2], flat[1::2], strict=True)
