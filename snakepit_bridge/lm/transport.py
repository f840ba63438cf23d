"""The native client's way to a provider: a pool of our size, and replies that are looked at before they are parsed.

DSPy's client takes the status of a reply for what it says, skips what it doesn't know in a stream, and lets a parser's
``ValueError`` through. Here a request that can't be sent is refused before a connection is opened, an error in a reply
of status 200 is raised as its own code would have been, and an answer that comes whole though a stream was asked for is
handed over as one.
"""

from __future__ import annotations

import json
import select
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.request import getproxies

from dspy.lm15 import ConfigurationError

from snakepit_bridge.lm.compat import AsyncConnection, AsyncConnectionPool, HttpResponse, StdlibAsyncTransport
from snakepit_bridge.lm.endpoint import Endpoint
from snakepit_bridge.lm.failures import AnswerRefused, find_failure_in_text, parse_error_event, sanitize_usage
from snakepit_bridge.lm.http_fields import find_headers_problem, find_url_problem

_SSE_FIELDS = (b"data", b"event", b"id", b"retry", b"error", b":")


@dataclass(slots=True)
class RequestProgress:
    """How far one request came.

    Attributes:
        status: HTTP status of the reply; None before it has begun.
        body: its body, where that was read whole.
    """

    status: int | None = None
    body: bytes = b""


request_progress: ContextVar[RequestProgress | None] = ContextVar("dspex_lm_reached", default=None)
"""Set by who sends a request, to learn afterwards whether a failure came from building it or from its reply."""


class UnstreamedReply(Exception):
    """A reply that isn't a stream although one was asked for."""

    def __init__(self, reply: HttpResponse) -> None:
        super().__init__("the reply is whole")
        self.reply = reply


def build_transport(endpoint: Endpoint) -> CheckedTransport:
    """Return a pool as large as the endpoint says, without timers of its own.

    A request has one timer, the engine's. Each of the transport's would be a task more, three of them per request.
    """
    never: Any = None
    return CheckedTransport(
        connect_timeout=min(10.0, endpoint.timeout_s),
        read_timeout=never,
        write_timeout=never,
        pool_timeout=None,
        max_connections=endpoint.max_connections,
        # It would read the whole environment for every request; a process finds out once whether there is a proxy.
        trust_env=bool(getproxies()),
    )


def request_build_error(problem: str) -> ConfigurationError:
    """Return the error of a request that can't be built, which no other try mends."""
    return ConfigurationError(f"the request can't be built: {problem}", code="unbuildable_request")


class _Pool(AsyncConnectionPool):
    """DSPy's pool, which also takes a kept connection whose file number is above 1,023.

    The original looks with ``select``, which can't be asked about such a one and so has it closed: a process with a
    thousand calls under way would connect anew for each.
    """

    async def checkout(self, origin: tuple[str, str, int]) -> AsyncConnection | None:
        """Return a kept connection to a server, None if there is none that is good."""
        async with self._lock:
            kept = self._idle.get(origin)
            while kept:
                connection = kept.pop()
                if not _is_stale(connection):
                    self._in_use.add(connection)
                    return connection
                connection.close()
            return None

    def close_idle(self) -> None:
        """Close the connections that no request uses."""
        for kept in self._idle.values():
            while kept:
                kept.pop().close()


def _is_stale(connection: AsyncConnection) -> bool:
    """Check whether a kept connection has something to say: it could only be that its server has hung up."""
    sock: Any = connection.writer.get_extra_info("socket")
    if connection.closed or sock is None or sock.fileno() < 0:
        return True
    if not hasattr(select, "poll"):  # Windows, where select takes any number
        return connection.is_stale()
    looking = select.poll()
    looking.register(sock.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(looking.poll(0))


class CheckedTransport(StdlibAsyncTransport):
    """DSPy's transport, with requests checked before they are sent and replies before they are parsed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._pool = _Pool(self.max_connections)

    def close_idle(self) -> None:
        """Close the connections that no request uses."""
        self._pool.close_idle()

    def stream(self, request: Any) -> Any:
        """Return the connection to the reply.

        Raises:
            lm15.ConfigurationError: no request can be built of this.
        """
        problem = find_headers_problem(request.headers) or find_url_problem(request.url)
        if problem is not None:
            raise request_build_error(problem)
        return _ReplyContext(super().stream(request))


@dataclass(slots=True)
class _ReplyContext:
    """What opens a reply and closes it."""

    inner: Any

    async def __aenter__(self) -> Reply:
        response = await self.inner.__aenter__()
        progress = request_progress.get()
        if progress is not None:
            progress.status = response.status
        return Reply(response)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.inner.__aexit__(kind, exc, trace)


@dataclass(slots=True)
class Reply:
    """A reply whose body is looked at for errors while it is read."""

    inner: Any
    _refusal: list[str] = field(default_factory=list[str])

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.inner.status

    @property
    def reason(self) -> str:
        """What the status line says behind the status."""
        return self.inner.reason

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Headers, as they came."""
        return self.inner.headers

    @property
    def http_version(self) -> str:
        """Version of HTTP."""
        return self.inner.http_version

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            lm15.LM15Error: it is an error under a status of success.
        """
        body: bytes = await self.inner.read()
        progress = request_progress.get()
        if progress is not None:
            progress.body = body
        if self.status < 400 and (failure := find_failure_in_text(body)) is not None:
            raise failure
        return body

    async def aiter_lines(self) -> AsyncIterator[bytes]:
        """Yield the lines of an event stream.

        Raises:
            lm15.LM15Error: an event is an error.
            WholeAnswer: it is no event stream.
        """
        lines = self.inner.aiter_lines()
        named = ""
        begun = False
        async for line in lines:
            bare = line.strip()
            if not begun and bare:
                if not bare.startswith(_SSE_FIELDS):
                    raise UnstreamedReply(self._as_http_response(line + b"".join([rest async for rest in lines])))
                begun = True
            name, _, value = bare.partition(b":")
            if name == b"event":
                named = value.strip().decode(errors="replace")
            elif name == b"error" or (name == b"data" and named == "error"):
                raise parse_error_event(value.strip().decode(errors="replace"))
            elif name == b"data":
                self._check_event(value)
                line = _sanitize_line(line, value)
            elif not bare:
                named = ""
            yield line
        if self._refusal:
            raise AnswerRefused("".join(self._refusal))

    def _check_event(self, value: bytes) -> None:
        failure = find_failure_in_text(value)
        if failure is not None:
            raise failure
        if b'"refusal"' in value:
            self._refusal += _parse_refusals(value)

    def _as_http_response(self, body: bytes) -> HttpResponse:
        return HttpResponse(self.status, self.reason, self.headers, body, self.http_version)


def _sanitize_line(line: bytes, value: bytes) -> bytes:
    """A line with an event, without counts of tokens in it that would cost the answer behind them."""
    if b'"usage"' not in value or b'"usage":null' in value or b'"usage": null' in value:
        return line
    try:
        return b"data: " + json.dumps(sanitize_usage(json.loads(value))).encode() + b"\n"
    except (ValueError, RecursionError):
        return line


def _parse_refusals(value: bytes) -> list[str]:
    """What a chat event holds of a refusal, which DSPy's client leaves out."""
    try:
        choices = json.loads(value).get("choices") or []
        texts = [choice["delta"].get("refusal") for choice in choices]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []
    return [text for text in texts if isinstance(text, str)]
