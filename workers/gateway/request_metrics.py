"""The metrics of a gateway's requests, by the conventions of RPC and HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import HTTP_DURATION, RPC_DURATION
from workers.gateway.errors import grpc_code

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_LEFT = 499


@dataclass(slots=True)
class RpcOutcome:
    """How a gRPC call ended.

    Attributes:
        error: the error that it ended with; None if it succeeded.
    """

    error: BaseException | None = None


@contextmanager
def measure_rpc(path: str) -> Generator[RpcOutcome]:
    """Measure the block as one gRPC call.

    Args:
        path: the gRPC path of its method.
    """
    outcome, started = RpcOutcome(), time.perf_counter()
    try:
        yield outcome
    except asyncio.CancelledError as exc:
        outcome.error = exc
        raise
    finally:
        if TELEMETRY.meter.enabled:
            error = outcome.error
            labels = {
                "rpc.system.name": "grpc",
                "rpc.method": path.removeprefix("/"),
                "rpc.response.status_code": _status(error).name,
                "error.type": "" if error is None else type(error).__name__,
            }
            TELEMETRY.meter.record(RPC_DURATION, time.perf_counter() - started, labels)


def _status(error: BaseException | None) -> grpc.StatusCode:
    if isinstance(error, asyncio.CancelledError):
        return grpc.StatusCode.CANCELLED
    return grpc.StatusCode.OK if error is None else grpc_code(error)


class RequestMetrics:
    """ASGI middleware that measures each HTTP request, until its response is complete.

    Args:
        app: the application.
        routes: its routes, whose templates are what requests are told apart by.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[Route]) -> None:
        self._app = app
        self._paths: Mapping[Callable[..., Any], str] = {
            route.endpoint: route.path.replace(":path}", "}") for route in routes
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or not TELEMETRY.meter.enabled:
            await self._app(scope, receive, send)
            return
        status, error_type, started = 0, "", time.perf_counter()

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        except BaseException as exc:
            error_type = type(exc).__name__
            raise
        finally:
            self._record(scope, status or _CLIENT_LEFT, error_type, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, error_type: str, seconds: float) -> None:
        method: str = scope["method"]
        endpoint: Any = scope.get("endpoint")
        labels = {
            "http.request.method": method if method in _METHODS else "_OTHER",
            "http.route": self._paths.get(endpoint, ""),
            "http.response.status_code": str(status),
            "error.type": error_type or (str(status) if status >= 500 else ""),
        }
        TELEMETRY.meter.record(HTTP_DURATION, seconds, labels)
