"""Switching telemetry on by OpenTelemetry's variables; off, it imports and starts nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.telemetry import TELEMETRY, Meter, Tracer, setup
from snakepit_bridge.telemetry.metrics import PREDICTIONS
from snakepit_bridge.telemetry.setup import TelemetryOptions

# Nobody listens there.
AWAY = "http://127.0.0.1:9"


def read(**environment: str) -> TelemetryOptions:
    return TelemetryOptions.from_environment("worker", environment=environment)


def test_everything_is_off_unless_a_variable_names_an_exporter() -> None:
    assert not read().is_on
    assert not read(OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="").is_on
    assert not read(OTEL_TRACES_EXPORTER="otlp", OTEL_SDK_DISABLED="true").is_on


def test_the_variables_of_opentelemetry_say_what_is_on() -> None:
    options = read(
        OTEL_TRACES_EXPORTER="otlp",
        OTEL_METRICS_EXPORTER="otlp, prometheus",
        OTEL_SERVICE_NAME="answers",
        OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="SPAN_ONLY",
    )
    assert (options.traces, options.otlp_metrics, options.prometheus, options.captures_content) == (True,) * 4
    assert "service.name" not in options.resource, "the SDK reads it"
    assert not read(OTEL_TRACES_EXPORTER="otlp").captures_content


def test_an_exporter_that_is_not_supported_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_EXPORTER names zipkin.*Use none, otlp"):
        read(OTEL_TRACES_EXPORTER="zipkin")


def test_a_missing_package_is_named_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_is_installed", lambda name: name != "prometheus_client")
    with pytest.raises(ConfigurationError, match=r"prometheus_client isn't installed.*dspex-fleet\[telemetry\]"):
        setup.start(TelemetryOptions(prometheus=True))


def test_what_the_resource_variable_gives_is_left_to_it() -> None:
    ours = {"service.instance.id": "host:1"}
    given = {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=prod, service.instance.id=pod-7"}
    options = TelemetryOptions.from_environment("worker", resource=ours, environment=given)
    assert options.resource == {"service.name": "dspex-worker"}
    assert read().resource == {"service.name": "dspex-worker"}


def test_a_label_that_no_metric_may_have_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"No metric has an optional label dspex\.user"):
        setup.check(TelemetryOptions(prometheus=True, labels=("dspex.user",)))


def test_another_protocol_than_http_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigurationError, match="grpc, which isn't supported"):
        setup.check(TelemetryOptions(traces=True))


def test_starting_twice_starts_once() -> None:
    setup.start(TelemetryOptions(prometheus=True))
    meter = TELEMETRY.meter
    setup.start(TelemetryOptions(prometheus=True))
    assert TELEMETRY.meter is meter


def test_starting_and_stopping_switches_on_and_off() -> None:
    setup.start(TelemetryOptions(prometheus=True))
    TELEMETRY.meter.add(PREDICTIONS)
    assert TELEMETRY.meter.enabled
    setup.stop()
    assert (type(TELEMETRY.meter), type(TELEMETRY.tracer)) == (Meter, Tracer)


def test_a_collector_that_is_away_is_logged_once_and_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", AWAY)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.05")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    setup.start(TelemetryOptions(traces=True, resource={"service.name": "test"}))
    for _ in range(3):
        with TELEMETRY.tracer.span("one"):
            pass
    setup.stop(5)
    messages = [record.getMessage() for record in caplog.records if "collector" in record.getMessage()]
    assert messages == [
        f"The collector at {AWAY}/v1/traces doesn't accept spans; what it misses is dropped, predictions go on"
    ]


UNUSED = """
import json, sys, threading
import snakepit_bridge.client.fleet, tasks.predict, workers.gateway.service, workers.refresher.service
print(json.dumps([sorted(sys.modules), threading.active_count()]))
"""


def test_switched_off_no_exporter_is_imported_and_no_thread_runs() -> None:
    printed = subprocess.run([sys.executable, "-c", UNUSED], capture_output=True, text=True, check=True)
    modules, threads = json.loads(printed.stdout.splitlines()[-1])
    used = {name.partition(".")[2] for name in modules if name.startswith("snakepit_bridge.telemetry")}
    assert used <= {"", "telemetry", "telemetry.instruments", "telemetry.metrics", "telemetry.setup"}
    # redis-py imports OpenTelemetry's API and a part of its SDK where they are installed.
    assert not [name for name in modules if name.startswith(("prometheus_client", "opentelemetry.exporter"))]
    assert not [name for name in modules if name.startswith("workers.fleet_metrics")]
    assert threads == 1
