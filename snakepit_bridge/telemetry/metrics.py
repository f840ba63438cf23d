"""Every metric of the fleet: its name, unit and labels. ``docs/reference/telemetry.md`` is held equal to this table.

Names of ``gen_ai.*``, ``messaging.*``, ``db.*``, ``rpc.*`` and ``http.*`` are those of OpenTelemetry's semantic
conventions; for what they have no name for, the fleet's own begin with ``dspex.``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

_LM_SECONDS = tuple(0.01 * 2**power for power in range(14))  # 0.01 to 81.92, as the GenAI conventions have it
_LONG_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0)
_SHORT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_AGE_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 86_400.0, 604_800.0)
_REDIS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
# As the conventions of HTTP and RPC have it.
_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

Process = Literal["worker", "gateway", "refresher", "client"]
"""A kind of process: a worker with its children, a gateway, a refresher, or an application with the client."""

_FLEET: tuple[Process, ...] = ("gateway", "refresher")
_SERVERS: tuple[Process, ...] = ("worker", "gateway", "refresher")

OPEN_LABELS = frozenset({
    "dspex.program", "dspex.session", "dspex.token", "gen_ai.agent.name", "gen_ai.request.model", "gen_ai.tool.name",
    "messaging.destination.name",
})  # fmt: skip
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
        processes: the kinds of processes that export it.
        rare: whether it only appears with an event that ordinary traffic doesn't have, such as an error.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    processes: tuple[Process, ...] = ("worker",)
    rare: bool = False


CATALOG: dict[str, Metric] = {}
"""The metrics by name."""


def _declare(metric: Metric) -> Metric:
    assert metric.name not in CATALOG, metric.name
    CATALOG[metric.name] = metric
    return metric


def _counter(name: str, unit: str, description: str, *labels: str, **options: Any) -> Metric:
    return _declare(Metric(name, "counter", unit, description, labels, **options))


def _gauge(name: str, unit: str, description: str, *labels: str, **options: Any) -> Metric:
    return _declare(Metric(name, "gauge", unit, description, labels, **options))


def _histogram(name: str, unit: str, description: str, *labels: str, **options: Any) -> Metric:
    return _declare(Metric(name, "histogram", unit, description, labels, **options))


_LM = ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model")
_SESSION = ("dspex.session",)

# ------------------------------------------------------------------------------------------------------------- LM calls

LM_DURATION = _histogram(
    "gen_ai.client.inference.duration", "s", "Duration of an LM call, retries not included.",
    *_LM, "error.type", buckets=_LM_SECONDS,
)  # fmt: skip
LM_FIRST_CHUNK = _histogram(
    "gen_ai.client.inference.time_to_first_chunk", "s", "Time from a streamed LM call to its first chunk.",
    *_LM, buckets=_LM_SECONDS,
)  # fmt: skip
LM_INPUT_TOKENS = _counter("gen_ai.client.inference.usage.input_tokens", "{token}", "Input tokens.", *_LM)
LM_OUTPUT_TOKENS = _counter("gen_ai.client.inference.usage.output_tokens", "{token}", "Output tokens.", *_LM)
LM_CACHED_TOKENS = _counter(
    "gen_ai.client.inference.usage.cache_read.input_tokens", "{token}", "Input tokens read from the provider's cache.",
    *_LM, rare=True,
)  # fmt: skip
LM_REASONING_TOKENS = _counter(
    "gen_ai.client.inference.usage.reasoning.output_tokens", "{token}", "Output tokens spent on reasoning.",
    *_LM, rare=True,
)  # fmt: skip
LM_RETRIES = _counter(
    "dspex.lm.retries", "{call}", "LM calls that failed and were retried.", "dspex.profile", "error.type", rare=True
)
LM_FALLBACKS = _counter(
    "dspex.lm.fallbacks", "{call}", "LM calls that a fallback profile answered.", "dspex.profile", rare=True
)
COST = _counter(
    "dspex.cost", "{USD}",
    "Money for LM calls when they are answered, those of predictions that fail or run again included.",
    "dspex.program", "dspex.profile", optional=_SESSION, rare=True,
)  # fmt: skip
UNPRICED_CALLS = _counter(
    "dspex.lm.unpriced_calls", "{call}", "LM calls whose cost isn't known, as the profile has no price or the "
    "provider reported no usage.", "dspex.profile", rare=True,
)  # fmt: skip
OPEN_CIRCUITS = _gauge(
    "dspex.lm.open_circuits", "{circuit}", "Circuit breakers of LM profiles that are open, over the processes.",
    "dspex.profile", rare=True,
)  # fmt: skip
CACHE_HITS = _counter(
    "dspex.cache.hits", "{call}", "LM calls that the response cache answered.", "dspex.program", rare=True
)
CACHE_SHARED = _counter(
    "dspex.cache.shared", "{call}", "LM calls that waited for an identical call of another prediction.",
    "dspex.program", rare=True,
)  # fmt: skip
JOURNAL_REPLAYED = _counter(
    "dspex.journal.replayed", "{call}", "LM calls that an earlier delivery of the prediction had made.",
    "dspex.program", rare=True,
)  # fmt: skip
PROGRAM_DURATION = _histogram(
    "gen_ai.invoke_agent.duration", "s", "Duration of a program's run, its LM calls included.",
    "gen_ai.agent.name", "error.type", buckets=_LM_SECONDS,
)  # fmt: skip
TOOL_DURATION = _histogram(
    "gen_ai.execute_tool.duration", "s", "Duration of a tool's run.",
    "gen_ai.tool.name", "error.type", buckets=_LM_SECONDS,
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------------- predictions

MESSAGES_SENT = _counter(
    "messaging.client.sent.messages", "{message}", "Messages sent to the broker.",
    "messaging.system", "messaging.destination.name", "messaging.operation.name", "error.type",
    processes=("client", "gateway"),
)  # fmt: skip
MESSAGES_CONSUMED = _counter(
    "messaging.client.consumed.messages", "{message}",
    "Messages that a worker began to process, by delivery: first, retried, or redelivered after its worker was lost.",
    "messaging.system", "messaging.destination.name", "messaging.operation.name", "dspex.delivery",
)  # fmt: skip
PROCESS_DURATION = _histogram(
    "messaging.process.duration", "s", "Duration of processing a message, the commit of its result included.",
    "messaging.system", "messaging.destination.name", "messaging.operation.name", "error.type", buckets=_LONG_SECONDS,
)  # fmt: skip
PREDICTIONS = _counter(
    "dspex.predictions", "{prediction}",
    "Predictions whose final state a worker committed, by outcome (ok, failed, cancelled).",
    "dspex.program", "dspex.outcome", "error.type", optional=(*_SESSION, "dspex.token"),
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
REVISION_AGE = _histogram(
    "dspex.prediction.revision_age", "s", "Time since the revision that a prediction starts under was published.",
    "dspex.program", buckets=_AGE_SECONDS, optional=_SESSION,
)  # fmt: skip
STALENESS = _histogram(
    "dspex.prediction.staleness", "s", "Time since the authority last confirmed the variables of a prediction.",
    "dspex.program", buckets=_AGE_SECONDS, optional=_SESSION,
)  # fmt: skip

# -------------------------------------------------------------------------------------------------------------- workers

IN_FLIGHT = _gauge("dspex.worker.in_flight", "{task}", "Tasks that a worker process runs.")
CAPACITY = _gauge("dspex.worker.capacity", "{task}", "Tasks that a worker process can run at a time.")
QUARANTINED = _gauge(
    "dspex.worker.quarantined",
    "{prediction}",
    "Predictions that a worker process runs apart, since they were lost twice.",
)
LOOP_LAG = _histogram("dspex.worker.loop_lag", "s", "How late a timer of the event loop fires.", buckets=_SHORT_SECONDS)
APPLY_LAG = _histogram(
    "dspex.revision.apply_lag", "s",
    "Time from the publish of a revision until a worker process that uses its session serves it.",
    buckets=_SHORT_SECONDS,
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------- Redis

REDIS_DURATION = _histogram(
    "db.client.operation.duration", "s", "Duration of a round trip to Redis, retries of the client included.",
    "db.system.name", "db.operation.name", "error.type", buckets=_REDIS_SECONDS, processes=_SERVERS,
)  # fmt: skip
REDIS_COMMANDS = _counter(
    "dspex.redis.commands", "{command}", "Commands and scripts sent to Redis; several share a round trip.",
    processes=_SERVERS,
)  # fmt: skip

REDIS_UNCONFIRMED = _counter(
    "dspex.redis.unconfirmed", "{round_trip}",
    "Round trips of writes that fewer replicas, or disks, confirmed in time than their durability waits for.",
    "dspex.durability", processes=("worker", "gateway"), rare=True,
)  # fmt: skip

# ---------------------------------------------------------------------------------- state of the fleet, read from Redis

QUEUE_DEPTH = _gauge(
    "dspex.queue.depth", "{message}", "Messages that wait in a queue.",
    "messaging.destination.name", "dspex.priority", processes=_FLEET,
)  # fmt: skip
QUEUE_AGE = _gauge(
    "dspex.queue.oldest_age", "s", "Time since the message of a queue that is next was sent; 0 if none waits.",
    "messaging.destination.name", "dspex.priority", processes=_FLEET,
)  # fmt: skip
QUEUE_DEMAND = _gauge(
    "dspex.queue.demand", "{message}",
    "Messages of a queue that need a worker: those that wait and those that workers hold, and of the main queue at "
    "least 1 while predictions are parked or delayed.",
    "messaging.destination.name", processes=_FLEET,
)  # fmt: skip
MESSAGES_HELD = _gauge(
    "dspex.messages.held", "{message}", "Messages that workers have claimed and not settled.", processes=_FLEET
)
MESSAGES_DELAYED = _gauge(
    "dspex.messages.delayed", "{message}", "Messages put aside until they are due: retries, and suspects of a crash.",
    processes=_FLEET,
)  # fmt: skip
MESSAGES_PARKED = _gauge(
    "dspex.messages.parked", "{message}", "Predictions that wait for a rate limit.", "dspex.profile", processes=_FLEET
)
MESSAGES_FORGED = _counter(
    "dspex.messages.forged", "{message}", "Messages that a worker refused for their signatures.", rare=True
)
MESSAGES_DEAD = _gauge("dspex.messages.dead", "{message}", "Messages on the dead-letter list.", processes=_FLEET)
LEASES_EXPIRED = _counter(
    "dspex.leases.expired", "{message}", "Messages whose lease ended with their worker; they are redelivered or dead.",
    processes=_FLEET,
)  # fmt: skip
LIMIT_ALLOWED = _gauge(
    "dspex.limit.allowed", "1", "A rate limit of an LM profile that is in force.",
    "dspex.profile", "dspex.limit", processes=_FLEET,
)  # fmt: skip
LIMIT_USED = _gauge(
    "dspex.limit.used", "1", "How much of a rate limit is used in its present window.",
    "dspex.profile", "dspex.limit", processes=_FLEET,
)  # fmt: skip
LIVE_WORKERS = _gauge(
    "dspex.fleet.workers", "{process}", "Worker processes that have sent a heartbeat and run predictions.",
    processes=_FLEET,
)  # fmt: skip
LIVE_REFRESHERS = _gauge("dspex.fleet.refreshers", "{process}", "Refreshers that are running.", processes=_FLEET)
SESSION_STALENESS = _gauge(
    "dspex.session.staleness", "s",
    "Time since Elixir last confirmed a session in use; without the label, of the stalest one.",
    optional=_SESSION, processes=_FLEET,
)  # fmt: skip
STALE_SESSIONS = _gauge(
    "dspex.session.stale", "{session}", "Sessions in use that Elixir has been silent on for longer than allowed.",
    processes=_FLEET,
)  # fmt: skip
LAGGING_PROCESSES = _gauge(
    "dspex.session.lagging_processes", "{process}",
    "Live worker processes that don't apply the current revision of a session; without the label, of the worst one.",
    optional=_SESSION, processes=_FLEET,
)  # fmt: skip
REVISION_LAG = _gauge(
    "dspex.session.revision_lag", "{revision}",
    "How many revisions the last of a session's processes is behind; without the label, of the worst session.",
    optional=_SESSION, processes=_FLEET,
)  # fmt: skip

# ----------------------------------------------------------------------------------------------------------- refreshers

READ_DURATION = _histogram(
    "dspex.refresher.read.duration", "s", "Duration of a read of a session from Elixir.",
    "error.type", buckets=_REQUEST_SECONDS, processes=("refresher",),
)  # fmt: skip
REVISIONS_PUBLISHED = _counter(
    "dspex.refresher.publishes", "{revision}", "Revisions that a refresher published, or failed to.",
    "error.type", processes=("refresher",),
)  # fmt: skip
FOLLOWED_SESSIONS = _gauge(
    "dspex.refresher.sessions", "{session}", "Sessions that a refresher follows, by their state.",
    "dspex.state", processes=("refresher",),
)  # fmt: skip
LAST_CONTACT = _gauge(
    "dspex.refresher.last_contact", "s", "Time since Elixir last answered a refresher.", processes=("refresher",)
)

# ------------------------------------------------------------------------------------------------------------- gateways

RPC_DURATION = _histogram(
    "rpc.server.call.duration", "s", "Duration of a gRPC call to the gateway, until the end of a stream.",
    "rpc.system.name", "rpc.method", "rpc.response.status_code", "error.type",
    buckets=_REQUEST_SECONDS, processes=("gateway",),
)  # fmt: skip
HTTP_DURATION = _histogram(
    "http.server.request.duration", "s", "Duration of an HTTP request to the gateway, until the end of a stream.",
    "http.request.method", "http.route", "http.response.status_code", "error.type",
    buckets=_REQUEST_SECONDS, processes=("gateway",),
)  # fmt: skip
GATEWAY_CALLS = _gauge(
    "dspex.gateway.in_flight", "{call}", "Calls that a gateway is processing, open streams included.",
    processes=("gateway",),
)  # fmt: skip
