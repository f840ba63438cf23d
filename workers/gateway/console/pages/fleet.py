"""The fleet: its worker processes, what waits for them, and what has ended lately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.variables.codec import encode_json
from workers.gateway.console.page import Page, Visit

SPANS_S = {"1 h": 3_600, "6 h": 21_600, "24 h": 86_400}
"""The spans that a visitor can choose, by their names."""

_MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class FleetFigures:
    """What the tiles show.

    Attributes:
        capacity, in_flight: of all processes.
        waiting, oldest_s: of all queues.
        per_minute: predictions that ended in the newest whole minute.
        failed_share: of those that ended in the whole span, 0 to 1; None if none did.
        p50_s, p95_s: of the newest span in which a prediction succeeded.
    """

    capacity: int
    in_flight: int
    waiting: int
    oldest_s: float | None
    per_minute: float
    failed_share: float | None
    p50_s: float | None
    p95_s: float | None


async def show_fleet(visit: Visit) -> Response:
    """Show the fleet."""
    return await _render(visit, "fleet.html.j2")


async def show_live_fleet(visit: Visit) -> Response:
    """Show the part of the page that moves."""
    return await _render(visit, "fleet_live.html.j2")


async def _render(visit: Visit, template: str) -> Response:
    name = visit.query.get("since", "")
    since_s = SPANS_S.get(name, SPANS_S["1 h"])
    status = await visit.call("Status.Get", pb.GetStatusRequest(since_s=since_s))
    return visit.render(
        template,
        fleet=status,
        figures=_figures(status),
        spans=SPANS_S,
        span=name if name in SPANS_S else "1 h",
        throughput=throughput_chart(status.ended),
        latency=latency_chart(status.ended),
    )


def throughput_chart(ended: Sequence[Any]) -> str:
    """Return the chart of what ended per minute, as JSON."""
    succeeded, failed, cancelled = (
        [getattr(span, name) * _MINUTE_S / span.seconds for span in ended]
        for name in ("succeeded", "failed", "cancelled")
    )
    series = [
        {"label": "succeeded", "colour": "--ok", "values": succeeded, "fill": True},
        {"label": "failed", "colour": "--bad", "values": failed},
        {"label": "cancelled", "colour": "--warn", "values": cancelled},
    ]
    return _chart(ended, "per minute", series)


def latency_chart(ended: Sequence[Any]) -> str:
    """Return the chart of the latencies, as JSON."""
    p50, p95 = ([getattr(span, name) if span.HasField(name) else None for span in ended] for name in ("p50_s", "p95_s"))
    series = [
        {"label": "p50", "colour": "--accent", "values": p50},
        {"label": "p95", "colour": "--warn", "values": p95},
    ]
    return _chart(ended, "s", series)


def _chart(ended: Sequence[Any], unit: str, series: list[dict[str, Any]]) -> str:
    times = [span.at.seconds for span in ended]
    return encode_json({"times": times, "unit": unit, "series": series}).decode()


def _figures(status: pb.FleetStatus) -> FleetFigures:
    ends = [span.succeeded + span.failed + span.cancelled for span in status.ended]
    failed, total = sum(span.failed for span in status.ended), sum(ends)
    # The newest span is still counted.
    whole = status.ended[-2] if len(status.ended) > 1 else None
    latest = next((span for span in reversed(status.ended) if span.HasField("p95_s")), None)
    waiting = [depth for depth in status.queues if depth.waiting]
    return FleetFigures(
        capacity=sum(process.concurrency for process in status.processes),
        in_flight=sum(process.in_flight for process in status.processes),
        waiting=sum(depth.waiting for depth in waiting),
        oldest_s=max((depth.oldest_s for depth in waiting if depth.HasField("oldest_s")), default=None),
        per_minute=0.0 if whole is None else ends[-2] * _MINUTE_S / whole.seconds,
        failed_share=failed / total if total else None,
        p50_s=None if latest is None else latest.p50_s,
        p95_s=None if latest is None else latest.p95_s,
    )


PAGES = (
    Page("/fleet", show_fleet, "Status.Get", menu="Fleet", all_sessions=True),
    Page("/fleet/live", show_live_fleet, "Status.Get", all_sessions=True, live=True),
)
