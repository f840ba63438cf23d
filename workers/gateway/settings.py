"""Settings of a gateway, including the check that it isn't exposed without TLS and tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from snakepit_bridge.encryption.cipher import NO_ENCRYPTION, EncryptionOptions
from snakepit_bridge.encryption.keys import KeyRing
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.protocol.json_values import BOUNDS, ValueBounds
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from workers.addresses import is_loopback, parse_address
from workers.gateway.access.authentication import Grants
from workers.gateway.access.openid_settings import OpenIdSettings


@dataclass(frozen=True, slots=True)
class Tls:
    """The TLS files of a gateway; with ``client_ca``, clients need a certificate that it signed (mTLS)."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def from_files(cls, certificate: Path | None, key: Path | None, client_ca: Path | None = None) -> Self | None:
        """Return the configured files, or None if there are none.

        Raises:
            ConfigurationError: the certificate or its key is missing.
        """
        if certificate is None and key is None and client_ca is None:
            return None
        if certificate is None or key is None:
            raise ConfigurationError("TLS needs both a certificate and its key; give the files of both.")
        return cls(certificate, key, client_ca)


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """The limits of one gateway.

    Attributes:
        message_bytes: size of the largest request.
        answer_bytes: size of the largest response.
        batch: predictions in one SubmitBatch.
        changes: variables in one Publish.
        calls: concurrent calls on all connections, including streams.
        calls_per_connection: concurrent calls on one connection.
        newcomers: HTTP connections that have not yet presented a token or, if none is needed, completed a request; half
            as many per address. The oldest is closed when another arrives.
        calls_per_s: calls per second of one grant, also the burst, unless the grant has its own limit.
        streams: open streams of one grant, unless the grant has its own limit.
        call_s: timeout of a unary call in seconds, whatever its own deadline.
        stream_s: seconds after which a stream is closed; its reader can open another.
        read_s: seconds within which a request must arrive completely.
        write_s: seconds within which a reader must accept a message of a stream.
    """

    message_bytes: int = 4 * 2**20
    answer_bytes: int = 64 * 2**20
    batch: int = 1_000
    changes: int = 5_000
    calls: int = 2_000
    calls_per_connection: int = 1_000
    newcomers: int = 500
    calls_per_s: float = 500.0
    streams: int = 200
    call_s: float = 300.0
    stream_s: float = 3_600.0
    read_s: float = 20.0
    write_s: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"The gateway's {name} must be above 0; got {getattr(self, name)}.")


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Settings of one gateway.

    Attributes:
        redis_url, namespace, queue: the fleet that it serves.
        broker_url: the broker, if it isn't that Redis.
        bridge: ``HOST:PORT`` of the Elixir server; changes to the sessions that it owns are written to it.
        grpc, http: ``HOST:PORT`` to listen on; port 0 selects a free port, None disables the server.
        grants: the tokens' grants; if empty, every caller may do everything, which is allowed on loopback only.
        tls: the TLS files, or None for plain text.
        limits: the gateway's limits.
        hosts: allowed ``Host`` names of HTTP requests besides localhost and loopback addresses; ``*`` allows every
            name, and so does an empty tuple if the gateway doesn't listen on loopback.
        origins: origins of web pages that may send HTTP requests, such as ``https://app.example.com``.
        allowed_packages: packages that program specs may refer to.
        imports: modules of these packages to import before a program is registered, for the targets that they register.
        redis_timeout_s: timeout of a call to Redis in seconds.
        drain_s: seconds that calls in flight may take on shutdown.
        bounds: maximum depth and size of inputs.
        metric_labels: optional labels of metrics.
        durability: when a publish, a submit and its result count: ``primary``, ``replicated`` once replicas have them,
            or ``fsynced`` once they are on disk.
        health: ``HOST:PORT`` of health endpoints that don't depend on the HTTP server; None for none.
        console: whether the HTTP server serves the console to browsers.
        trace_url: where a trace is shown, with ``{trace_id}``, for the console's links to traces; empty for nowhere.
        openid: who signs in to the console by OpenID Connect; None for nobody.
        encryption: how the fleet encrypts what it keeps in Redis.
        signing_keys: the keys that sign messages, where the workers ask for that.

    Raises:
        ConfigurationError: an address or a value is invalid, or the gateway would be exposed beyond loopback without
            TLS or without tokens.
    """

    redis_url: str = field(default="redis://localhost:6379/0", repr=False)
    broker_url: str | None = field(default=None, repr=False)
    namespace: str = DEFAULT_NAMESPACE
    queue: str = "predictions"
    bridge: str | None = None
    grpc: str | None = "127.0.0.1:50061"
    http: str | None = "127.0.0.1:8061"
    grants: Grants = field(default_factory=Grants, repr=False)
    tls: Tls | None = None
    limits: GatewayLimits = field(default_factory=GatewayLimits)
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    allowed_packages: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    redis_timeout_s: float = 5.0
    drain_s: float = 20.0
    bounds: ValueBounds = BOUNDS
    metric_labels: tuple[str, ...] = ()
    durability: str = "primary"
    health: str | None = None
    console: bool = True
    trace_url: str = ""
    openid: OpenIdSettings | None = None
    encryption: EncryptionOptions = NO_ENCRYPTION
    signing_keys: KeyRing | None = None

    def __post_init__(self) -> None:
        if self.grpc is None and self.http is None:
            raise ConfigurationError("A gateway that serves neither gRPC nor HTTP has nothing to do; give an address.")
        if self.openid is not None and not self.grants:
            raise ConfigurationError(
                "OpenID Connect needs a tokens file: without one every caller of the gateway's API may do everything."
            )
        if not self.drain_s >= 0:
            raise ConfigurationError(f"The gateway's drain_s can't be below 0; got {self.drain_s}.")
        for address in (self.grpc, self.http):
            if address is not None:
                self._check_exposure(address)

    def _check_exposure(self, address: str) -> None:
        host, _ = parse_address(address)
        if is_loopback(host):
            return
        missing = [name for name, value in (("TLS", self.tls), ("a token", self.grants)) if not value]
        if missing:
            raise ConfigurationError(
                f"The gateway doesn't listen on {address} without {' and '.join(missing)}: any client that reaches it "
                "could publish. Give it a certificate and a tokens file, or a loopback address such as 127.0.0.1:50061."
            )
