"""The gateway's HTTP side: the operations with JSON, streams as server-sent events, and their OpenAPI description."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any

from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.variables.codec import canonical, parse, written
from workers.gateway.access.authentication import Grant
from workers.gateway.access.gate import RequestGate
from workers.gateway.access.web_origins import WebOrigins
from workers.gateway.call import LONGEST_S, SHORTEST_S
from workers.gateway.errors import (
    MalformedError,
    MediaTypeError,
    TookTooLongError,
    TooLargeError,
    code_of,
    described,
    http_status,
    retry_after,
)
from workers.gateway.http.connections import Connections
from workers.gateway.http.openapi import description
from workers.gateway.http.transcoding import as_json, from_json, from_texts
from workers.gateway.http.uvicorn_server import Server, config, listen
from workers.gateway.operations import Operation
from workers.gateway.settings import GatewaySettings, split

_log = logging.getLogger(__name__)

_JSON = "application/json"
_EVENTS = "text/event-stream"
# Proxies and clients close a stream on which nothing comes for a minute.
_COMMENT_S = 15.0


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
        door: RequestGate,
        settings: GatewaySettings,
        ready: Callable[[], Awaitable[bool]],
    ) -> None:
        assert settings.http is not None
        self._door = door
        self._limits = settings.limits
        # Counted before they are read one by one.
        self._items = {"changes": settings.limits.changes, "requests": settings.limits.batch}
        self._ready = ready
        self._operations = tuple(operations)
        host, port = split(settings.http)
        self._web = WebOrigins.of(host, settings.hosts, settings.origins)
        self._listening = listen(host, port)
        self.address = f"{settings.http.rpartition(':')[0]}:{self._listening.getsockname()[1]}"
        self._connections = Connections(settings.limits.newcomers, settings.limits.calls + 100)
        self._server = Server(config(self.app(), settings, self._connections))
        self._serving: asyncio.Task[None] | None = None

    def app(self) -> Starlette:
        """Returns the ASGI application."""
        by_path: dict[str, dict[str, Operation]] = {}
        for operation in self._operations:
            method, path = operation.http
            by_path.setdefault(path, {})[method] = operation
        routes = [self._route(path, methods) for path, methods in by_path.items()]
        document = canonical(description(self._operations, guarded=self._door.guarded))
        return Starlette(
            routes=[
                *routes,
                Route("/openapi.json", self._own(_always(document))),
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

    def _route(self, path: str, methods: Mapping[str, Operation]) -> Route:
        async def endpoint(request: Request) -> Response:
            operation = methods["GET" if request.method == "HEAD" else request.method]
            answer = self._events if operation.streaming else self._answer
            try:
                self._check_sender(request)
                return await answer(operation, request)
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception as error:  # noqa: BLE001 - whatever it is, the client is told and the log knows more
                return _refused(error, operation.path)

        # Sessions may have slashes in their names.
        return Route(path.replace("{session}", "{session:path}"), endpoint, methods=list(methods))

    def _own(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            try:
                self._check_sender(request)
            except BridgeError as exc:
                return _refused(exc, request.url.path)
            return await answer(request)

        return checked

    def _check_sender(self, request: Request) -> None:
        headers = request.headers
        self._web.check(headers.get("host"), headers.get("origin"), headers.get("sec-fetch-site"))
        if request.method == "POST":
            _check_media_type(headers)

    async def _answer(self, operation: Operation, request: Request) -> Response:
        grant, message = await self._entered(operation, request)
        answer = await self._door.call(operation, message, grant, _timeout(request))
        return Response(written(as_json(answer)), media_type=_JSON)

    async def _entered(self, operation: Operation, request: Request) -> tuple[Grant, Any]:
        """Return whose call it is and what it asks for; its connection isn't a newcomer's from here on."""
        grant = self._door.grant(request.headers.get("authorization"), operation)
        peer = request.scope.get("client")
        if self._door.guarded:
            self._connections.trust(peer)
        message = await self._message(operation, request)
        self._connections.trust(peer)
        return grant, message

    async def _events(self, operation: Operation, request: Request) -> Response:
        grant, message = await self._entered(operation, request)
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
                _logged(error, operation.path)
                yield b"event: error\ndata: " + _error(error) + b"\n\n"
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _message(self, operation: Operation, request: Request) -> Any:
        texts = [*request.path_params.items(), *request.query_params.multi_items()]
        if operation.http[0] == "GET":
            asked = from_texts(operation.request, texts)
            # What a browser's EventSource sends when it connects again: the id of the last event that it has.
            if operation.streaming and (last := request.headers.get("last-event-id")):
                asked.setdefault("after", last)
            return from_json(operation.request, asked, "query")
        body = await self._body(request, needed=operation.request is not pb.PredictionRequest)
        for field, most in self._items.items():
            if isinstance(items := body.get(field), list) and len(items) > most:
                raise TooLargeError(f"list of {field}", most)
        given = dict(body)
        for key, value in from_texts(operation.request, texts).items():
            if given.setdefault(key, value) != value:
                raise MalformedError(f"body.{key}", "the path says something else")
        return from_json(operation.request, given)

    async def _body(self, request: Request, *, needed: bool) -> dict[str, Any]:
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
            body = parse(bytes(data)) if data or needed else {}
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


def _check_media_type(headers: Headers) -> None:
    """A page may send a text or a form to any host without being asked; to send JSON it has to be let.

    Raises:
        MediaTypeError: there is a body, and it isn't said to be JSON.
    """
    said = headers.get("content-type")
    if said is None and headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    if (said or "").partition(";")[0].strip().lower() != _JSON:
        raise MediaTypeError(said or "")


def _timeout(request: Request) -> float | None:
    text = request.headers.get("request-timeout")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise MalformedError("header request-timeout", f"it is a number of seconds, {SHORTEST_S} to {LONGEST_S}")
    return seconds


def _always(text: bytes) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(text, media_type=_JSON)

    return answer


def _event(answer: Message) -> bytes:
    place = getattr(answer, "token", "") or getattr(answer, "position", "")
    id = b"id: " + place.encode() + b"\n" if place else b""
    return id + b"data: " + written(as_json(answer)) + b"\n\n"


def _error(error: BaseException) -> bytes:
    return canonical({"error": {**as_json(described(error)), "status": code_of(error).name}})


def _logged(error: BaseException, path: str) -> None:
    if http_status(error) == 500:
        _log.error("%s failed", path, exc_info=error)


def _refused(error: BaseException, path: str) -> Response:
    _logged(error, path)
    headers = dict(retry_after(error))
    if http_status(error) == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(_error(error), http_status(error), headers, _JSON)


async def _no_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "HttpError")
    text = canonical({"error": {"kind": kind, "message": f"{error.detail}. See /openapi.json.", "fields": []}})
    return Response(text, error.status_code, dict(error.headers or {}), _JSON)
