"""The HTTP transport of the native client: our pool size, and requests and replies that are checked.

DSPy's client trusts the HTTP status, skips unknown events in a stream, and lets a parser's ``ValueError`` through. This
transport rejects a request that can't be sent before it opens a connection, raises an error in a reply of status 200
as its own code would have been raised, and reports a reply that isn't a stream although one was requested.
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
from snakepit_bridge.lm.failures import AnswerRefusedError, find_failure_in_text, parse_error_event, sanitize_usage
from snakepit_bridge.lm.http_fields import find_headers_problem, find_url_problem

_SSE_FIELDS = (b"data", b"event", b"id", b"retry", b"error", b":")


@dataclass(slots=True)
class RequestProgress:
    """How far a request has progressed.

    Attributes:
        status: HTTP status of the reply; None until it has arrived.
        body: the reply's body, if it was read as a whole.
    """

    status: int | None = None
    body: bytes = b""


request_progress: ContextVar[RequestProgress | None] = ContextVar("dspex_lm_reached", default=None)
"""Set around a request, to tell afterwards whether building it or its reply failed."""


class UnstreamedReply(Exception):
    """Raised for a reply that isn't a stream although one was requested."""

    def __init__(self, reply: HttpResponse) -> None:
        super().__init__("the reply isn't a stream")
        self.reply = reply


def build_transport(endpoint: Endpoint) -> CheckedTransport:
    """Return a pool as large as the endpoint says, without timers of its own.

    A request has one timer, the engine's. The transport's own would add three tasks per request.
    """
    never: Any = None
    return CheckedTransport(
        connect_timeout=min(10.0, endpoint.timeout_s),
        read_timeout=never,
        write_timeout=never,
        pool_timeout=None,
        max_connections=endpoint.max_connections,
        # Its proxy lookup would read the environment for every request; once per process is enough.
        trust_env=bool(getproxies()),
    )


def request_build_error(problem: str) -> ConfigurationError:
    """Return the error of a request that can't be built; retrying doesn't help."""
    return ConfigurationError(f"the request can't be built: {problem}", code="unbuildable_request")


class _Pool(AsyncConnectionPool):
    """DSPy's connection pool, which can also reuse connections whose file descriptor is above 1,023.

    The original checks idle connections with ``select``, which fails for such descriptors, and closes them: a process
    with a thousand calls in flight would reconnect for each.
    """

    async def checkout(self, origin: tuple[str, str, int]) -> AsyncConnection | None:
        """Return an idle connection to a server, None if there is no usable one."""
        async with self._lock:
            idle = self._idle.get(origin)
            while idle:
                connection = idle.pop()
                if not _is_stale(connection):
                    self._in_use.add(connection)
                    return connection
                connection.close()
            return None

    def close_idle(self) -> None:
        """Close the connections that no request uses."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()


def _is_stale(connection: AsyncConnection) -> bool:
    """Check whether an idle connection is readable, which means that the server has closed it."""
    sock: Any = connection.writer.get_extra_info("socket")
    if connection.closed or sock is None or sock.fileno() < 0:
        return True
    if not hasattr(select, "poll"):  # Windows, where select takes any number
        return connection.is_stale()
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


class CheckedTransport(StdlibAsyncTransport):
    """DSPy's transport, with requests checked before they are sent and replies before they are parsed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._pool = _Pool(self.max_connections)
        # The last URL and headers that were found to be sendable: requests of one endpoint mostly have the same.
        self._sendable: tuple[str, tuple[tuple[str, object], ...]] | None = None

    def close_idle(self) -> None:
        """Close the connections that no request uses."""
        self._pool.close_idle()

    def stream(self, request: Any) -> Any:
        """Return the connection to the reply.

        Raises:
            lm15.ConfigurationError: no request can be built of this.
        """
        # No local holds the headers: what shows a traceback's locals would show the key.
        if (request.url, tuple(request.headers)) != self._sendable:
            problem = find_headers_problem(request.headers) or find_url_problem(request.url)
            if problem is not None:
                raise request_build_error(problem)
            self._sendable = (request.url, tuple(request.headers))
        return _ReplyContext(super().stream(request))


@dataclass(slots=True)
class _ReplyContext:
    """Async context manager that opens and closes a reply."""

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
    """A reply whose body is checked for errors while it is read."""

    inner: Any
    _refusal: list[str] = field(default_factory=list[str])

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.inner.status

    @property
    def reason(self) -> str:
        """Reason phrase of the status line."""
        return self.inner.reason

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Headers, as received."""
        return self.inner.headers

    @property
    def http_version(self) -> str:
        """HTTP version."""
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
            UnstreamedReply: it isn't an event stream.
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
            raise AnswerRefusedError("".join(self._refusal))

    def _check_event(self, value: bytes) -> None:
        failure = find_failure_in_text(value)
        if failure is not None:
            raise failure
        if b'"refusal"' in value:
            self._refusal += _parse_refusals(value)

    def _as_http_response(self, body: bytes) -> HttpResponse:
        return HttpResponse(self.status, self.reason, self.headers, body, self.http_version)


def _sanitize_line(line: bytes, value: bytes) -> bytes:
    """Return an event's line without token counts that the parser would reject the whole answer for."""
    if b'"usage"' not in value or b'"usage":null' in value or b'"usage": null' in value:
        return line
    try:
        return b"data: " + json.dumps(sanitize_usage(json.loads(value))).encode() + b"\n"
    except (ValueError, RecursionError):
        return line


def _parse_refusals(value: bytes) -> list[str]:
    """Return the texts of refusals in a chat event, which DSPy's client ignores."""
    try:
        choices = json.loads(value).get("choices") or []
        texts = [choice["delta"].get("refusal") for choice in choices]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []
    return [text for text in texts if isinstance(text, str)]
