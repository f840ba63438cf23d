"""uvicorn's configuration in a gateway: TLS, limits, and the socket that it listens on."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import uvicorn
from starlette.applications import Starlette

from snakepit_bridge.exceptions import ConfigurationError
from workers.gateway.http.connections import Connections, build_protocol
from workers.gateway.settings import GatewaySettings, Tls

_KEEP_ALIVE_S = 60


def build_config(app: Starlette, settings: GatewaySettings, connections: Connections) -> uvicorn.Config:
    """Return uvicorn's configuration for the application.

    Raises:
        ConfigurationError: the TLS files can't be used.
    """
    loaded = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        http=build_protocol(settings.limits.read_s, connections),
        h11_max_incomplete_event_size=16 * 1024,
        timeout_keep_alive=_KEEP_ALIVE_S,
        **_tls_options(settings.tls),
    )
    try:
        loaded.load()
    except OSError as exc:  # includes OpenSSL's errors
        raise ConfigurationError(f"The gateway's TLS files can't be used: {exc}.") from exc
    return loaded


def _tls_options(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    files: dict[str, Any] = {"ssl_certfile": str(tls.certificate), "ssl_keyfile": str(tls.key)}
    if tls.client_ca is not None:
        files |= {"ssl_ca_certs": str(tls.client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return files


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address.

    Raises:
        ConfigurationError: the address can't be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by each connection. asyncio sets it only on sockets that it made itself, and without it an
        # answer's second packet waits 40 ms for the client's acknowledgement.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.bind((host, port))
        listening.listen(2_048)
    except OSError as exc:
        listening.close()
        raise ConfigurationError(f"The gateway can't listen on {host}:{port}: {exc.strerror}.") from exc
    return listening
