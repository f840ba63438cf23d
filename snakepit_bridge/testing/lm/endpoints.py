"""The LM server's HTTP surface: OpenAI's endpoints, and those that show the record and set the faults.

The chat endpoint is plain ASGI: it has to see the client leave, hang, and break off an answer.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from snakepit_bridge.testing.lm import embeddings, openai_format
from snakepit_bridge.testing.lm.answers import Answerer, Raw, complete
from snakepit_bridge.testing.lm.batch_stage import BatchStage
from snakepit_bridge.testing.lm.batches import BatchEndpoints
from snakepit_bridge.testing.lm.embeddings import EmbeddedTexts
from snakepit_bridge.testing.lm.faults import Fault, Faults
from snakepit_bridge.testing.lm.prompts import AskedQuestion
from snakepit_bridge.testing.lm.recording import Recorded, RequestLog

_STREAM = "text/event-stream"
_GONE = 499
_DROPPED = 0
_UNPARSABLE = Raw("I would rather talk about the weather.")


@dataclass(frozen=True, slots=True)
class Backstage:
    """What the endpoints work with: what to say, what to record, how to misbehave, and what key to ask for."""

    answerer: Answerer
    log: RequestLog
    faults: Faults
    api_key: str | None
    models: Sequence[str]
    stopping: asyncio.Event
    batches: BatchStage
    embedded: list[EmbeddedTexts]


def build(stage: Backstage) -> Starlette:
    """Return the ASGI application."""
    records = _Records(stage.log)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", _Chat(stage), methods=["POST"]),
            Route("/v1/embeddings", _Embeddings(stage).post, methods=["POST"]),
            Route("/v1/models", _Models(stage).get),
            Route("/requests", records.get, methods=["GET"]),
            Route("/requests", records.delete, methods=["DELETE"]),
            Route("/faults", _FaultSettings(stage.faults).post, methods=["POST"]),
            *BatchEndpoints(stage.batches, _Chat(stage).answer_line, partial(_refusal, stage.api_key)).routes(),
        ]
    )


class _Chat:
    def __init__(self, stage: Backstage) -> None:
        self._stage = stage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = time.time()
        request = Request(scope, receive)
        content = await request.body()
        refusal = _refusal(self._stage.api_key, request)
        try:
            body = _chat_body(content)
        except ValueError as problem:
            refusal = refusal or _failure(400, str(problem), "invalid_request_error")
            body = {"unreadable": content.decode(errors="replace")}
        record = self._stage.log.arrive(body, authorised="authorization" in request.headers, at=arrived)
        if refusal is not None:
            self._stage.log.answer(record, refusal.status_code)
            await refusal(scope, receive, send)
            return
        status = await self._answer(record, scope, receive, send)
        if status in (_GONE, _DROPPED):
            self._stage.log.answer(record, status)

    def answer_line(self, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of the reply to a request in a batch, which is recorded as a call is."""
        record = self._stage.log.arrive(body, authorised=True, at=time.time())
        fault = self._stage.faults.take(record.ask.user)
        response = self._response(record, fault)
        self._stage.log.answer(record, response.status_code)
        return response.status_code, json.loads(bytes(response.body))

    async def _answer(self, record: Recorded, scope: Scope, receive: Receive, send: Send) -> int:
        fault = self._stage.faults.take(record.ask.user)
        if await self._left_within(receive, self._stage.faults.next_delay_s()):
            return _GONE
        if fault is not None and fault.kind == "hang":
            await self._left_or_stopping(receive)
            return _GONE
        if fault is not None and fault.kind == "close":
            await _break_off(send)
            return _DROPPED
        response = self._response(record, fault)
        # Recorded before it is sent: who has an answer must find it in the record.
        self._stage.log.answer(record, response.status_code)
        cut = fault is not None and fault.cut is not None and fault.kind in ("cut", "raw")
        await response(scope, receive, _Cut(send, fault.cut or 0, clean=fault.clean) if fault and cut else send)
        return response.status_code

    def _response(self, record: Recorded, fault: Fault | None) -> Response:
        if fault is not None and fault.kind in ("status", "raw"):
            return _fault_response(fault) if fault.kind == "status" else _raw_response(fault)
        malformed = fault is not None and fault.kind == "malformed"
        try:
            texts = _texts(record.ask, (lambda _: _UNPARSABLE) if malformed else self._stage.answerer)
        except Exception as problem:  # noqa: BLE001 - whatever an answerer raises is the answer's 500
            return _failure(500, f"the answerer raised {type(problem).__name__}: {problem}", "server_error")
        if record.body.get("stream"):
            characters, pause_s = self._stage.faults.piece
            events = openai_format.events(record.body, texts, record.index, characters)
            return StreamingResponse(_streamed(events, pause_s), media_type=_STREAM)
        return JSONResponse(openai_format.completion(record.body, texts, record.index))

    @staticmethod
    async def _left_within(receive: Receive, seconds: float) -> bool:
        """Check whether the client disconnects in time; after the whole request no other message can come."""
        if seconds <= 0:
            return False
        try:
            await asyncio.wait_for(receive(), seconds)
        except TimeoutError:
            return False
        return True

    async def _left_or_stopping(self, receive: Receive) -> None:
        waits = [asyncio.ensure_future(receive()), asyncio.ensure_future(self._stage.stopping.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _chat_body(content: bytes) -> Mapping[str, Any]:
    body = json.loads(content)
    messages = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("the body must be an object with a list of 'messages'")
    return body


def _texts(ask: AskedQuestion, answerer: Answerer) -> list[str]:
    wanted = int(ask.body.get("n") or 1)
    if wanted == 1:
        return [complete(ask, answerer)]
    return [complete(_choice(ask, place), answerer) for place in range(wanted)]


def _choice(ask: AskedQuestion, place: int) -> AskedQuestion:
    return AskedQuestion(ask.model, ask.layout, ask.inputs, ask.system, ask.user, ask.body, place)


def _refusal(api_key: str | None, request: Request) -> Response | None:
    key = request.headers.get("x-api-key")  # Anthropic's
    given = (request.headers.get("authorization", "") if key is None else f"Bearer {key}").encode()
    if api_key is None or hmac.compare_digest(given, f"Bearer {api_key}".encode()):
        return None
    return _failure(401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key")


def _failure(status: int, message: str, kind: str, code: str | None = None) -> Response:
    return JSONResponse(openai_format.error(message, kind, code), status)


def _fault_response(fault: Fault) -> Response:
    headers = {} if fault.retry_after_s is None else {"retry-after": f"{fault.retry_after_s:g}"}
    if isinstance(fault.body, str):
        return Response(fault.body, fault.status, headers, "text/plain")
    kind = "rate_limit_error" if fault.status == 429 else "server_error"
    return JSONResponse(
        fault.body or openai_format.error(f"fault {fault.status} on request", kind), fault.status, headers
    )


def _raw_response(fault: Fault) -> Response:
    text = fault.body if isinstance(fault.body, str) else json.dumps(fault.body)
    headers = {} if fault.retry_after_s is None else {"retry-after": f"{fault.retry_after_s:g}"}
    # Lone surrogates are among what a server may say.
    return Response(text.encode(errors="surrogatepass"), fault.status, headers, fault.content_type or None)


class _Cut:
    """Sends a response's body as far as a number of bytes; what comes then looks like its end, or breaks it off."""

    def __init__(self, send: Send, size: int, *, clean: bool) -> None:
        self._send = send
        self._left = size
        self._clean = clean
        self._ended = False

    async def __call__(self, message: Message) -> None:
        if self._ended:
            return
        if message["type"] == "http.response.start":
            headers = [(name, value) for name, value in message["headers"] if name != b"content-length"]
            await self._send({**message, "headers": headers})
            return
        body = message.get("body", b"")[: self._left]
        self._left -= len(body)
        whole = not message.get("more_body", False) and self._left > 0
        self._ended = self._left <= 0 or whole
        # An end that isn't sent closes the connection.
        await self._send({**message, "body": body, "more_body": not (self._ended and (self._clean or whole))})


async def _streamed(pieces: Iterator[bytes], pause_s: float) -> AsyncIterator[bytes]:
    """Iterate asynchronously; a plain iterator would be run in a thread, chunk by chunk."""
    for piece in pieces:
        if pause_s:
            await asyncio.sleep(pause_s)
        yield piece


async def _break_off(send: Send) -> None:
    """Announce a longer answer than it sends; uvicorn then closes the connection, since nothing can follow."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"id": "chatcmpl-', "more_body": True})


class _Embeddings:
    def __init__(self, stage: Backstage) -> None:
        self._stage = stage

    async def post(self, request: Request) -> Response:
        refusal = _refusal(self._stage.api_key, request)
        if refusal is not None:
            return refusal
        try:
            model, texts, dimensions = embeddings.read_texts(await request.body())
        except ValueError as problem:
            return _failure(400, str(problem), "invalid_request_error")
        fault = self._stage.faults.take("\n".join(texts))
        if fault is not None and fault.kind == "status":
            response = _fault_response(fault)
        else:
            response = JSONResponse(embeddings.reply(model, texts, dimensions))
        self._stage.embedded.append(EmbeddedTexts(model, tuple(texts), response.status_code))
        return response


class _Models:
    def __init__(self, stage: Backstage) -> None:
        self._stage = stage

    async def get(self, request: Request) -> Response:
        return _refusal(self._stage.api_key, request) or JSONResponse(openai_format.models(self._stage.models))


class _Records:
    def __init__(self, log: RequestLog) -> None:
        self._log = log

    async def get(self, request: Request) -> Response:
        since = request.query_params.get("since", "0")
        if not since.isdecimal():
            return _failure(400, f"since is an index, a whole number from 0; got {since!r}", "invalid_request_error")
        brief = request.query_params.get("brief", "0") == "1"
        return JSONResponse([record.as_json(brief=brief) for record in self._log.since(int(since))])

    async def delete(self, request: Request) -> Response:
        self._log.clear()
        return Response(status_code=204)


class _FaultSettings:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    async def post(self, request: Request) -> Response:
        try:
            self._faults.configure(await request.json())
        except (TypeError, ValueError, AttributeError) as problem:
            return _failure(400, f"these faults can't be set: {problem}", "invalid_request_error")
        return JSONResponse(self._faults.as_json())
