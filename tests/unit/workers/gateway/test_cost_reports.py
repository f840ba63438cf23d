"""Reports on costs: one at a time in a gateway, and refused by the field that is wrong before they count as calls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from snakepit_bridge.costs.report import build_report
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.access.authentication import UNRESTRICTED
from workers.gateway.api import costs
from workers.gateway.call import ClientCall
from workers.gateway.errors import MalformedError


class NoFleet:
    namespace = "dspex"
    connection = None


async def test_a_gateway_reads_one_report_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[int] = [0, 0]

    async def read_costs(*_: Any) -> Any:
        running[0] += 1
        running[1] = max(running)
        await asyncio.sleep(0)
        running[0] -= 1
        return build_report("program", {}, since=0, until=1)

    monkeypatch.setattr(costs, "read_costs", read_costs)
    reports = costs.CostReports(NoFleet())  # type: ignore[arg-type]
    calls = (reports.report(pb.CostReportRequest(), ClientCall(UNRESTRICTED)) for _ in range(5))
    assert [report.by for report in await asyncio.gather(*calls)] == ["program"] * 5
    assert running == [0, 1]


@pytest.mark.parametrize("since_s", [float("nan"), float("inf"), -1, 36 * 86_400])
def test_a_report_that_cannot_be_counts_as_no_call(since_s: float) -> None:
    with pytest.raises(MalformedError, match="since_s"):
        costs.count_days(pb.CostReportRequest(since_s=since_s))


@pytest.mark.parametrize(("since_s", "calls"), [(None, 1), (0, 1), (86_400, 1), (86_402, 2), (35 * 86_400, 35)])
def test_a_report_counts_as_one_call_for_each_day(since_s: float | None, calls: int) -> None:
    assert costs.count_days(pb.CostReportRequest(since_s=since_s)) == calls
