"""What a gateway is told from outside, and where it refuses to listen."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.protocol.json_values import BOUNDS, ValueBounds
from workers.gateway.access.authentication import Grants


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of a gateway's certificate; with ``client_ca`` only clients that it has signed get in."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def from_files(cls, certificate: Path | None, key: Path | None, client_ca: Path | None = None) -> Self | None:
        """Returns the files that were named, or None if none was.

        Raises:
            ConfigurationError: some of them are missing.
        """
        if certificate is None and key is None and client_ca is None:
            return None
        if certificate is None or key is None:
            raise ConfigurationError("TLS needs both a certificate and its key; name the files of both.")
        return cls(certificate, key, client_ca)


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """What one gateway bears.

    Attributes:
        message_bytes: the largest request.
        answer_bytes: the largest answer.
        batch: predictions in one SubmitBatch.
        changes: variables in one Publish.
        calls: calls under way at a time, streams included, on all connections.
        calls_per_connection: the same on one connection.
        newcomers: HTTP connections on which no request has shown a token yet, or come whole where none is asked for; of
            one address, half as many. The oldest makes room for the next.
        calls_per_s: calls a second of one grant, and as many at once, where the grant doesn't say otherwise.
        streams: streams that one grant has open at a time, where it doesn't say otherwise.
        call_s: seconds after which a call that isn't a stream ends, whatever its own deadline.
        stream_s: seconds after which a stream ends; its reader opens another.
        read_s: seconds that a request may take to come in whole.
        write_s: seconds that a reader may take for one message of a stream.
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
        redis_url, namespace, queue: the fleet that it leads to.
        broker_url: another broker than that Redis.
        bridge: ``HOST:PORT`` of the Elixir server that changes go to of the sessions that it owns.
        grpc, http: ``HOST:PORT`` to listen on; port 0 takes a free one, None doesn't serve that.
        grants: who may do what; none lets everybody in, on loopback alone.
        tls: certificate, or None for plain text.
        limits: what it bears.
        hosts: names that HTTP requests may give as their host, besides localhost and loopback addresses; ``*`` lets
            every name pass, and so does none where the gateway listens off loopback.
        origins: origins of web pages that may send HTTP requests, ``https://app.example.com``.
        allowed_packages: packages that the specs of programs may name.
        redis_timeout_s: seconds within which Redis must answer.
        drain_s: seconds that calls under way may take when it is stopped.
        bounds: how deep and how large an input may be.

    Raises:
        ConfigurationError: it would listen off loopback without TLS or without a grant, or an address can't be read.
    """

    redis_url: str = field(default="redis://localhost:6379/0", repr=False)
    broker_url: str | None = field(default=None, repr=False)
    namespace: str = "dspex"
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
    redis_timeout_s: float = 5.0
    drain_s: float = 20.0
    bounds: ValueBounds = BOUNDS

    def __post_init__(self) -> None:
        if self.grpc is None and self.http is None:
            raise ConfigurationError("A gateway that serves neither gRPC nor HTTP has nothing to do; name an address.")
        if not self.drain_s >= 0:
            raise ConfigurationError(f"The gateway's drain_s can't be below 0; got {self.drain_s}.")
        for address in (self.grpc, self.http):
            if address is not None:
                self._check_exposure(address)

    def _check_exposure(self, address: str) -> None:
        host, _ = parse_address(address)
        if is_loopback(host):
            return
        lacks = [name for name, there in (("TLS", self.tls), ("a token", self.grants)) if not there]
        if lacks:
            raise ConfigurationError(
                f"The gateway doesn't listen on {address} without {' and '.join(lacks)}: whoever reaches it "
                "could publish. Give it a certificate and a tokens file, or a loopback address such as 127.0.0.1:50061."
            )


def parse_address(address: str) -> tuple[str, int]:
    """Returns host and port of ``HOST:PORT``, an IPv6 address standing in brackets.

    Raises:
        ConfigurationError: the text is none.
    """
    host, separator, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (separator and bare and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise ConfigurationError(f"An address to listen on reads HOST:PORT, like 127.0.0.1:50061; got {address!r}.")
    return bare, int(port)


def is_loopback(host: str) -> bool:
    """Tells whether only this machine reaches a host; a name other than localhost may lead anywhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
