"""The gateway's HTTP side: the operations with JSON, streams as server-sent events, and their OpenAPI description."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any

import uvicorn
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.variables.codec import canonical, parse
from workers.gateway.connections import bounded
from workers.gateway.door import Door
from workers.gateway.errors import (
    MalformedError,
    TookTooLongError,
    TooLargeError,
    code_of,
    described,
    http_status,
    retry_after,
)
from workers.gateway.openapi import description
from workers.gateway.operations import Operation
from workers.gateway.settings import GatewaySettings, Tls, split
from workers.gateway.transcoding import as_json, from_json, from_texts

_log = logging.getLogger(__name__)

_JSON = "application/json"
_EVENTS = "text/event-stream"
# Proxies and clients close a stream on which nothing comes for a minute.
_COMMENT_S = 15.0
_KEEP_ALIVE_S = 60


class HttpServer:
    """Serves the operations by HTTP.

    Args:
        operations: what it serves.
        door: who gets in.
        settings: where it listens, TLS and limits.
        ready: tells whether the fleet's store answers.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        door: Door,
        settings: GatewaySettings,
        ready: Callable[[], Awaitable[bool]],
    ) -> None:
        assert settings.http is not None
        self._door = door
        self._limits = settings.limits
        self._ready = ready
        self._operations = tuple(operations)
        host, port = split(settings.http)
        self._listening = _socket(host, port)
        self.address = f"{settings.http.rpartition(':')[0]}:{self._listening.getsockname()[1]}"
        self._server = _Server(_config(self.app(), settings))
        self._serving: asyncio.Task[None] | None = None

    def app(self) -> Starlette:
        """Returns the ASGI application."""
        routes = [self._route(operation) for operation in self._operations]
        document = canonical(description(self._operations, guarded=self._door.guarded))
        return Starlette(
            routes=[
                *routes,
                Route("/openapi.json", _always(document)),
                Route("/healthz", _always(b'{"status":"ok"}')),
                Route("/readyz", self._readiness),
            ],
            exception_handlers={HTTPException: _no_route},
        )

    async def start(self) -> None:
        """Serves from now on."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listening]), name="dspex-gateway-http")
        await self._server.accepting.wait()

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, and breaks off those that aren't done in time."""
        self._server.config.timeout_graceful_shutdown = max(1, math.ceil(grace_s))
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving

    def _route(self, operation: Operation) -> Route:
        method, path = operation.http
        answer = self._events if operation.streaming else self._answer

        async def endpoint(request: Request) -> Response:
            try:
                return await answer(operation, request)
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception as error:  # noqa: BLE001 - whatever it is, the client is told and the log knows more
                return _refused(error, operation)

        # Sessions may have slashes in their names.
        return Route(path.replace("{session}", "{session:path}"), endpoint, methods=[method])

    async def _answer(self, operation: Operation, request: Request) -> Response:
        grant = self._door.grant(request.headers.get("authorization"), operation)
        message = await self._message(operation, request)
        answer = await self._door.call(operation, message, grant, _timeout(request))
        return Response(canonical(as_json(answer)), media_type=_JSON)

    async def _events(self, operation: Operation, request: Request) -> Response:
        grant = self._door.grant(request.headers.get("authorization"), operation)
        message = await self._message(operation, request)
        answers = self._door.stream(operation, message, grant, _timeout(request))
        # The first answer, or a wait for it, tells whether the stream is refused; that is said by the status.
        first = asyncio.ensure_future(anext(answers, None))
        await asyncio.wait([first], timeout=_COMMENT_S / 100)
        if first.done() and first.exception() is not None:
            await answers.aclose()
            raise first.exception() or AssertionError
        return _Events(self._written(operation, answers, first), self._limits.write_s)

    async def _written(
        self, operation: Operation, answers: AsyncGenerator[Message], following: asyncio.Future[Message | None]
    ) -> AsyncGenerator[bytes]:
        async with aclosing(answers):
            try:
                while True:
                    await asyncio.wait([following], timeout=_COMMENT_S)
                    if not following.done():
                        yield b": still here\n\n"
                        continue
                    answer = following.result()
                    if answer is None:
                        return
                    yield _event(answer)
                    following = asyncio.ensure_future(anext(answers, None))
            except Exception as error:  # noqa: BLE001 - the status is sent already, so it is told as an event
                _logged(error, operation)
                yield b"event: error\ndata: " + _error(error) + b"\n\n"
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _message(self, operation: Operation, request: Request) -> Any:
        texts = [*request.path_params.items(), *request.query_params.multi_items()]
        if operation.http[0] == "GET":
            return from_json(operation.request, from_texts(operation.request, texts), "query")
        body = await self._body(request)
        given = dict(body)
        for key, value in from_texts(operation.request, texts).items():
            if given.setdefault(key, value) != value:
                raise MalformedError(f"body.{key}", "the path says something else")
        return from_json(operation.request, given)

    async def _body(self, request: Request) -> dict[str, Any]:
        most, data = self._limits.message_bytes, bytearray()
        length = request.headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > most:
            raise TooLargeError("body", most)
        try:
            async with asyncio.timeout(self._limits.read_s):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > most:
                        raise TooLargeError("body", most)
        except TimeoutError:
            raise TookTooLongError(self._limits.read_s) from None
        try:
            body = parse(bytes(data)) if data else {}
        except (ValueError, RecursionError) as wrong:
            raise MalformedError("body", f"it isn't JSON: {wrong}") from wrong
        if not isinstance(body, dict):
            raise MalformedError("body", "it is a JSON object")
        return body

    async def _readiness(self, _: Request) -> Response:
        ready = not self._door.draining.is_set() and await self._ready()
        text = b'{"status":"ready"}' if ready else b'{"status":"not ready"}'
        return Response(text, 200 if ready else 503, media_type=_JSON)


