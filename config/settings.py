"""Settings of a fleet's process, read once from the environment and passed down as one frozen value.

Each field is the environment variable ``DSPEX_<FIELD>``; lists are comma-separated. One that is set to nothing is as
good as unset, since that is how compose files and manifests hand an unset variable through.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
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
    queue: str = Field("predictions", description="queue that predictions wait in")

    lm_profiles: Path | None = Field(None, description="TOML file that declares the LM profiles")
    lm: str | None = Field(None, description="one provider/model, for a fleet that needs no profiles file")
    allowed_packages: Names = Field((), description="packages whose modules, tools and types program specs may name")

    result_expires_s: int = Field(86_400, ge=1, description="seconds that a result is kept")
    requirement_wait_s: float = Field(5.0, ge=0, description="seconds that a task waits for the revision it requires")
    bridge: str | None = Field(
        None, description="HOST:PORT of the Elixir server whose sessions refreshers follow; workers then report the "
        "sessions that they use"
    )  # fmt: skip
    watch_lease_s: float = Field(
        1.0, gt=0, description="seconds for which a worker relies on what it last heard of its sessions"
    )
    max_sessions: int = Field(10_000, ge=1, description="sessions that a worker process holds at most")
    redis_timeout_s: float = Field(5.0, gt=0, description="seconds within which Redis must answer")
    task_attempts: int = Field(3, ge=1, description="tries of a prediction whose LM is down or overloaded")
    retry_backoff_s: float = Field(1.0, gt=0, description="wait before the second try; doubles with each further one")
    visibility_timeout_s: int = Field(
        1_800, ge=1, description="seconds after which the broker hands a dead worker's task to another; "
        "longer than the longest prediction"
    )  # fmt: skip

    @field_validator("allowed_packages", mode="before")
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
