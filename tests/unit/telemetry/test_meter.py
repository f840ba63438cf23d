"""Meters: one call, the same numbers at both exits, and label sets of bounded number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.parser import text_string_to_metric_families

from snakepit_bridge.telemetry.instruments import OVERFLOW, LabelSets, Meter, MultiMeter
from snakepit_bridge.telemetry.metrics import (
    CATALOG,
    IN_FLIGHT,
    LATENCY,
    LM_INPUT_TOKENS,
    PREDICTIONS,
    Metric,
)
from snakepit_bridge.telemetry.otel_meter import OTelMeter
from snakepit_bridge.telemetry.prometheus_meter import PrometheusMeter, prometheus_name

EXPIRED = Metric("test.expired", "counter", "{message}", "Messages.")
STALENESS = Metric("test.staleness", "gauge", "s", "The stalest.", optional=("dspex.session",))
DEPTH = Metric("test.depth", "gauge", "{message}", "Messages.", ("queue", "priority"))
ENDED = {"dspex.program": "qa", "dspex.outcome": "ok", "dspex.session": "user-17"}


def scrape(meter: PrometheusMeter) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(meter.render().decode())
    return {
        (sample.name, tuple(sorted(value for value in sample.labels.values() if value))): sample.value
        for family in families
        for sample in family.samples
    }


def read(reader: InMemoryMetricReader) -> dict[tuple[str, tuple[str, ...]], Any]:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        (metric.name, tuple(sorted(map(str, (point.attributes or {}).values())))): point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


def test_both_exits_have_the_same_numbers() -> None:
    reader, label_sets = InMemoryMetricReader(), LabelSets()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    prometheus = PrometheusMeter(label_sets)
    meter = MultiMeter([prometheus, OTelMeter(provider.get_meter("test"), label_sets)])
    meter.add(PREDICTIONS, 2, ENDED)
    meter.add(IN_FLIGHT, 3)
    meter.add(IN_FLIGHT, -1)
    meter.record(LATENCY, 0.7, ENDED)
    meter.observe(DEPTH, lambda: [(5, {"queue": "predictions", "priority": "9"})])
    meter.observe(EXPIRED, lambda: [(7, {})])
    scraped, exported = scrape(prometheus), read(reader)
    provider.shutdown()
    assert scraped["dspex_predictions_total", ("ok", "qa")] == 2 == exported["dspex.predictions", ("ok", "qa")].value
    assert scraped["dspex_worker_in_flight", ()] == 2 == exported["dspex.worker.in_flight", ()].value
    depth = ("9", "predictions")
    assert scraped["test_depth", depth] == 5 == exported["test.depth", depth].value
    assert scraped["test_expired_total", ()] == 7 == exported["test.expired", ()].value
    latency = exported["dspex.prediction.latency", ("ok", "qa")]
    assert (latency.count, latency.sum) == (1, 0.7)
    assert tuple(latency.explicit_bounds) == LATENCY.buckets
    assert scraped["dspex_prediction_latency_seconds_bucket", ("1.0", "ok", "qa")] == 1
    assert scraped["dspex_prediction_latency_seconds_bucket", ("0.5", "ok", "qa")] == 0


def test_of_a_gauge_without_its_optional_label_the_largest_value_is_exported() -> None:
    def read_staleness() -> list[tuple[float, dict[str, str]]]:
        return [(value, {"dspex.session": name}) for name, value in (("a", 3.0), ("b", 9.0), ("c", 1.0))]

    without, with_sessions = PrometheusMeter(LabelSets()), PrometheusMeter(LabelSets(["dspex.session"]))
    for meter in (without, with_sessions):
        meter.observe(STALENESS, read_staleness)
    assert scrape(without)["test_staleness_seconds", ()] == 9.0
    assert scrape(with_sessions)["test_staleness_seconds", ("a",)] == 3.0
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    OTelMeter(provider.get_meter("test"), LabelSets()).observe(STALENESS, read_staleness)
    assert read(reader)["test.staleness", ()].value == 9.0
    provider.shutdown()


@pytest.mark.parametrize("process", ["worker", "gateway", "refresher"])
def test_a_process_shows_its_own_metrics_before_anything_is_recorded(process: Any) -> None:
    meter = PrometheusMeter(LabelSets(), process)
    families = {family.name for family in text_string_to_metric_families(meter.render().decode())}
    assert families == {prometheus_name(metric) for metric in CATALOG.values() if process in metric.processes}
    meter.add(IN_FLIGHT, 2)
    assert scrape(meter)["dspex_worker_in_flight", ()] == 2, "what another records as well is shown then"


def test_sessions_are_labels_only_where_a_setting_names_them() -> None:
    without, with_sessions = PrometheusMeter(LabelSets()), PrometheusMeter(LabelSets(["dspex.session"]))
    for meter in (without, with_sessions):
        meter.add(PREDICTIONS, 1, ENDED)
        meter.add(LM_INPUT_TOKENS, 9, ENDED)
    assert b"user-17" not in without.render()
    assert b'dspex_session="user-17"' in with_sessions.render()
    # It has no such label, whatever the setting says.
    assert not [line for line in with_sessions.render().splitlines() if b"tokens_total{" in line and b"user-17" in line]


def test_predictions_count_by_revision_where_a_setting_names_the_token() -> None:
    meter = PrometheusMeter(LabelSets(["dspex.token"]))
    for token in ("7.1", "7.2", "7.2"):
        meter.add(PREDICTIONS, 1, {**ENDED, "dspex.token": token})
    counts = {names: value for (name, names), value in scrape(meter).items() if name == "dspex_predictions_total"}
    assert counts == {("7.1", "ok", "qa"): 1, ("7.2", "ok", "qa"): 2}


def test_beyond_the_bound_new_names_become_one_and_outcomes_stay_apart() -> None:
    meter = PrometheusMeter(LabelSets(max_sets=3))
    for number in range(10):
        outcome = "ok" if number % 2 else "failed"
        meter.add(PREDICTIONS, 1, {"dspex.program": f"program-{number}", "dspex.outcome": outcome})
    counts = {names: value for (name, names), value in scrape(meter).items() if name == "dspex_predictions_total"}
    assert len(counts) == 5
    assert counts[tuple(sorted((OVERFLOW, "ok")))] == 4
    assert counts[tuple(sorted((OVERFLOW, "failed")))] == 3


def test_a_label_that_is_no_text_that_can_be_sent_breaks_no_scrape() -> None:
    meter = PrometheusMeter(LabelSets())
    meter.add(PREDICTIONS, 1, {"dspex.program": "\ud800" + "x" * 10_000, "dspex.outcome": "ok"})
    assert len(meter.render()) < 100_000
    assert b'dspex_outcome="ok"' in meter.render()


def test_each_metric_can_be_recorded_and_has_a_name_of_its_own_in_prometheus() -> None:
    meter = PrometheusMeter(LabelSets())
    for metric in CATALOG.values():
        labels = dict.fromkeys(metric.labels, "x")
        if metric.kind == "histogram":
            assert metric.buckets == tuple(sorted(metric.buckets))
            meter.record(metric, 1.0, labels)
        else:
            meter.add(metric, 1, labels)
    assert len({prometheus_name(metric) for metric in CATALOG.values()}) == len(CATALOG)
    assert len(list(text_string_to_metric_families(meter.render().decode()))) == len(CATALOG)


def test_the_meter_that_is_off_does_nothing() -> None:
    meter = Meter()
    meter.add(PREDICTIONS)
    meter.record(LATENCY, 1.0)
    meter.observe(DEPTH, lambda: pytest.fail("read"))
    assert not meter.enabled


FORKED = """
import os, sys
from snakepit_bridge.telemetry.instruments import LabelSets
from snakepit_bridge.telemetry.metrics import IN_FLIGHT, LATENCY, PREDICTIONS
from snakepit_bridge.telemetry.prometheus_meter import PrometheusMeter
from prometheus_client.multiprocess import mark_process_dead
ended = {"dspex.program": "qa", "dspex.outcome": "ok"}
children = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        meter = PrometheusMeter(LabelSets())
        meter.add(PREDICTIONS, 2, ended)
        meter.add(IN_FLIGHT, 1)
        meter.record(LATENCY, 0.2, ended)
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
mark_process_dead(children[0], os.environ["PROMETHEUS_MULTIPROC_DIR"])
print(PrometheusMeter(LabelSets()).render().decode())
"""


def test_what_forked_processes_record_is_scraped_at_their_parent(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    printed = subprocess.run(
        [sys.executable, "-c", FORKED], env=environment, capture_output=True, text=True, check=True
    )
    assert 'dspex_predictions_total{dspex_outcome="ok",dspex_program="qa",error_type=""} 6.0' in printed.stdout
    assert "dspex_prediction_latency_seconds_count" in printed.stdout
    # The gauges of a process that was forgotten don't count any more; its counters do.
    assert "dspex_worker_in_flight 2.0" in printed.stdout
