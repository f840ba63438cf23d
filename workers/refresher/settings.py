"""What a refresher is told from outside."""

from __future__ import annotations

from dataclasses import dataclass

from snakepit_bridge.exceptions import ConfigurationError


@dataclass(frozen=True, slots=True)
class RefresherSettings:
    """Settings of one refresher; all that share sessions have the same, but for ``name``. Times are in seconds.

    Attributes:
        bridge: ``HOST:PORT`` of the Elixir server.
        redis_url: where snapshots are kept.
        namespace: prefix of every key in Redis.
        sessions: sessions that are always followed; others are followed while somebody wants them.
        authority: the name of the Elixir server as the owner of what it publishes. It stays when the server moves.
        poll_s: how often sessions in use are looked at where the server can't be watched.
        poll_max_s: how often at least every followed session is looked at, watched or not.
        settle_s: how long a look that lost variables must stay so before it is published.
        watch: watch where the server serves it.
        watch_retry_s: after how long a server that doesn't serve watching is asked again.
        heartbeat_s: how often Elixir is told that a session is in use.
        idle_s: after how long without use a wanted session is dropped.
        lease_s: after how long another refresher takes over the sessions of one that died.
        timeout_s: how long a call to Elixir may take.
        redis_timeout_s: how long a call to Redis may take.
        looks_at_once: looks under way at a time.
        max_answer_bytes: the largest answer of Elixir's that is taken.
    """

    bridge: str
    redis_url: str = "redis://localhost:6379/0"
    namespace: str = "dspex"
    sessions: tuple[str, ...] = ()
    authority: str = "elixir"
    poll_s: float = 1.0
    poll_max_s: float = 3.0
    settle_s: float = 2.0
    watch: bool = True
    watch_retry_s: float = 300.0
    heartbeat_s: float = 60.0
    idle_s: float = 600.0
    lease_s: float = 2.0
    timeout_s: float = 5.0
    redis_timeout_s: float = 5.0
    looks_at_once: int = 32
    max_answer_bytes: int = 64 * 2**20

    def __post_init__(self) -> None:
        host, separator, port = self.bridge.rpartition(":")
        if not (separator and host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise ConfigurationError(
                f"The Elixir server is named as HOST:PORT, like localhost:50051; got {self.bridge!r}."
            )
        positive = ("poll_s", "poll_max_s", "watch_retry_s", "heartbeat_s", "idle_s", "lease_s", "timeout_s")
        for name in (*positive, "redis_timeout_s", "looks_at_once", "max_answer_bytes"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"The refresher's {name} must be above 0; got {getattr(self, name)}.")
        if self.settle_s < 0:
            raise ConfigurationError(f"The refresher's settle_s can't be below 0; got {self.settle_s}.")
        if self.poll_max_s < self.poll_s:
            raise ConfigurationError(f"poll_max_s={self.poll_max_s} must not be below poll_s={self.poll_s}.")
