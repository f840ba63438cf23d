"""uvicorn as the gateway runs it: on a socket of its own, with TLS and limits, and without taking the signals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import uvicorn
from starlette.applications import Starlette

from snakepit_bridge.exceptions import ConfigurationError
from workers.gateway.http.connections import Connections, build_protocol
from workers.gateway.settings import GatewaySettings, Tls

_KEEP_ALIVE_S = 60


class UvicornServer(uvicorn.Server):
    """uvicorn's server, but the gateway takes the signals, and is told when it accepts."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()


def build_config(app: Starlette, settings: GatewaySettings, connections: Connections) -> uvicorn.Config:
    """Returns how uvicorn runs the application.

    Raises:
        ConfigurationError: the files of TLS can't be used.
    """
    made = uvicorn.Config(
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
        made.load()
    except OSError as exc:  # what OpenSSL raises is one, too
        raise ConfigurationError(f"The gateway's TLS files can't be used: {exc}.") from exc
    return made


def _tls_options(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    files: dict[str, Any] = {"ssl_certfile": str(tls.certificate), "ssl_keyfile": str(tls.key)}
    if tls.client_ca is not None:
        files |= {"ssl_ca_certs": str(tls.client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return files


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket.

    Raises:
        ConfigurationError: it can't listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2_048)
    except OSError as exc:
        listening.close()
        raise ConfigurationError(f"The gateway can't listen on {host}:{port}: {exc.strerror}.") from exc
    return listening
