"""The HTTP server of the health endpoints, in threads that wait for nothing but their sockets."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from snakepit_bridge.exceptions import ConfigurationError
from workers.addresses import parse_address
from workers.health.checks import Probes, Problems, encode_answer

_EXAMPLE = "127.0.0.1:8063"
# Seconds after which a client that has sent no whole request, or not read its answer, is disconnected.
_REQUEST_TIMEOUT_S = 5.0
# With more clients than this, the one that has taken longest is disconnected: a probe takes milliseconds.
_MAX_CONNECTIONS = 32

_ENDPOINTS: dict[str, Callable[[Probes], Problems]] = {
    "/livez": lambda probes: probes.live(),
    "/readyz": lambda probes: probes.ready(),
    "/startupz": lambda probes: probes.started(),
}


class HealthServer:
    """Serves the health endpoints of one process. It listens once it is created, and answers once it is started.

    Args:
        address: ``HOST:PORT``, where port 0 selects a free one; or a socket that listens already.

    Raises:
        ConfigurationError: the address is malformed or can't be bound.
    """

    def __init__(self, address: str | socket.socket) -> None:
        self._server = _listen(address) if isinstance(address, str) else _Server(address.getsockname(), address)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.socket.getsockname()[1])

    @property
    def fd(self) -> int:
        """The socket's descriptor, for another process to inherit."""
        return self._server.fileno()

    def start(self, probes: Probes) -> None:
        """Answer from now on with what the probes return."""
        self._server.probes = probes
        threading.Thread(target=self._server.serve_forever, name="dspex-health", daemon=True).start()

    def stop(self) -> None:
        """Answer no more, and close the socket."""
        if self._server.probes is not None:
            self._server.shutdown()
        self._server.server_close()

    def detach(self) -> None:
        """Close this process's copy of the socket, after another process has inherited it."""
        self._server.socket.close()


def _listen(address: str) -> _Server:
    host, port = parse_address(address, "DSPEX_HEALTH_ADDRESS", _EXAMPLE)
    try:
        return _Server((host, port))
    except OSError as exc:
        raise ConfigurationError(
            f"Health checks can't be served on {address}: {exc.strerror or exc}. Set DSPEX_HEALTH_ADDRESS to an "
            "address of this machine that is free."
        ) from exc


class _Connections:
    """The open connections, each of which occupies a thread. Disconnecting one ends its thread."""

    def __init__(self) -> None:
        self._opened_at: dict[socket.socket, float] = {}
        self._lock = threading.Lock()

    def add(self, connection: socket.socket) -> None:
        """Add a connection; at the limit, disconnect the oldest."""
        with self._lock:
            if len(self._opened_at) >= _MAX_CONNECTIONS:
                self._disconnect(next(iter(self._opened_at)))
            self._opened_at[connection] = time.monotonic()

    def remove(self, connection: socket.socket) -> None:
        """Remove a connection that is about to be closed."""
        with self._lock:
            self._opened_at.pop(connection, None)

    def disconnect(self, min_age_s: float = 0.0) -> None:
        """Disconnect those that are at least this old."""
        with self._lock:
            now = time.monotonic()
            for connection in [each for each, at in self._opened_at.items() if now - at >= min_age_s]:
                self._disconnect(connection)

    def _disconnect(self, connection: socket.socket) -> None:
        del self._opened_at[connection]
        with suppress(OSError):  # the client has gone
            connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    probes: Probes | None = None
    # Of the five that are the default, a few silent clients leave none, and a probe is tried again after seconds.
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], listening: socket.socket | None = None) -> None:
        self._connections = _Connections()
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler, bind_and_activate=listening is None)
        if listening is not None:
            self.socket.close()
            self.socket = listening

    def server_bind(self) -> None:
        # HTTPServer's looks the host's name up, which can take seconds.
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._connections.remove(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Disconnect clients that take too long; called at least every half second."""
        self._connections.disconnect(_REQUEST_TIMEOUT_S)

    def server_close(self) -> None:
        """Close the socket, and disconnect every client."""
        super().server_close()
        self._connections.disconnect()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "dspex", ""

    def do_GET(self) -> None:
        endpoint = _ENDPOINTS.get(self.path.partition("?")[0])
        if endpoint is None or self.server.probes is None:
            self.send_error(404)
            return
        status, body = encode_answer(endpoint(self.server.probes))
        self.send_response(status)
        for name, value in (("content-type", "application/json"), ("content-length", str(len(body)))):
            self.send_header(name, value)
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a probe comes every few seconds."""
