"""Admission of every call, gRPC or HTTP: token, scope, session, limits and timeout."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from typing import Any

from google.protobuf.message import Message

from snakepit_bridge.exceptions import ApprovalError, BridgeError
from snakepit_bridge.telemetry import TELEMETRY, Span
from snakepit_bridge.telemetry.instruments import Carrier
from workers.gateway.access.authentication import UNRESTRICTED, Grant, Grants
from workers.gateway.access.denied_calls import DeniedCalls
from workers.gateway.access.limits import GrantLimiter
from workers.gateway.call import ClientCall, require_name
from workers.gateway.errors import (
    DrainingError,
    NotGrantedError,
    StreamEndedError,
    TookTooLongError,
    TooManyError,
    UnauthenticatedError,
)
from workers.gateway.operation import Operation
from workers.gateway.settings import GatewayLimits

_RETRY_AFTER_S = 1.0
# The caller's mistake, or the caller's decision to end the call: neither is a failure of the gateway.
_EXPECTED = (BridgeError, GeneratorExit, asyncio.CancelledError)


class RequestGate:
    """Authorizes, limits and times every call, for both servers.

    Args:
        grants: the grants; if empty, every caller may do everything.
        limits: the gateway's limits.
        denied: collects the calls that are denied.

    Attributes:
        draining: set once the gateway is shutting down.
        denied: the calls that were denied.
    """

    def __init__(self, grants: Grants, limits: GatewayLimits, denied: DeniedCalls) -> None:
        self.draining = asyncio.Event()
        self.denied = denied
        self._grants = grants
        self._limits = limits
        self._limiter = GrantLimiter(limits)
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """The number of calls in flight, open streams included."""
        return self._in_flight

    @property
    def requires_token(self) -> bool:
        """Whether calls need a token."""
        return bool(self._grants)

    def authorize(self, authorization: str | None, operation: Operation) -> Grant:
        """Return the grant of a call's ``authorization`` header if it permits the operation.

        Raises:
            UnauthenticatedError: the header is missing, or its token is unknown.
            NotGrantedError: the grant lacks the operation's scope.
        """
        grant = self._authenticate(authorization)
        if not grant.allows(operation.scope):
            raise NotGrantedError(grant.name, operation.scope)
        return grant

    async def call(
        self, operation: Operation, request: Any, grant: Grant, timeout_s: float | None, headers: Carrier
    ) -> Any:
        """Run a unary operation and return its response; errors of the operation pass through.

        Args:
            operation: the operation.
            request: its request message.
            grant: the caller's grant.
            timeout_s: seconds that the client waits; the gateway's limit if None.
            headers: the request's, with the trace context that the call continues, if they have one.

        Raises:
            NotGrantedError: the grant isn't valid for the session.
            TooManyError: a limit on calls is exceeded.
            DrainingError: the gateway is shutting down.
            TookTooLongError: the operation exceeded the timeout.
        """
        with _start_span(operation, headers), self._noting_denials(operation, request, grant):
            return await self._call(operation, request, grant, timeout_s)

    async def _call(self, operation: Operation, request: Any, grant: Grant, timeout_s: float | None) -> Any:
        assert operation.unary is not None
        self._admit(operation, request, grant)
        seconds = min(self._limits.call_s, self._limits.call_s if timeout_s is None else timeout_s)
        self._in_flight += 1
        bound = asyncio.timeout(seconds)
        try:
            async with bound:
                return await operation.unary(request, ClientCall(grant, time.monotonic() + seconds, self.draining))
        except TimeoutError as exc:
            if bound.expired() and not isinstance(exc, BridgeError):
                raise TookTooLongError(seconds) from None
            raise
        finally:
            self._in_flight -= 1

    async def stream(
        self, operation: Operation, request: Any, grant: Grant, timeout_s: float | None, headers: Carrier
    ) -> AsyncGenerator[Message]:
        """Run a streaming operation and yield its responses, until it, the client's timeout or the gateway ends it.

        Errors are those of ``call``, and of the operation.

        Raises:
            StreamEndedError: the stream was open for as long as the gateway allows.
        """
        span, error = _start_span(operation, headers), None
        try:
            with self._noting_denials(operation, request, grant):
                async with aclosing(self._stream(operation, request, grant, timeout_s)) as answers:
                    async for answer in answers:
                        yield answer
        except BaseException as exc:
            error = exc
            raise
        finally:
            span.end(error)

    async def _stream(
        self, operation: Operation, request: Any, grant: Grant, timeout_s: float | None
    ) -> AsyncGenerator[Message]:
        assert operation.streaming is not None
        self._admit(operation, request, grant)
        seconds = min(self._limits.stream_s, self._limits.stream_s if timeout_s is None else timeout_s)
        self._in_flight += 1
        try:
            with self._limiter.count_stream(grant):
                call = ClientCall(grant, time.monotonic() + seconds, self.draining)
                async with aclosing(operation.streaming(request, call)) as answers:
                    while (answer := await self._next(answers, call, timeout_s)) is not None:
                        yield answer
        finally:
            self._in_flight -= 1

    async def _next(
        self, answers: AsyncGenerator[Message], call: ClientCall, timeout_s: float | None
    ) -> Message | None:
        following = asyncio.ensure_future(anext(answers, None))
        draining = asyncio.ensure_future(self.draining.wait())
        try:
            await asyncio.wait([following, draining], timeout=call.remaining_s, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                return following.result()
            if self.draining.is_set():
                raise DrainingError
            if timeout_s is not None and timeout_s < self._limits.stream_s:
                raise TookTooLongError(timeout_s)
            raise StreamEndedError(f"it was open for {self._limits.stream_s:g} s")
        finally:
            following.cancel()
            draining.cancel()
            await asyncio.gather(following, draining, return_exceptions=True)

    @contextmanager
    def _noting_denials(self, operation: Operation, request: Any, grant: Grant) -> Generator[None]:
        try:
            yield
        except (NotGrantedError, ApprovalError) as exc:
            session = str(getattr(request, "session", ""))
            self.denied.note(exc, operation.name, actor=grant.name, session=session)
            raise

    @contextmanager
    def count_stream(self, grant: Grant) -> Generator[None]:
        """Count a stream that isn't an operation's, while it is open.

        Args:
            grant: the caller's.

        Raises:
            TooManyError: the grant has its maximum of streams open, or the gateway its maximum of calls.
        """
        if self._in_flight >= self._limits.calls:
            raise TooManyError("concurrent calls", self._limits.calls, _RETRY_AFTER_S)
        self._in_flight += 1
        try:
            with self._limiter.count_stream(grant):
                yield
        finally:
            self._in_flight -= 1

    def _authenticate(self, authorization: str | None) -> Grant:
        if not self._grants:
            return UNRESTRICTED
        if authorization is None:
            raise UnauthenticatedError("The call has no token")
        scheme, _, token = authorization.partition(" ")
        grant = self._grants.find(token.strip()) if scheme.lower() == "bearer" else None
        if grant is None:
            raise UnauthenticatedError("The call's token is unknown to this gateway")
        return grant

    def _admit(self, operation: Operation, request: Any, grant: Grant) -> None:
        if self.draining.is_set():
            raise DrainingError
        if self._in_flight >= self._limits.calls:
            raise TooManyError("concurrent calls", self._limits.calls, _RETRY_AFTER_S)
        if operation.is_of_session and not grant.covers(require_name(request.session, "session")):
            raise NotGrantedError(grant.name, operation.scope, request.session)
        self._limiter.count_call(grant, operation.weight(request))


def _start_span(operation: Operation, headers: Carrier) -> Span:
    return TELEMETRY.tracer.span(operation.path[1:], kind="server", parent=headers, expected=_EXPECTED)
