"""Errors of calls to Elixir. gRPC's status codes aren't enough: INTERNAL, for example, may mean a rejected value.

    BridgeError
    ├── ElixirError
    │   ├── ElixirUnavailableError        unreachable, or not answering in time         (also ConnectionError)
    │   ├── ElixirFailedError             the server's own handler raised
    │   ├── ElixirMethodNotServedError    a method that this server doesn't have
    │   ├── AnswerTooLargeError           an answer above the receive limit
    │   └── UnreadableVariableError       a variable whose value can't be decoded
    └── SessionNotFoundError
        └── ElixirSessionNotFoundError    a session that Elixir doesn't have (any more)

A value that Elixir rejects is a ``ValidationError``, a variable that it doesn't have a ``VariableNotFoundError``.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from snakepit_bridge.exceptions import BridgeError, SessionNotFoundError, ValidationError, VariableNotFoundError

_error = dataclass(eq=False, repr=False)


class ElixirError(BridgeError):
    """Base of errors of the Elixir server and its responses."""


@_error
class ElixirUnavailableError(ElixirError, ConnectionError):
    """The Elixir server can't be reached or does not answer in time. What it did with the call is unknown."""

    address: str
    problem: str

    def __str__(self) -> str:
        problem = self.problem.rstrip(".")
        return f"Elixir at {self.address} is away: {problem}. Start it, or name another one with --bridge."


@_error
class ElixirFailedError(ElixirError):
    """The Elixir server's own handler failed; its log says more."""

    method: str
    session: str
    status: str
    details: str

    def __str__(self) -> str:
        details = self.details.rstrip(".")
        return f"Elixir failed in {self.method} of session '{self.session}' with {self.status}: {details}. See its log."


@_error
class ElixirMethodNotServedError(ElixirError):
    """A method of the protocol that this Elixir server doesn't implement."""

    address: str
    method: str

    def __str__(self) -> str:
        return f"Elixir at {self.address} doesn't serve {self.method}. A newer snakepit may."


@_error
class AnswerTooLargeError(ElixirError):
    """An answer above the receive limit; the session's variables are too large to be read at once."""

    method: str
    session: str
    limit_bytes: int

    def __str__(self) -> str:
        limit = f"{self.limit_bytes / 2**20:g} MiB"
        return f"The answer to {self.method} of session '{self.session}' is larger than {limit}. Raise the limit."


@_error
class UnreadableVariableError(ElixirError, ValueError):
    """A variable from Elixir whose value can't be decoded."""

    variable: str
    problem: str

    def __str__(self) -> str:
        return f"Variable '{self.variable}' came from Elixir unreadable: {self.problem}. Set it anew there."


@_error
class ElixirSessionNotFoundError(SessionNotFoundError):
    """A session that the Elixir server doesn't have: never begun, expired unread, or gone with a restart."""

    def __str__(self) -> str:
        return f"Elixir has no session '{self.session}'. Begin it there; it is followed from then on."


_UNAVAILABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
_REFUSED = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT})


@dataclass(frozen=True, slots=True)
class BridgeCall:
    """Details of a call, for its error message. ``value`` is set if a value was sent."""

    address: str
    method: str
    session: str
    variable: str = ""
    value: str | None = None
    limit_bytes: int = 0


def translate_error(error: grpc.RpcError, call: BridgeCall) -> BridgeError:
    """Return the named error of a failed call."""
    status: grpc.StatusCode = error.code()
    details: str = error.details() or ""
    if status in _UNAVAILABLE:
        return ElixirUnavailableError(call.address, details or status.name)
    if status is grpc.StatusCode.NOT_FOUND:
        return _build_not_found_error(details, call)
    if status in _REFUSED and call.value is not None:
        return ValidationError(call.variable, call.value, f"Elixir refuses it: {details.rstrip('.')}")
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return ElixirMethodNotServedError(call.address, call.method)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return AnswerTooLargeError(call.method, call.session, call.limit_bytes)
    return ElixirFailedError(call.method, call.session, status.name, details)


def _build_not_found_error(details: str, call: BridgeCall) -> BridgeError:
    if details.startswith("Variable not found"):
        return VariableNotFoundError(call.variable or details.partition(": ")[2])
    return ElixirSessionNotFoundError(call.session)