class _Events(StreamingResponse):
    """Server-sent events. A reader that takes nothing holds its stream, but not for ever."""

    def __init__(self, events: AsyncGenerator[bytes], write_s: float) -> None:
        super().__init__(events, media_type=_EVENTS, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._events = events
        self._write_s = write_s

    async def stream_response(self, send: Any) -> None:
        async def bounded(message: Any) -> None:
            async with asyncio.timeout(self._write_s):
                await send(message)

        async with aclosing(self._events):
            try:
                await super().stream_response(bounded)
            except TimeoutError:
                _log.info("an event stream's reader took nothing for %g s", self._write_s)


class _Server(uvicorn.Server):
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


def _config(app: Starlette, settings: GatewaySettings) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=settings.limits.calls + 100,
        http=bounded(settings.limits.read_s),
        h11_max_incomplete_event_size=16 * 1024,
        timeout_keep_alive=_KEEP_ALIVE_S,
        **_files(settings.tls),
    )
    try:
        config.load()
    except OSError as problem:  # what OpenSSL raises is one, too
        raise ConfigurationError(f"The gateway's TLS files can't be used: {problem}.") from problem
    return config


def _files(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    files: dict[str, Any] = {"ssl_certfile": str(tls.certificate), "ssl_keyfile": str(tls.key)}
    if tls.client_ca is not None:
        files |= {"ssl_ca_certs": str(tls.client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return files


def _socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2_048)
    except OSError as problem:
        listening.close()
        raise ConfigurationError(f"The gateway can't listen on {host}:{port}: {problem.strerror}.") from problem
    return listening


def _timeout(request: Request) -> float | None:
    text = request.headers.get("request-timeout")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= 86_400:
        raise MalformedError("header request-timeout", "it is a number of seconds, 1 to 86400")
    return seconds


def _always(text: bytes) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(text, media_type=_JSON)

    return answer


def _event(answer: Message) -> bytes:
    token = getattr(answer, "token", "")
    id = b"id: " + token.encode() + b"\n" if token else b""
    return id + b"data: " + canonical(as_json(answer)) + b"\n\n"


def _error(error: BaseException) -> bytes:
    return canonical({"error": {**as_json(described(error)), "status": code_of(error).name}})


def _logged(error: BaseException, operation: Operation) -> None:
    if http_status(error) == 500:
        _log.error("%s failed", operation.path, exc_info=error)


def _refused(error: BaseException, operation: Operation) -> Response:
    _logged(error, operation)
    headers = dict(retry_after(error))
    if http_status(error) == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(_error(error), http_status(error), headers, _JSON)


async def _no_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "HttpError")
    text = canonical({"error": {"kind": kind, "message": f"{error.detail}. See /openapi.json.", "fields": []}})
    return Response(text, error.status_code, dict(error.headers or {}), _JSON)
