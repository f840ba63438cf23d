"""Receive HTTP requests: check their sender, authorize them, and read their body within the gateway's limits."""

from __future__ import annotations

import asyncio
import math

from starlette.datastructures import Headers
from starlette.requests import Request

from snakepit_bridge.exceptions import BridgeError
from workers.gateway.access.authentication import Grant
from workers.gateway.access.gate import RequestGate
from workers.gateway.access.web_origins import WebOrigins
from workers.gateway.call import MAX_TIMEOUT_S, MIN_TIMEOUT_S
from workers.gateway.errors import MalformedError, MediaTypeError, TookTooLongError, TooLargeError
from workers.gateway.http.connections import Connections
from workers.gateway.operation import Operation
from workers.gateway.settings import GatewayLimits

JSON = "application/json"
_OTHER_SITES = ("cross-site", "same-site")


class RequestReceiver:
    """Receives the requests of one HTTP server.

    Args:
        gate: authorizes them.
        limits: the gateway's.
        web_origins: the hosts and origins that they may name.
        connections: the server's.
    """

    def __init__(
        self, gate: RequestGate, limits: GatewayLimits, web_origins: WebOrigins, connections: Connections
    ) -> None:
        self._gate = gate
        self._limits = limits
        self._web_origins = web_origins
        self._connections = connections

    def check_sender(self, request: Request) -> None:
        """Check that no page of another origin sent a request.

        Raises:
            HostNotAllowedError: the host isn't this gateway's.
            OriginNotAllowedError: a browser sent the request for a page of another origin.
            MediaTypeError: there is a body, and its content type isn't JSON.
        """
        headers = request.headers
        self._web_origins.check(headers.get("host"), headers.get("origin"), headers.get("sec-fetch-site"))
        if request.method == "POST":
            _check_media_type(headers)

    def check_page_sender(self, request: Request) -> bool:
        """Check that no page of another origin sent a request for a page, and return whether its link led there.

        Browsers send no cookie when they follow a link of another site, so the page has to be requested once more.

        Raises:
            HostNotAllowedError: the host isn't this gateway's.
            OriginNotAllowedError: a page of another origin sent the request.
        """
        headers, site = request.headers, request.headers.get("sec-fetch-site")
        is_link = request.method == "GET" and headers.get("sec-fetch-mode") == "navigate" and site in _OTHER_SITES
        self._web_origins.check_page(headers.get("host"), headers.get("origin"), None if is_link else site)
        return is_link

    def authorize(self, request: Request, operation: Operation, authorization: str | None) -> Grant:
        """Return the caller's grant if it permits an operation; its connection is no newcomer afterwards.

        Raises:
            UnauthenticatedError: there is no token, or an unknown one.
            NotGrantedError: the grant lacks the operation's scope.
        """
        try:
            grant = self._gate.authorize(authorization, operation)
        except BridgeError as exc:
            session = str(request.path_params.get("session", ""))
            self._gate.denied.note(exc, operation.name, session=session, address=read_address(request))
            raise
        if self._gate.requires_token:
            self.trust(request)
        return grant

    def trust(self, request: Request) -> None:
        """Count the connection of a request that has arrived completely as no newcomer."""
        self._connections.trust(request.scope.get("client"))

    async def read_body(self, request: Request) -> bytes:
        """Return a request's body.

        Raises:
            TooLargeError: it is larger than the limit.
            TookTooLongError: it didn't arrive in time.
        """
        max_bytes, data = self._limits.message_bytes, bytearray()
        length = request.headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > max_bytes:
            raise TooLargeError("body", max_bytes)
        try:
            async with asyncio.timeout(self._limits.read_s):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > max_bytes:
                        raise TooLargeError("body", max_bytes)
        except TimeoutError:
            raise TookTooLongError(self._limits.read_s) from None
        return bytes(data)


def read_address(request: Request) -> str:
    """Return the address that a request came from; empty if it isn't known."""
    return request.client.host if request.client is not None else ""


def parse_timeout(request: Request) -> float | None:
    """Return the seconds that the client waits; None if it doesn't say.

    Raises:
        MalformedError: it says something else, or an unlikely number.
    """
    text = request.headers.get("request-timeout")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not MIN_TIMEOUT_S <= seconds <= MAX_TIMEOUT_S:
        raise MalformedError(
            "header request-timeout", f"it must be a number of seconds, {MIN_TIMEOUT_S} to {MAX_TIMEOUT_S}"
        )
    return seconds


def _check_media_type(headers: Headers) -> None:
    """Check that a request with a body declares JSON, which browsers send to other origins only with permission.

    Raises:
        MediaTypeError: there is a body, and its content type isn't JSON.
    """
    content_type = headers.get("content-type")
    if content_type is None and headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    if (content_type or "").partition(";")[0].strip().lower() != JSON:
        raise MediaTypeError(content_type or "")
