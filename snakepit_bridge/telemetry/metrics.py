"""Every metric of the fleet: its name, unit and labels. ``docs/reference/telemetry.md`` is held equal to this table.

Names of ``gen_ai.*``, ``messaging.*`` and ``db.*`` are those of OpenTelemetry's semantic conventions (GenAI v0.1.0,
messaging and database); for what they have no name for, the fleet's own begin with ``dspex.``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_LM_SECONDS = tuple(0.01 * 2**power for power in range(14))  # 0.01 to 81.92, as the GenAI conventions have it
_LONG_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0)
_SHORT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_AGE_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 86_400.0, 604_800.0)


OPEN_LABELS = frozenset({"dspex.program", "dspex.session", "gen_ai.request.model", "messaging.destination.name"})
"""Labels whose values are names that users choose."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        name: its OpenTelemetry name; Prometheus has it with underscores, its unit, and ``_total`` for a counter.
        kind: what it is.
        unit: its unit as UCUM has it: ``s``, ``By``, ``{token}``.
        description: one sentence.
        labels: the names of its labels.
        optional: labels that a process only has where a setting names them, as their values aren't bounded.
        buckets: upper bounds of a histogram's buckets.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


CATALOG: dict[str, Metric] = {}
"""The metrics by name."""


def _declare(metric: Metric) -> Metric:
    assert metric.name not in CATALOG, metric.name
    CATALOG[metric.name] = metric
    return metric


def _counter(name: str, unit: str, description: str, *labels: str, optional: tuple[str, ...] = ()) -> Metric:
    return _declare(Metric(name, "counter", unit, description, labels, optional))


def _gauge(name: str, unit: str, description: str, *labels: str) -> Metric:
    return _declare(Metric(name, "gauge", unit, description, labels))


def _histogram(
    name: str,
    unit: str,
    description: str,
    *labels: str,
    buckets: tuple[float, ...],
    optional: tuple[str, ...] = (),
) -> Metric:
    return _declare(Metric(name, "histogram", unit, description, labels, optional, buckets))


_LM = ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model")
_SESSION = ("dspex.session",)

# ------------------------------------------------------------------------------------------------------------ LM calls

LM_DURATION = _histogram(
    "gen_ai.client.inference.duration", "s", "Duration of an LM call, retries not included.",
    *_LM, "error.type", buckets=_LM_SECONDS,
)  # fmt: skip
LM_INPUT_TOKENS = _counter("gen_ai.client.inference.usage.input_tokens", "{token}", "Input tokens.", *_LM)
LM_OUTPUT_TOKENS = _counter("gen_ai.client.inference.usage.output_tokens", "{token}", "Output tokens.", *_LM)
LM_CACHED_TOKENS = _counter(
    "gen_ai.client.inference.usage.cache_read.input_tokens", "{token}", "Input tokens read from the provider's cache.",
    *_LM,
)  # fmt: skip
LM_REASONING_TOKENS = _counter(
    "gen_ai.client.inference.usage.reasoning.output_tokens", "{token}", "Output tokens spent on reasoning.", *_LM
)
LM_RETRIES = _counter(
    "dspex.lm.retries", "{call}", "LM calls that failed and were retried.", "dspex.profile", "error.type"
)
LM_FALLBACKS = _counter("dspex.lm.fallbacks", "{call}", "LM calls that a fallback profile answered.", "dspex.profile")
OPEN_CIRCUITS = _gauge(
    "dspex.lm.open_circuits", "{circuit}", "Circuit breakers of LM profiles that are open, over the processes.",
    "dspex.profile",
)  # fmt: skip
CACHE_HITS = _counter("dspex.cache.hits", "{call}", "LM calls that the response cache answered.", "dspex.program")
CACHE_SHARED = _counter(
    "dspex.cache.shared", "{call}", "LM calls that waited for an identical call of another prediction.", "dspex.program"
)

# --------------------------------------------------------------------------------------------------------- predictions

MESSAGES_SENT = _counter(
    "messaging.client.sent.messages", "{message}", "Messages sent to the broker.",
    "messaging.system", "messaging.destination.name", "messaging.operation.name", "error.type",
)  # fmt: skip
MESSAGES_CONSUMED = _counter(
    "messaging.client.consumed.messages", "{message}", "Messages that a worker began to process.",
    "messaging.system", "messaging.destination.name", "messaging.operation.name",
)  # fmt: skip
PROCESS_DURATION = _histogram(
    "messaging.process.duration", "s", "Duration of processing a message, the commit of its result included.",
    "messaging.system", "messaging.destination.name", "messaging.operation.name", "error.type", buckets=_LONG_SECONDS,
)  # fmt: skip
PREDICTIONS = _counter(
    "dspex.predictions", "{prediction}",
    "Predictions whose final state a worker committed, by outcome (ok, failed, cancelled).",
    "dspex.program", "dspex.outcome", "error.type", optional=_SESSION,
)  # fmt: skip
START_LATENCY = _histogram(
    "dspex.prediction.start_latency", "s",
    "Time from submit to the first start on a worker, waits for rate limits included.",
    "dspex.program", "dspex.priority", buckets=_LONG_SECONDS, optional=_SESSION,
)  # fmt: skip
LATENCY = _histogram(
    "dspex.prediction.latency", "s", "Time from submit to the committed result.",
    "dspex.program", "dspex.outcome", buckets=_LONG_SECONDS, optional=_SESSION,
)  # fmt: skip
STALENESS = _histogram(
    "dspex.prediction.staleness", "s", "Time since the authority last confirmed the variables of a prediction.",
    "dspex.program", buckets=_AGE_SECONDS, optional=_SESSION,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- workers

IN_FLIGHT = _gauge("dspex.worker.in_flight", "{task}", "Tasks that a worker process runs.")
CAPACITY = _gauge("dspex.worker.capacity", "{task}", "Tasks that a worker process can run at a time.")
LOOP_LAG = _histogram("dspex.worker.loop_lag", "s", "How late a timer of the event loop fires.", buckets=_SHORT_SECONDS)
