"""The HTTP server: the operations as JSON, streams as server-sent events, and their OpenAPI description."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any

from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.process.uvicorn_server import UvicornServer
from snakepit_bridge.variables.codec import encode_canonical, encode_json, parse
from workers.addresses import parse_address
from workers.gateway.access.authentication import Grant
from workers.gateway.access.gate import RequestGate
from workers.gateway.access.web_origins import WebOrigins
from workers.gateway.api.flags import Flags
from workers.gateway.console.app import Console
from workers.gateway.console.sign_ins import SignIns
from workers.gateway.errors import (
    MalformedError,
    TooLargeError,
    grpc_code,
    http_status,
    log_failure,
    retry_after,
    to_message,
)
from workers.gateway.health import GatewayHealth
from workers.gateway.http.connections import Connections
from workers.gateway.http.event_stream import EventStreamResponse
from workers.gateway.http.ofrep import OfrepEndpoints
from workers.gateway.http.openapi import build_description
from workers.gateway.http.requests import JSON, RequestReceiver, parse_timeout
from workers.gateway.http.transcoding import message_from_json, message_to_json, needs_body, parse_texts
from workers.gateway.http.uvicorn_config import build_config, listen
from workers.gateway.operation import Operation
from workers.gateway.request_metrics import RequestMetrics
from workers.gateway.settings import GatewaySettings
from workers.health.checks import Problems, encode_answer

# Proxies and clients close a stream that is silent for a minute.
_KEEP_ALIVE_S = 15.0


class HttpServer:
    """Serves the operations over HTTP.

    Args:
        operations: the operations.
        flags: evaluates variables as feature flags.
        gate: admits calls.
        settings: the gateway's settings.
        health: what the health endpoints answer.
        sign_ins: who is signed in to the console; None if it isn't served.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        flags: Flags,
        gate: RequestGate,
        settings: GatewaySettings,
        health: GatewayHealth,
        sign_ins: SignIns | None = None,
    ) -> None:
        assert settings.http is not None
        self._gate = gate
        self._limits = settings.limits
        # Checked before the items are parsed.
        self._max_items = {"changes": settings.limits.changes, "requests": settings.limits.batch}
        self._health = health
        self._operations = tuple(operations)
        host, port = parse_address(settings.http)
        self._socket = listen(host, port)
        self.address = f"{settings.http.rpartition(':')[0]}:{self._socket.getsockname()[1]}"
        connections = Connections(settings.limits.newcomers, settings.limits.calls + 100)
        web_origins = WebOrigins.from_settings(host, settings.hosts, settings.origins)
        self._receiver = RequestReceiver(gate, settings.limits, web_origins, connections)
        self._ofrep = OfrepEndpoints(gate, self._receiver, flags)
        self._console = (
            Console(
                self._operations,
                gate,
                self._receiver,
                sign_ins,
                settings.limits,
                secure=settings.tls is not None,
                trace_url=settings.trace_url,
                openid=settings.openid,
            )
            if sign_ins
            else None
        )
        self._accepting = asyncio.Event()
        config = build_config(self.build_app(), settings, connections)
        self._server = UvicornServer(config, self._accepting.set)
        self._serving: asyncio.Task[None] | None = None

    def build_app(self) -> Starlette:
        """Return the ASGI application."""
        by_path: dict[str, dict[str, Operation]] = {}
        for operation in self._operations:
            method, path = operation.http
            by_path.setdefault(path, {})[method] = operation
        # A path without parameters first: what it allows is told to who asks by another method.
        paths = sorted(by_path, key=lambda path: "{" in path)
        routes = [self._build_route(path, by_path[path]) for path in paths]
        document = encode_canonical(build_description(self._operations, requires_token=self._gate.requires_token))
        routes += [
            *self._ofrep.routes(),
            Route("/openapi.json", self._with_sender_check(_constant_answer(document))),
            Route("/livez", _health_endpoint(self._health.live)),
            Route("/healthz", _health_endpoint(self._health.live)),  # its name in earlier versions
            Route("/readyz", self._handle_readiness),
            Route("/startupz", _health_endpoint(self._health.started)),
            *(self._console.routes() if self._console else ()),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(RequestMetrics, routes)],
            exception_handlers={HTTPException: self._handle_http_exception},
        )

    async def start(self) -> None:
        """Start accepting calls."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="dspex-gateway-http")
        await self._accepting.wait()

    async def stop(self, grace_s: float) -> None:
        """Stop accepting calls, and cancel those that don't finish within ``grace_s`` seconds."""
        self._server.config.timeout_graceful_shutdown = max(1, math.ceil(grace_s))
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving

    def _build_route(self, path: str, methods: Mapping[str, Operation]) -> Route:
        async def endpoint(request: Request) -> Response:
            operation = methods["GET" if request.method == "HEAD" else request.method]
            answer = self._handle_stream if operation.streaming else self._handle_unary
            try:
                self._receiver.check_sender(request)
                return await answer(operation, request)
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception as exc:  # noqa: BLE001 - reported to the client, and logged if unexpected
                return _error_response(exc, operation.path)

        # Names of sessions may contain slashes.
        return Route(
            path.replace("{session}", "{session:path}").replace("{target}", "{target:path}"),
            endpoint,
            methods=list(methods),
        )

    def _with_sender_check(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            try:
                self._receiver.check_sender(request)
            except BridgeError as exc:
                return _error_response(exc, request.url.path)
            return await answer(request)

        return checked

    async def _handle_unary(self, operation: Operation, request: Request) -> Response:
        grant, message = await self._receive(operation, request)
        answer = await self._gate.call(operation, message, grant, parse_timeout(request), request.headers)
        return Response(encode_json(message_to_json(answer)), media_type=JSON)

    async def _receive(self, operation: Operation, request: Request) -> tuple[Grant, Any]:
        """Authorize a request and parse its message; its connection is no newcomer afterwards."""
        grant = self._receiver.authorize(request, operation, request.headers.get("authorization"))
        message = await self._parse_message(operation, request)
        self._receiver.trust(request)
        return grant, message

    async def _handle_stream(self, operation: Operation, request: Request) -> Response:
        grant, message = await self._receive(operation, request)
        answers = self._gate.stream(operation, message, grant, parse_timeout(request), request.headers)
        # Wait briefly for the first response, so that an error at the start is reported by the HTTP status.
        first = asyncio.ensure_future(anext(answers, None))
        await asyncio.wait([first], timeout=_KEEP_ALIVE_S / 100)
        if first.done() and first.exception() is not None:
            await answers.aclose()
            raise first.exception() or AssertionError
        return EventStreamResponse(self._encode_events(operation, answers, first), self._limits.write_s)

    async def _encode_events(
        self, operation: Operation, answers: AsyncGenerator[Message], following: asyncio.Future[Message | None]
    ) -> AsyncGenerator[bytes]:
        async with aclosing(answers):
            try:
                while True:
                    await asyncio.wait([following], timeout=_KEEP_ALIVE_S)
                    if not following.done():
                        yield b": still here\n\n"
                        continue
                    answer = following.result()
                    if answer is None:
                        return
                    yield _encode_event(answer)
                    following = asyncio.ensure_future(anext(answers, None))
            except Exception as exc:  # noqa: BLE001 - the status has been sent, so the error is reported as an event
                log_failure(exc, operation.path)
                yield b"event: error\ndata: " + _encode_error(exc) + b"\n\n"
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _parse_message(self, operation: Operation, request: Request) -> Any:
        texts = [*request.path_params.items(), *request.query_params.multi_items()]
        if operation.http[0] == "GET":
            query = parse_texts(operation.request, texts)
            # A browser's EventSource sends the id of the last event that it received when it reconnects.
            if operation.streaming and (last := request.headers.get("last-event-id")):
                query.setdefault("after", last)
            return message_from_json(operation.request, query, "query")
        body = await self._read_object(request, needed=needs_body(operation.request, request.path_params))
        for field, max_items in self._max_items.items():
            if isinstance(items := body.get(field), list) and len(items) > max_items:
                raise TooLargeError(f"list of {field}", max_items)
        fields = dict(body)
        for key, value in parse_texts(operation.request, texts).items():
            if fields.setdefault(key, value) != value:
                raise MalformedError(f"body.{key}", "it contradicts the path or query")
        return message_from_json(operation.request, fields)

    async def _read_object(self, request: Request, *, needed: bool) -> dict[str, Any]:
        data = await self._receiver.read_body(request)
        try:
            body = parse(data) if data or needed else {}
        except (ValueError, RecursionError) as exc:
            raise MalformedError("body", f"it isn't JSON: {exc}") from exc
        if not isinstance(body, dict):
            raise MalformedError("body", "it must be a JSON object")
        return body

    async def _handle_http_exception(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        wants_page = "text/html" in request.headers.get("accept", "")
        if self._console is not None and error.status_code == 404 and wants_page:
            return await self._console.show_missing(request)
        kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "HttpError")
        body = {"error": {"kind": kind, "message": f"{error.detail}. See /openapi.json.", "fields": []}}
        return Response(encode_canonical(body), error.status_code, dict(error.headers or {}), JSON)

    async def _handle_readiness(self, _: Request) -> Response:
        await self._health.ask_servers()
        return _health_response(self._health.ready())


def _constant_answer(text: bytes) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(text, media_type=JSON)

    return answer


def _health_endpoint(probe: Callable[[], Problems]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return _health_response(probe())

    return answer


def _health_response(problems: Problems) -> Response:
    status, body = encode_answer(problems)
    return Response(body, status, {"cache-control": "no-store"}, JSON)


def _encode_event(answer: Message) -> bytes:
    position = getattr(answer, "token", "") or getattr(answer, "position", "")
    event_id = b"id: " + position.encode() + b"\n" if position else b""
    return event_id + b"data: " + encode_json(message_to_json(answer)) + b"\n\n"


def _encode_error(error: BaseException) -> bytes:
    return encode_canonical({"error": {**message_to_json(to_message(error)), "status": grpc_code(error).name}})


def _error_response(error: BaseException, path: str) -> Response:
    log_failure(error, path)
    headers = dict(retry_after(error))
    if http_status(error) == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(_encode_error(error), http_status(error), headers, JSON)
