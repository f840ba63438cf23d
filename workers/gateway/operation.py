"""One operation of the gateway: its scope, messages, HTTP route and implementation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from workers.gateway.access.authentication import GrantScope
from workers.gateway.call import ClientCall

PACKAGE = "dspex.fleet.v1"

Unary = Callable[[Any, ClientCall], Coroutine[Any, Any, Any]]
Streaming = Callable[[Any, ClientCall], AsyncGenerator[Message]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        service, method: its names in ``dspex.fleet.v1``.
        scope: the scope that a token must grant.
        request, response: the classes of its messages.
        http: HTTP method and path, with request fields in braces.
        unary, streaming: the implementation, exactly one of the two; it gets the request and its ``ClientCall``.
        weight: returns how many calls a request counts as.
        session_in_body: whether requests name the session that the grant must cover, and the path doesn't.
    """

    service: str
    method: str
    scope: GrantScope
    request: type[Any]
    response: type[Any]
    http: tuple[str, str]
    unary: Unary | None = None
    streaming: Streaming | None = None
    weight: Callable[[Any], int] = lambda _: 1
    session_in_body: bool = False

    @property
    def name(self) -> str:
        """The name that it has in documents: ``Service.Method``."""
        return f"{self.service}.{self.method}"

    @property
    def path(self) -> str:
        """The gRPC path."""
        return f"/{PACKAGE}.{self.service}/{self.method}"

    @property
    def only_reads(self) -> bool:
        """Whether it changes nothing."""
        return self.http[0] == "GET"

    @property
    def is_of_session(self) -> bool:
        """Whether the field ``session`` of each request names a session that the grant must cover."""
        return self.session_in_body or "{session}" in self.http[1]


@dataclass(frozen=True, slots=True)
class ServiceOperations:
    """Builds the operations of one service, whose HTTP paths begin alike.

    Attributes:
        service: its name in ``dspex.fleet.v1``.
        base: the beginning of their HTTP paths.
    """

    service: str
    base: str

    def __call__(
        self,
        method: str,
        scope: GrantScope,
        request: type[Any],
        response: type[Any],
        verb: str,
        path: str = "",
        **options: Any,
    ) -> Operation:
        """Return an operation of the service.

        Args:
            method: its name.
            scope: the scope that a token must grant.
            request: the class of its requests.
            response: the class of its responses.
            verb: its HTTP method.
            path: its HTTP path after ``base``.
            options: further fields of ``Operation``: its implementation, and ``weight``.
        """
        return Operation(self.service, method, scope, request, response, (verb, self.base + path), **options)
