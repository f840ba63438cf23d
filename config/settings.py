"""Settings of a fleet's process, read once from the environment and passed down as one frozen value.

Each field is the environment variable ``DSPEX_<FIELD>``; lists are comma-separated. One that is set to nothing is as
good as unset, since that is how compose files and manifests hand an unset variable through.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Names = Annotated[tuple[str, ...], NoDecode]


class FleetSettings(BaseSettings):
    """What a worker is told from outside."""

    model_config = SettingsConfigDict(env_prefix="DSPEX_", env_ignore_empty=True, frozen=True, extra="ignore")

    redis_url: SecretStr = Field(
        SecretStr("redis://localhost:6379/0"), description="Redis or Valkey: snapshots, programs, results, broker"
    )
    broker_url: SecretStr | None = Field(None, description="another broker, such as RabbitMQ; Redis if not given")
    namespace: str = Field("dspex", pattern=r"^[A-Za-z0-9_.-]{1,50}$", description="prefix of every key in Redis")
    queue: str = Field("predictions", description="queue that predictions wait in; each namespace has its own")

    lm_profiles: Path | None = Field(None, description="TOML file that declares the LM profiles")
    lm: str | None = Field(None, description="one provider/model, for a fleet that needs no profiles file")
    allowed_packages: Names = Field((), description="packages whose modules, tools and types program specs may name")
    imports: Names = Field(
        (), description="modules of allowed packages that a worker imports at its start, for what they register"
    )
    lm_middleware: Names = Field(
        (), description="import paths of middleware of allowed packages around every LM call, the first outermost"
    )

    payload_bytes: int = Field(
        262_144, ge=1, description="bytes beyond which a result is stored beside its message, by reference"
    )
    value_depth: int = Field(
        100, ge=1, le=200, description="levels of objects and lists within each other that an input may have"
    )
    value_bytes: int = Field(
        67_108_864, ge=1, le=500_000_000, description="bytes of JSON that the inputs of a prediction may take, about"
    )
    batch_in_flight: int = Field(2_000, ge=1, description="inputs of batches that a worker process runs at a time")
    result_expires_s: int = Field(86_400, ge=1, description="seconds that a result is kept")
    requirement_wait_s: float = Field(5.0, ge=0, description="seconds that a task waits for the revision it requires")
    outage: str = Field(
        "fail",
        pattern=r"^(fail|serve_stale\(\d+(\.\d+)?\))$",
        description="what becomes of predictions that don't say so themselves when Redis or the Elixir server is away: "
        "fail, or serve_stale(SECONDS)",
    )
    bridge: str | None = Field(
        None, description="HOST:PORT of the Elixir server whose sessions refreshers follow; workers then report the "
        "sessions that they use"
    )  # fmt: skip
    watch_lease_s: float = Field(
        1.0, gt=0, description="seconds for which a worker relies on what it last heard of its sessions"
    )
    max_sessions: int = Field(10_000, ge=1, description="sessions that a worker process holds at most")
    redis_timeout_s: float = Field(5.0, gt=0, description="seconds within which Redis must answer")
    task_attempts: int | None = Field(
        None,
        ge=1,
        description="tries of an LM call, where its profile doesn't say; as many as its time allows if unset",
    )
    retry_for_s: float | None = Field(
        None, gt=0, description="seconds for which an LM call is tried again, where its profile doesn't say; until the "
        "deadline if unset, or for a minute"
    )  # fmt: skip
    retry_backoff_s: float = Field(
        1.0, gt=0, description="pause before the second try, where its profile doesn't say; it doubles"
    )
    lease_s: float = Field(
        5.0, ge=1, description="seconds after which what a worker holds that fell silent is handed to others"
    )
    max_deliveries: int = Field(
        5,
        ge=1,
        description="how often a task is given out that goes down with its worker each time, before it is given up",
    )
    hold_limit_s: float = Field(
        3_600.0, gt=0, description="seconds that a worker may hold a task that has no time limit of its own"
    )

    own_lms: bool = Field(
        False,
        description="whether programs may ask LMs of their own making that no LM profile declares, past limits, "
        "deadlines, cancellation and provenance",
    )
    log_content: bool = Field(
        False,
        description="whether inputs, answers and texts of errors may stand in a worker's logs, in Celery's events and "
        "in what remote control tells",
    )

    @model_validator(mode="before")
    @classmethod
    def _name_queue(cls, said: Any) -> Any:
        """Give a fleet that names no queue its namespace's own, by the rule that clients have."""
        namespace = said.get("namespace", "dspex")
        if namespace == "dspex" or said.get("queue"):
            return said
        return {**said, "queue": f"{namespace}.predictions"}

    stall_limit_s: float = Field(
        20.0,
        gt=0,
        description="seconds that code may hold up a worker's event loop before the watchdog ends the worker",
    )
    build_limit_s: float = Field(
        60.0, gt=0, description="seconds that building a program on a worker may take, its imports included"
    )
    stop_grace_s: float = Field(
        50.0, gt=0, description="seconds that a worker which is told to end may take to finish what it runs"
    )

    @field_validator("allowed_packages", "imports", "lm_middleware", mode="before")
    @classmethod
    def _comma_separated(cls, said: object) -> object:
        return tuple(name.strip() for name in said.split(",") if name.strip()) if isinstance(said, str) else said

    @property
    def broker(self) -> str:
        """URL of the message broker."""
        return (self.broker_url or self.redis_url).get_secret_value()

    @property
    def redis(self) -> str:
        """URL of Redis, with its password."""
        return self.redis_url.get_secret_value()
