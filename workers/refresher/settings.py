"""Settings of a refresher."""

from __future__ import annotations

from dataclasses import dataclass, field

from snakepit_bridge.encryption.cipher import NO_ENCRYPTION, EncryptionOptions
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from workers.addresses import parse_address


@dataclass(frozen=True, slots=True)
class RefresherSettings:
    """Settings of one refresher; refreshers that share sessions must have the same. Times are in seconds.

    Attributes:
        bridge: ``HOST:PORT`` of the Elixir server.
        redis_url: the Redis server that holds the snapshots.
        namespace: prefix of every key in Redis.
        sessions: sessions that are always followed; others are followed while they are in demand.
        authority: the name under which the Elixir server owns its sessions. It stays when the server moves.
        poll_s: polling interval of sessions in use, if the server can't be watched.
        poll_max_s: longest polling interval of any followed session, watched or not.
        settle_s: how long variables must be missing before their deletion is published.
        watch: watch for changes if the server supports it.
        watch_retry_s: how long to wait before trying again to watch a server that doesn't support it.
        heartbeat_s: interval between heartbeats that keep a session alive in Elixir.
        idle_s: how long a session may be unused before it is no longer followed.
        lease_s: time after which another refresher takes over the sessions of one that died.
        timeout_s: timeout of a call to Elixir.
        redis_timeout_s: timeout of a call to Redis.
        looks_at_once: maximum number of concurrent reads.
        max_answer_bytes: the largest answer accepted from Elixir.
        broker_url, queue: the broker, if it isn't that Redis, and the queue of the fleet whose metrics it exports.
        metric_labels: optional labels of metrics.
        health: ``HOST:PORT`` of its health endpoints; None for none.
        encryption: how the fleet encrypts what it keeps in Redis.

    Raises:
        ConfigurationError: a value is out of range, or ``bridge`` isn't ``HOST:PORT``.
    """

    bridge: str
    redis_url: str = field(default="redis://localhost:6379/0", repr=False)
    namespace: str = DEFAULT_NAMESPACE
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
    broker_url: str | None = field(default=None, repr=False)
    queue: str = "predictions"
    metric_labels: tuple[str, ...] = ()
    health: str | None = None
    encryption: EncryptionOptions = NO_ENCRYPTION

    def __post_init__(self) -> None:
        parse_address(self.bridge, "The Elixir server's address", "localhost:50051", min_port=1)
        positive = ("poll_s", "poll_max_s", "watch_retry_s", "heartbeat_s", "idle_s", "lease_s", "timeout_s")
        for name in (*positive, "redis_timeout_s", "looks_at_once", "max_answer_bytes"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"The refresher's {name} must be above 0; got {getattr(self, name)}.")
        if self.settle_s < 0:
            raise ConfigurationError(f"The refresher's settle_s can't be below 0; got {self.settle_s}.")
        if self.poll_max_s < self.poll_s:
            raise ConfigurationError(f"poll_max_s={self.poll_max_s} must not be below poll_s={self.poll_s}.")
