"""Settings of a fleet's process, read once from the environment and passed down as one frozen value.

Each field is the environment variable ``DSPEX_<FIELD>``; lists are comma-separated. An empty variable counts as unset,
because compose files and manifests pass an unset variable on as an empty one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Names = Annotated[tuple[str, ...], NoDecode]


class FleetSettings(BaseSettings):
    """The settings of a worker."""

    model_config = SettingsConfigDict(env_prefix="DSPEX_", env_ignore_empty=True, frozen=True, extra="ignore")

    redis_url: SecretStr = Field(
        default=SecretStr("redis://localhost:6379/0"),
        description="Redis 7+ or Valkey: snapshots, programs, results, and the broker",
    )
    broker_url: SecretStr | None = Field(
        default=None, description="URL of RabbitMQ (`amqp://…`) as the broker instead of Redis"
    )
    encryption_keys: SecretStr | None = Field(
        default=None, description="keys that encrypt what is kept in Redis, each `ID:BASE64`, the one that writes first"
    )
    encryption_keys_file: Path | None = Field(default=None, description="the file that has these keys instead")
    encryption_accepts_plain: bool = Field(
        default=False, description="whether unencrypted data is read although there are keys, while it is migrated"
    )
    signing_keys: SecretStr | None = Field(
        default=None,
        description="keys that sign task messages, each `ID:BASE64`, the one that signs first; workers refuse others",
    )
    signing_keys_file: Path | None = Field(default=None, description="the file that has these keys instead")
    namespace: str = Field(
        default="dspex",
        pattern=r"^[A-Za-z0-9_.-]{1,50}$",
        description="prefix of the fleet's keys, channels, queue and remote control; the client's `Fleet(namespace=…)` "
        "must be the same",
    )
    queue: str = Field(
        default="predictions",
        description="queue of predictions; in another namespace than `dspex` the default is `NAMESPACE.predictions`",
    )

    lm_profiles: Path | None = Field(default=None, description="TOML file that declares the LM profiles")
    lm: str | None = Field(default=None, description="one `provider/model`, for a fleet that needs no profiles file")
    allowed_packages: Names = Field(
        default=(), description="packages whose modules, tools and types program specs may name"
    )
    imports: Names = Field(
        default=(),
        description="modules of allowed packages to import, for the targets and tools that they register: by a worker "
        "at startup, by a gateway before it registers a program",
    )
    lm_middleware: Names = Field(
        default=(), description="import paths of middleware around every LM call, the first outermost"
    )

    payload_bytes: int = Field(
        default=262_144, ge=1, description="results larger than this many bytes are stored separately, by reference"
    )
    value_depth: int = Field(default=100, ge=1, le=200, description="maximum nesting depth of an input")
    value_bytes: int = Field(
        default=67_108_864,
        ge=1,
        le=500_000_000,
        description="approximate maximum size of a prediction's inputs, in bytes of JSON",
    )
    batch_in_flight: int = Field(
        default=2_000, ge=1, description="batch inputs that a worker process runs concurrently"
    )
    result_expires_s: int = Field(default=86_400, ge=1, description="seconds that a result is kept")
    audit_entries: int = Field(default=100_000, ge=1_000, description="entries of the audit trail that are kept, about")
    requirement_wait_s: float = Field(
        default=5.0, ge=0, description="seconds that a task waits for its required revision"
    )
    outage: str = Field(
        default="fail",
        pattern=r"^(fail|serve_stale\(\d+(\.\d+)?\))$",
        description="default outage policy of predictions, when Redis or the Elixir server is unavailable: "
        "fail, or serve_stale(SECONDS)",
    )
    bridge: str | None = Field(
        default=None,
        description="`HOST:PORT` of the Elixir server whose sessions refreshers follow; workers then report "
        "which sessions they use",
    )
    watch_lease_s: float = Field(
        default=1.0, gt=0, description="seconds after which a worker polls for revisions if it heard of none by pub/sub"
    )
    max_sessions: int = Field(default=10_000, ge=1, description="maximum sessions that a worker process caches")
    redis_timeout_s: float = Field(default=5.0, gt=0, description="timeout of Redis commands, in seconds")
    task_attempts: int | None = Field(
        default=None,
        ge=1,
        description="default of a profile's `retry.attempts`: maximum attempts of an LM call; bounded by time "
        "only if unset",
    )
    retry_for_s: float | None = Field(
        default=None,
        gt=0,
        description="default of a profile's `retry.for_s`: seconds for which a failed LM call is retried; until "
        "the deadline if unset, or for a minute without one",
    )
    retry_backoff_s: float = Field(
        default=1.0,
        gt=0,
        description="default of a profile's `retry.backoff_s`: pause before the second attempt, doubled for "
        "each further one",
    )
    lease_s: float = Field(
        default=5.0, ge=1, description="seconds without a heartbeat after which a worker's messages are redelivered"
    )
    max_deliveries: int = Field(
        default=5,
        ge=1,
        description="deliveries of a task whose worker dies each time, before it is moved to the dead-letter list",
    )
    hold_limit_s: float = Field(
        default=3_600.0, gt=0, description="maximum seconds that a worker holds a task without a time limit of its own"
    )

    sandbox_cpu_s: int = Field(
        default=60, ge=1, description="seconds of computing of the code that an LM has written, in one prediction"
    )
    sandbox_wall_s: int = Field(
        default=600, ge=1, description="seconds by the clock that such code may take, LM calls of its own included"
    )
    sandbox_memory_mb: int = Field(default=512, ge=64, le=4_096, description="megabytes that such code may use")
    own_lms: bool = Field(
        default=False,
        description="whether programs may call LMs that no profile declares, bypassing limits, deadlines, "
        "cancellation and provenance",
    )
    log_content: bool = Field(
        default=False,
        description="whether inputs, answers and error messages may appear in a worker's logs, Celery's "
        "events and remote control replies",
    )

    capture_lm_calls: bool = Field(
        default=False,
        description="whether prompts and answers of a prediction's LM calls are kept in Redis as long as its result, "
        "for the console and the scope `content`",
    )
    cost_days: int = Field(
        default=35,
        ge=0,
        le=35,
        description="days for which the hourly sums of what predictions cost are kept in Redis; 0 keeps none",
    )
    log: Literal["console", "json"] = Field(default="console", description="form of log lines: `console`, or `json`")
    log_redact: str | None = Field(
        default=None,
        description="what logs show as `***`, separated by blanks: regular expressions (with `\\s` for a blank), and "
        "names of fields such as `session`",
    )
    log_predictions_per_s: float = Field(
        default=10.0,
        ge=0,
        description="lines about successful predictions that a process logs per second; ten times as many about others",
    )
    metric_labels: Names = Field(
        default=(),
        description="optional labels of metrics, whose values nothing bounds: `dspex.session`, `dspex.token`",
    )
    trace_url: str | None = Field(
        default=None,
        description="URL of a trace in your tracing system, with `{trace_id}`, for the console's links to traces",
    )
    health_address: str | None = Field(
        default=None,
        description="`HOST:PORT` at which a worker, refresher or gateway serves `/livez`, `/readyz` and `/startupz`; "
        "nothing is served if unset",
    )

    @model_validator(mode="before")
    @classmethod
    def _name_queue(cls, values: Any) -> Any:
        """Default the queue to the namespace's own, by the rule that clients use."""
        namespace = values.get("namespace", "dspex")
        if namespace == "dspex" or values.get("queue"):
            return values
        return {**values, "queue": f"{namespace}.predictions"}

    stall_limit_s: float = Field(
        default=20.0,
        gt=0,
        description="seconds that code may block a worker's event loop before the watchdog terminates the worker",
    )
    build_limit_s: float = Field(
        default=60.0,
        gt=0,
        description="maximum seconds for building a program on a worker, including its package's imports",
    )
    stop_grace_s: float = Field(
        default=50.0,
        gt=0,
        description="seconds that a stopping worker has to finish running tasks; give its supervisor ten more",
    )
    supervisor_grace_s: float | None = Field(
        default=None,
        gt=0,
        description="seconds that the supervisor gives a stopping worker before it kills it, for `dspex-fleet doctor`",
    )

    @field_validator("allowed_packages", "imports", "lm_middleware", "metric_labels", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("trace_url")
    @classmethod
    def _has_trace_id(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[!-~]*\{trace_id\}[!-~]*", value):
            raise ValueError("it must be an http:// or https:// URL with {trace_id}")
        return value

    @field_validator("log_redact")
    @classmethod
    def _are_patterns(cls, value: str | None) -> str | None:
        for word in (value or "").split():
            try:
                matches_nothing = re.compile(word).search("") is not None
            except re.error as exc:
                raise ValueError(f"{word!r} isn't a regular expression: {exc}") from None
            if matches_nothing:
                raise ValueError(f"{word!r} matches the empty text, so that it would mask everything")
        return value

    @property
    def log_redactions(self) -> tuple[str, ...]:
        """The regular expressions and field names that are masked in logs."""
        return tuple((self.log_redact or "").split())

    @property
    def broker(self) -> str:
        """URL of the message broker."""
        return (self.broker_url or self.redis_url).get_secret_value()

    @property
    def redis(self) -> str:
        """URL of Redis, with its password."""
        return self.redis_url.get_secret_value()
