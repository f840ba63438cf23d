"""Switch this process's telemetry on, as OpenTelemetry's environment variables say, and off again."""

from __future__ import annotations

import atexit
import importlib.util
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.telemetry import TELEMETRY, Meter, Tracer
from snakepit_bridge.telemetry.instruments import LabelSets, MultiMeter
from snakepit_bridge.telemetry.metrics import CATALOG, Process

_EXPORTERS = {
    "OTEL_TRACES_EXPORTER": frozenset({"otlp", "none"}),
    "OTEL_METRICS_EXPORTER": frozenset({"otlp", "prometheus", "none"}),
}
_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CAPTURING = frozenset({"span_only", "span_and_event", "true"})
# A collector that doesn't answer must not hold up the end of a process.
_STOP_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class TelemetryOptions:
    """What a process records, and where it goes. OpenTelemetry's SDK reads the rest of its variables itself.

    Attributes:
        traces: whether spans are exported over OTLP.
        otlp_metrics: whether metrics are exported over OTLP.
        prometheus: whether metrics can be scraped.
        captures_content: whether spans hold prompts and answers.
        labels: optional labels that metrics have in this process.
        resource: attributes of this process, such as ``service.name``.
        process: the kind of this process.
    """

    traces: bool = False
    otlp_metrics: bool = False
    prometheus: bool = False
    captures_content: bool = False
    labels: tuple[str, ...] = ()
    resource: Mapping[str, str] = field(default_factory=dict[str, str])
    process: Process = "worker"

    @classmethod
    def from_environment(
        cls,
        process: Process,
        *,
        labels: tuple[str, ...] = (),
        resource: Mapping[str, str] | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> Self:
        """Read OpenTelemetry's own variables; everything is off unless one of them names an exporter.

        Args:
            process: the kind of this process; ``OTEL_SERVICE_NAME`` may give it another name than ``dspex-PROCESS``.
            labels: optional labels of metrics.
            resource: more attributes of the process.
            environment: the environment variables.

        Raises:
            ConfigurationError: a variable names an exporter that isn't supported.
        """
        traces, metrics = (_read_exporters(name, environment) for name in _EXPORTERS)
        if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
            traces, metrics = frozenset[str](), frozenset[str]()
        return cls(
            "otlp" in traces,
            "otlp" in metrics,
            "prometheus" in metrics,
            environment.get(_CAPTURE, "").lower() in _CAPTURING,
            labels,
            _merge_resource({"service.name": f"dspex-{process}", **(resource or {})}, environment),
            process,
        )

    @property
    def is_on(self) -> bool:
        """Whether anything is recorded."""
        return self.traces or self.otlp_metrics or self.prometheus


def _merge_resource(own: Mapping[str, str], environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return our attributes, but for those that OpenTelemetry's variables give: the SDK adds these."""
    given = {pair.partition("=")[0].strip() for pair in environment.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")}
    if environment.get("OTEL_SERVICE_NAME"):
        given.add("service.name")
    return {name: value for name, value in own.items() if name not in given}


def _read_exporters(name: str, environment: Mapping[str, str]) -> frozenset[str]:
    exporters = frozenset(part.strip().lower() for part in environment.get(name, "").split(",") if part.strip())
    if unknown := exporters - _EXPORTERS[name]:
        raise ConfigurationError(
            f"{name} names {', '.join(sorted(unknown))}, which isn't supported. "
            f"Use {', '.join(sorted(_EXPORTERS[name]))}."
        )
    return exporters - {"none"}


class _Providers:
    """What :func:`start` has made: the SDK's providers, which :func:`stop` shuts down, and Prometheus's registry."""

    def __init__(self) -> None:
        self.running: list[Any] = []
        self.registry: Any = None
        self.is_on = False


_PROVIDERS = _Providers()


def start(options: TelemetryOptions) -> None:
    """Switch this process's telemetry on, unless it is. After a fork each process starts its own.

    Raises:
        ConfigurationError: the packages of the extra ``telemetry`` aren't installed.
    """
    if not options.is_on or _PROVIDERS.is_on:
        return
    check(options)
    _PROVIDERS.is_on = True
    # A process may end without its own shutdown; what was recorded is still exported.
    atexit.register(stop)
    if options.traces:
        TELEMETRY.tracer = _start_tracer(options)
    label_sets, meters = LabelSets(options.labels), list[Meter]()
    if options.prometheus:
        from snakepit_bridge.telemetry.prometheus_meter import PrometheusMeter

        scraped = PrometheusMeter(label_sets, options.process)
        _PROVIDERS.registry = scraped.registry
        meters.append(scraped)
    if options.otlp_metrics:
        meters.append(_start_otlp_meter(options, label_sets))
    if meters:
        TELEMETRY.meter = meters[0] if len(meters) == 1 else MultiMeter(meters)


def reset() -> None:
    """Forget what the parent of a forked process has started, so that :func:`start` starts anew.

    A child that replaces another is forked from a parent which has started; the threads of its exporters aren't there.
    """
    TELEMETRY.tracer, TELEMETRY.meter = Tracer(), Meter()
    _PROVIDERS.__init__()


def check(options: TelemetryOptions) -> None:
    """Check that what the options switch on can be.

    Raises:
        ConfigurationError: a package is missing, a label isn't one that a setting may add, or the protocol of OTLP
            isn't supported.
    """
    optional = {name for metric in CATALOG.values() for name in metric.optional}
    if unknown := set(options.labels) - optional:
        raise ConfigurationError(
            f"No metric has an optional label {', '.join(sorted(unknown))}; there are {', '.join(sorted(optional))}."
        )
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    if (options.traces or options.otlp_metrics) and protocol != "http/protobuf":
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}, which isn't supported. Use http/protobuf."
        )
    needed = {"prometheus_client"} if options.prometheus else set[str]()
    if options.traces or options.otlp_metrics:
        needed |= {"opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"}
    missing = sorted(name for name in needed if not _is_installed(name))
    if missing:
        raise ConfigurationError(
            f"Telemetry is switched on, but {', '.join(missing)} isn't installed. Run "
            "`pip install 'dspex-fleet[telemetry]'`, or unset OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER."
        )


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _start_tracer(options: TelemetryOptions) -> Tracer:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from snakepit_bridge.telemetry.exporters import LoggedSpanExporter
    from snakepit_bridge.telemetry.otel_tracer import OTelTracer

    provider = TracerProvider(resource=Resource.create(options.resource), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(LoggedSpanExporter()))
    _PROVIDERS.running.append(provider)
    return OTelTracer(provider.get_tracer("dspex-fleet"), captures_content=options.captures_content)


def _start_otlp_meter(options: TelemetryOptions, label_sets: LabelSets) -> Meter:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    from snakepit_bridge.telemetry.exporters import LoggedMetricExporter
    from snakepit_bridge.telemetry.otel_meter import OTelMeter

    reader = PeriodicExportingMetricReader(LoggedMetricExporter())
    provider = MeterProvider([reader], Resource.create(options.resource), shutdown_on_exit=False)
    _PROVIDERS.running.append(provider)
    return OTelMeter(provider.get_meter("dspex-fleet"), label_sets)


def prometheus_registry() -> Any:
    """Return the registry that Prometheus scrapes, None if metrics aren't scraped."""
    return _PROVIDERS.registry


def instrument(tracer_provider: Any = None, meter_provider: Any = None) -> None:
    """Record this process's use of the client with OpenTelemetry, for an application that has set OpenTelemetry up.

    Args:
        tracer_provider: the application's; without it the global one.
        meter_provider: the application's; without it the global one.

    Raises:
        ConfigurationError: OpenTelemetry isn't installed.
    """
    if not _is_installed("opentelemetry"):
        raise ConfigurationError("OpenTelemetry isn't installed. Run `pip install 'dspex-fleet[telemetry]'`.")
    from opentelemetry import metrics, trace

    from snakepit_bridge.telemetry.otel_meter import OTelMeter
    from snakepit_bridge.telemetry.otel_tracer import OTelTracer

    TELEMETRY.tracer = OTelTracer((tracer_provider or trace.get_tracer_provider()).get_tracer("dspex-fleet"))
    TELEMETRY.meter = OTelMeter((meter_provider or metrics.get_meter_provider()).get_meter("dspex-fleet"), LabelSets())


def stop(timeout_s: float = _STOP_TIMEOUT_S) -> None:
    """Switch it off, and export what was recorded before.

    Args:
        timeout_s: seconds after which a collector that doesn't answer is given up.
    """
    TELEMETRY.tracer, TELEMETRY.meter = Tracer(), Meter()
    providers = _PROVIDERS.running
    _PROVIDERS.__init__()
    threads = [threading.Thread(target=provider.shutdown, daemon=True) for provider in providers]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError:  # no thread can start while the interpreter shuts down
        for provider in providers:
            provider.shutdown()
        return
    until = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
