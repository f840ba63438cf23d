"""The dashboards that ship show data: every query of theirs is asked of a Prometheus that has scraped the demo."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.cluster import free_ports_in_a_row
from tests.harness.preloaded import run_preloaded
from tests.harness.prometheus import Prometheus, prometheus

ROOT = Path(__file__).parents[2]
OBSERVE = ROOT / "deploy" / "observe"
DASHBOARDS = sorted((OBSERVE / "grafana" / "dashboards").glob("*.json"))
_WORKERS = 2


def queries() -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each query."""
    for dashboard in DASHBOARDS:
        for panel in json.loads(dashboard.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                yield f"{dashboard.stem}: {panel['title']} {target['refId']}", target["expr"]


@dataclass(frozen=True)
class Scraped:
    """A Prometheus that has scraped the demo, and when the demo ran, in Unix seconds."""

    prometheus: Prometheus
    start: float
    end: float


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Generator[Scraped]:
    folder = tmp_path_factory.mktemp("scraped")
    ports = free_ports_in_a_row(_WORKERS + 1)
    jobs = {"dspex-worker": ports[:_WORKERS], "dspex-refresher": ports[_WORKERS:]}
    environment = {
        **os.environ,
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(ports[0]),
    }
    command = [sys.executable, "-m", "snakepit_bridge.cli", "demo", "--out", str(folder), "--workers", str(_WORKERS)]
    # Few at a time, so that it lasts for some readings of the state of the fleet.
    command += ["--in-flight", "2"]
    with prometheus(folder, jobs, OBSERVE / "rules.yml") as server:
        start = time.time()
        done = run_preloaded(command, cwd=ROOT, env=environment, timeout=150)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Scraped(server, start, time.time())


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("place", "query"), [pytest.param(*each, id=each[0]) for each in queries()])
def test_a_query_of_a_dashboard_returns_data_of_the_demo(scraped: Scraped, place: str, query: str) -> None:
    expression = query.replace("$__rate_interval", "5s")
    assert scraped.prometheus.query(expression, scraped.start, scraped.end), f"{place}: no data for {query}"


@pytest.mark.timeout(240)
def test_the_queries_count_what_the_demo_did(scraped: Scraped) -> None:
    def most(expression: str) -> float:
        return max(scraped.prometheus.query(expression, scraped.start, scraped.end))

    questions = len((ROOT / "examples" / "questions.jsonl").read_text(encoding="utf-8").splitlines())
    assert most('sum(dspex_predictions_total{dspex_outcome="ok"})') <= questions
    assert most('sum(dspex_predictions_total{dspex_outcome="ok"})') > questions / 2
    assert most("max(dspex_fleet_workers)") == _WORKERS
    assert most("max(dspex_fleet_refreshers)") == 1
    assert most("sum(dspex_worker_in_flight)") > 0
    assert not {"FleetDeadMessages", "FleetBudgetBurnFast"} & scraped.prometheus.alerts().keys()
