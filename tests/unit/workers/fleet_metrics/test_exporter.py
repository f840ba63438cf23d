"""What is exported of the fleet's state: what was read last, and nothing that is too old."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.delivery.backlog import Backlog, QueueDepth
from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import (
    CATALOG,
    LAGGING_PROCESSES,
    LEASES_EXPIRED,
    LIMIT_ALLOWED,
    LIMIT_USED,
    LIVE_WORKERS,
    MESSAGES_DEAD,
    MESSAGES_DELAYED,
    MESSAGES_HELD,
    MESSAGES_PARKED,
    QUEUE_AGE,
    QUEUE_DEMAND,
    QUEUE_DEPTH,
    REVISION_LAG,
    SESSION_STALENESS,
    STALE_SESSIONS,
)
from tasks.rate_limits.usage import LimitsInUse, LimitUse
from tests.harness.meter import RecordedMeter, recorded_meter
from tests.harness.waiting import eventually
from workers.fleet_metrics import FleetMetrics, exporter
from workers.session_reports import SessionReport, SessionsReport
from workers.telemetry import start_fleet_metrics

BACKLOG = Backlog(
    [QueueDepth("predictions", "6 to 8", 3, 4.5), QueueDepth("predictions", "0 to 2", 1, None)], 7, 5, 6, 8
)
LIMITS = LimitsInUse([LimitUse("demo", "concurrency", 4.0, 1.0)], {"other": 2})
SESSIONS = SessionsReport([SessionReport("a", 9.0, True, 2, 3), SessionReport("b", None)], 4, 1)


class Source:
    """A part of the fleet's state, which can be away."""

    def __init__(self, value: object) -> None:
        self.value = value
        self.reads = 0

    async def __call__(self, *_: Any, **__: Any) -> Any:
        self.reads += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


Export = Callable[..., Awaitable[RecordedMeter]]


@pytest.fixture
async def export(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Export these parts, and return the meter once each was read."""
    running: list[asyncio.Task[None]] = []
    with recorded_meter() as meter:

        async def run(backlog: Source, limits: Source, sessions: Source) -> RecordedMeter:
            monkeypatch.setattr(exporter, "read_fleet_backlog", backlog)
            monkeypatch.setattr(exporter, "read_limits", limits)
            monkeypatch.setattr(exporter.SessionsReader, "read", sessions)
            monkeypatch.setattr(exporter, "_INTERVAL_S", 0.02)
            # A busy machine takes longer than three such intervals for the next read.
            monkeypatch.setattr(exporter, "_KEPT_INTERVALS", math.inf)
            running.append(asyncio.create_task(FleetMetrics(Fleet("redis://127.0.0.1:9")).run()))

            async def read() -> bool:
                return min(part.reads for part in (backlog, limits, sessions)) > 0

            await eventually(read, "each part to be read")
            return meter

        yield run
    for task in running:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_each_part_is_exported_with_its_labels(export: Export) -> None:
    meter = await export(Source(BACKLOG), Source(LIMITS), Source(SESSIONS))
    assert meter.now(QUEUE_DEPTH) == {("predictions", "6-8"): 3.0, ("predictions", "0-2"): 1.0}
    assert meter.now(QUEUE_AGE) == {("predictions", "6-8"): 4.5}
    assert meter.now(QUEUE_DEMAND) == {("predictions",): 4.0}
    assert [meter.now(metric)[()] for metric in (MESSAGES_HELD, MESSAGES_DELAYED, MESSAGES_DEAD, LEASES_EXPIRED)] == [
        5, 6, 7, 8
    ]  # fmt: skip
    assert meter.now(MESSAGES_PARKED) == {("demo",): 0.0, ("other",): 2.0}
    assert meter.now(LIMIT_ALLOWED) == {("demo", "concurrency"): 4.0}
    assert meter.now(LIMIT_USED) == {("demo", "concurrency"): 1.0}
    assert meter.now(LIVE_WORKERS) == {(): 4.0}
    assert meter.now(SESSION_STALENESS) == {("a",): 9.0}
    assert meter.now(STALE_SESSIONS) == {(): 1.0}
    assert (meter.now(LAGGING_PROCESSES), meter.now(REVISION_LAG)) == (
        {("a",): 2.0, ("b",): 0.0}, {("a",): 3.0, ("b",): 0.0}
    )  # fmt: skip


async def test_what_the_broker_does_not_tell_is_not_exported(export: Export) -> None:
    meter = await export(Source(Backlog(dead=1)), Source(LIMITS), Source(SESSIONS))
    assert [meter.now(metric) for metric in (MESSAGES_HELD, MESSAGES_DELAYED, LEASES_EXPIRED, QUEUE_DEMAND)] == [{}] * 4
    assert meter.now(MESSAGES_DEAD) == {(): 1}


async def test_every_metric_that_both_export_is_observed(export: Export) -> None:
    meter = await export(Source(BACKLOG), Source(LIMITS), Source(SESSIONS))
    both = {metric.name for metric in CATALOG.values() if metric.processes == ("gateway", "refresher")}
    assert both == meter.observed.keys()


async def test_a_part_that_is_away_is_logged_once_and_exported_no_more(
    export: Export, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    backlog = Source(BACKLOG)
    meter = await export(backlog, Source(LIMITS), Source(SESSIONS))
    backlog.value = StoreUnavailableError("redis://", "it is away")
    monkeypatch.setattr(exporter, "_KEPT_INTERVALS", 3)

    async def gone() -> bool:
        return not meter.now(QUEUE_DEPTH)

    with caplog.at_level(logging.WARNING):
        await eventually(gone, "the old depth to be dropped")
        reads = backlog.reads

        async def goes_on() -> bool:
            return backlog.reads > reads + 2

        await eventually(goes_on, "further tries")
    assert len([record for record in caplog.records if "its queues" in record.getMessage()]) == 1

    async def others_go_on() -> bool:
        return bool(meter.now(LIMIT_ALLOWED))

    await eventually(others_go_on, "the other parts")
    backlog.value = BACKLOG

    async def back() -> bool:
        return bool(meter.now(QUEUE_DEPTH))

    await eventually(back, "the depth to be back")


async def test_switched_off_nothing_is_read() -> None:
    assert not TELEMETRY.meter.enabled
    assert start_fleet_metrics(lambda: pytest.fail("no fleet is needed")) is None
    await FleetMetrics(Fleet("redis://127.0.0.1:9")).run()
