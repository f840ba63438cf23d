"""The door that every call comes through, by gRPC or HTTP: its token, scope, session, limits and time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from google.protobuf.message import Message

from snakepit_bridge.exceptions import BridgeError
from workers.gateway.access.authentication import UNRESTRICTED, Grant, Grants
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
from workers.gateway.operations import Operation
from workers.gateway.settings import GatewayLimits

_RETRY_AFTER_S = 1.0


class RequestGate:
    """Lets calls in.

    Args:
        grants: who may do what; none lets everybody do everything.
        limits: what the gateway bears.

    Attributes:
        draining: set once the gateway is being stopped.
    """

    def __init__(self, grants: Grants, limits: GatewayLimits) -> None:
        self.draining = asyncio.Event()
        self._grants = grants
        self._limits = limits
        self._limiter = GrantLimiter(limits)
        self._in_flight = 0

    @property
    def requires_token(self) -> bool:
        """Whether a token is asked for."""
        return bool(self._grants)

    def authorize(self, authorization: str | None, operation: Operation) -> Grant:
        """Returns what a call's header grants, if that is enough for the operation.

        Raises:
            UnauthenticatedError, NotGrantedError
        """
        grant = self._authenticate(authorization)
        if operation.scope not in grant.scopes:
            raise NotGrantedError(grant.name, operation.scope)
        return grant

    async def call(self, operation: Operation, request: Any, grant: Grant, timeout_s: float | None) -> Message:
        """Returns the answer to a call that is answered once.

        Args:
            operation: what is asked for.
            request: its message.
            grant: whose call it is.
            within_s: seconds that the client waits; as long as the gateway lets it if None.

        Raises:
            NotGrantedError, TooManyError, DrainingError
            TookTooLongError: it did.
            what the operation raises.
        """
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
        self, operation: Operation, request: Any, grant: Grant, timeout_s: float | None
    ) -> AsyncGenerator[Message]:
        """Yields the answers of a stream, until the operation, the client's time or the gateway ends it.

        Raises:
            StreamEndedError: it was open for as long as it may.
            what ``call`` raises.
        """
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

    def _authenticate(self, authorization: str | None) -> Grant:
        if not self._grants:
            return UNRESTRICTED
        if authorization is None:
            raise UnauthenticatedError("The call has no token")
        scheme, _, token = authorization.partition(" ")
        grant = self._grants.find(token.strip()) if scheme.lower() == "bearer" else None
        if grant is None:
            raise UnauthenticatedError("The call's token isn't one of this gateway")
        return grant

    def _admit(self, operation: Operation, request: Any, grant: Grant) -> None:
        if self.draining.is_set():
            raise DrainingError
        if self._in_flight >= self._limits.calls:
            raise TooManyError("calls at a time", self._limits.calls, _RETRY_AFTER_S)
        if operation.service == "Variables" and not grant.covers(require_name(request.session, "session")):
            raise NotGrantedError(grant.name, operation.scope, request.session)
        self._limiter.count_call(grant, operation.weight(request))
