"""How an error reaches a client: as a status of gRPC or HTTP, with its class and its fields in the details."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.status_pb2 import Status

from snakepit_bridge import exceptions as named
from snakepit_bridge.elixir import errors as elixir
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.elixir.write_back import WriteNotShownError
from snakepit_bridge.elixir.write_transaction import HalfWrittenError
from snakepit_bridge.variables.codec import canonical, parse, shown
from workers.gateway.json_text import quote_non_finite

Code = grpc.StatusCode

_MESSAGE_BYTES, _FIELDS_BYTES = 800, 1_000
_ITEMS, _LETTERS = 8, 60

_error = dataclass(eq=False, repr=False)


@_error
class UnauthenticatedError(named.BridgeError):
    """A call without a token, or with one that nobody gave out."""

    problem: str

    def __str__(self) -> str:
        return f"{self.problem}. Send the header 'authorization: Bearer TOKEN' with a token of this gateway."


@_error
class NotGrantedError(named.BridgeError):
    """A call that its token doesn't allow."""

    grant: str
    scope: str
    session: str = ""

    def __str__(self) -> str:
        on = f" on session '{self.session}'" if self.session else ""
        return f"The token of '{self.grant}' doesn't grant '{self.scope}'{on}. Ask for one that does."


@_error
class HostNotAllowedError(named.BridgeError):
    """A request that names a host which this gateway isn't: what a page does that points a name of its own here."""

    host: str

    def __str__(self) -> str:
        return (
            f"This gateway isn't asked as {shown(self.host)}. Ask it as localhost or by its address, or name the host "
            "in DSPEX_GATEWAY_HOSTS."
        )


@_error
class OriginNotAllowedError(named.BridgeError):
    """A request that a browser sends for a page of another origin."""

    origin: str

    def __str__(self) -> str:
        return (
            f"Pages of the origin {shown(self.origin)} may not use this gateway. Send the request from an application, "
            "or name the origin in DSPEX_GATEWAY_ORIGINS."
        )


@_error
class MediaTypeError(named.BridgeError, ValueError):
    """A request whose body isn't said to be JSON."""

    found: str

    def __str__(self) -> str:
        found = shown(self.found) if self.found else "nothing"
        return f"A request's body is JSON; it is said to be {found}. Send the header 'content-type: application/json'."


@_error
class TooManyError(named.BridgeError):
    """More than a grant or the gateway bears at a time."""

    what: str
    limit: float
    retry_after_s: float

    def __str__(self) -> str:
        return f"Too many {self.what}: the limit is {self.limit:g}. Try again in {self.retry_after_s:.3g} s."


@_error
class TooLargeError(named.BridgeError):
    """A request above the gateway's limit."""

    what: str
    limit: int

    def __str__(self) -> str:
        return f"The {self.what} is larger than this gateway takes, {self.limit}. Send less at a time."


@_error
class MalformedError(named.BridgeError, ValueError):
    """A request that can't be read."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"The request's {self.where} can't be read: {self.problem.rstrip('.')}."


@_error
class PredictionNotFoundError(named.PredictionError):
    """A prediction that was not submitted through a gateway, or whose result has expired, or is another's."""

    task_id: str

    def __str__(self) -> str:
        return f"Prediction not found: {self.task_id}. It was not submitted here, or its result has expired."


@_error
class RequestIdConflictError(named.BridgeError):
    """A request id that was used before, for another request."""

    request_id: str

    def __str__(self) -> str:
        return f"Request id '{self.request_id}' belongs to another request. Use a new id for a new request."


@_error
class DrainingError(named.BridgeError):
    """The gateway is being stopped."""

    retry_after_s: float = 1.0

    def __str__(self) -> str:
        return "The gateway is being stopped. Connect again; another one answers."


@_error
class TookTooLongError(named.BridgeError, TimeoutError):
    """A call that took longer than its client waits, or than the gateway lets it. What it did may stand."""

    seconds: float

    def __str__(self) -> str:
        return f"The call took longer than {self.seconds:.3g} s. What it did may stand; look before it is sent again."


@_error
class StreamEndedError(named.BridgeError):
    """A stream that was open for as long as the gateway lets it, or whose reader took too long."""

    problem: str

    def __str__(self) -> str:
        return f"The stream was ended: {self.problem}. Open it again from the last token."


_CODES: tuple[tuple[type[BaseException], Code], ...] = (
    (UnauthenticatedError, Code.UNAUTHENTICATED),
    (NotGrantedError, Code.PERMISSION_DENIED),
    (HostNotAllowedError, Code.PERMISSION_DENIED),
    (OriginNotAllowedError, Code.PERMISSION_DENIED),
    (TooManyError, Code.RESOURCE_EXHAUSTED),
    (TooLargeError, Code.RESOURCE_EXHAUSTED),
    (DrainingError, Code.UNAVAILABLE),
    (StreamEndedError, Code.UNAVAILABLE),
    (RequestIdConflictError, Code.ALREADY_EXISTS),
    (named.IdempotencyConflictError, Code.ALREADY_EXISTS),
    (PredictionNotFoundError, Code.NOT_FOUND),
    (named.VariableNotFoundError, Code.NOT_FOUND),
    (named.SessionNotFoundError, Code.NOT_FOUND),
    (named.LabelNotFoundError, Code.NOT_FOUND),
    (named.ProgramNotFoundError, Code.NOT_FOUND),
    (named.StaleTokenError, Code.ABORTED),
    (named.FencedError, Code.ABORTED),
    (named.RevisionLostError, Code.OUT_OF_RANGE),
    (WriteNotShownError, Code.DEADLINE_EXCEEDED),
    (named.AuthorityAwayError, Code.UNAVAILABLE),
    (named.StalenessExceededError, Code.UNAVAILABLE),
    (named.SessionError, Code.FAILED_PRECONDITION),
    (named.StoreUnavailableError, Code.UNAVAILABLE),
    (elixir.ElixirUnavailableError, Code.UNAVAILABLE),
    (HalfWrittenError, Code.UNAVAILABLE),
    (elixir.ElixirMethodNotServedError, Code.UNIMPLEMENTED),
    (elixir.AnswerTooLargeError, Code.RESOURCE_EXHAUSTED),
    (elixir.ElixirError, Code.INTERNAL),
    (named.PredictionCancelledError, Code.CANCELLED),
    (named.ConfigurationError, Code.FAILED_PRECONDITION),
    (TimeoutError, Code.DEADLINE_EXCEEDED),
    (ValueError, Code.INVALID_ARGUMENT),
    (named.BridgeError, Code.FAILED_PRECONDITION),
)

_HTTP = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ABORTED: 409,
    Code.ALREADY_EXISTS: 409,
    Code.FAILED_PRECONDITION: 409,
    Code.OUT_OF_RANGE: 410,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.INTERNAL: 500,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}


def grpc_code(error: BaseException) -> Code:
    """Returns the gRPC status of an error; what nobody named is INTERNAL."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL)


def http_status(error: BaseException) -> int:
    """Returns the HTTP status of an error."""
    if isinstance(error, MediaTypeError):
        return 415
    return 413 if isinstance(error, TooLargeError) else _HTTP[grpc_code(error)]


def to_message(error: BaseException) -> pb.Error:
    """Returns an error as clients are told of it; of one that nobody named they learn no more than that."""
    if not isinstance(error, named.BridgeError | ValueError):
        return pb.Error(kind="InternalError", message="The gateway failed; its log says more.", fields_json=b"[]")
    kind = type(error).__name__ if isinstance(error, named.BridgeError) else "MalformedError"
    return pb.Error(kind=kind, message=str(error), fields_json=_fields(error))


def _fields(error: BaseException) -> bytes:
    try:
        return canonical(quote_non_finite(list(error.args)))
    except (TypeError, ValueError):
        return canonical([shown(part) for part in error.args])


def to_brief_message(error: BaseException) -> pb.Error:
    """Returns an error as it fits into gRPC's metadata: clients take 8 KiB of those, and else not even the status."""
    full = to_message(error)
    if len(full.fields_json) > _FIELDS_BYTES:
        full.fields_json = canonical(_truncate(parse(full.fields_json)))
    if len(full.fields_json) > _FIELDS_BYTES:
        full.fields_json = b"[]"
    full.message = full.message.encode()[:_MESSAGE_BYTES].decode(errors="ignore")
    return full


def _truncate(part: Any) -> Any:
    if isinstance(part, list):
        return [_truncate(item) for item in cast("list[Any]", part)[:_ITEMS]]
    return part[:_LETTERS] if isinstance(part, str) else part


def trailing_metadata(error: BaseException) -> tuple[tuple[str, bytes | str], ...]:
    """Returns the trailing metadata that carry an error in gRPC's richer model."""
    packed, brief = AnyMessage(), to_brief_message(error)
    packed.Pack(brief)
    code: Any = grpc_code(error).value
    status = Status(code=code[0], message=brief.message, details=[packed])
    return (("grpc-status-details-bin", status.SerializeToString()), *retry_after(error))


def retry_after(error: BaseException) -> tuple[tuple[str, str], ...]:
    """Returns the header that says when to try again, where the error knows."""
    seconds = getattr(error, "retry_after_s", None)
    return () if seconds is None else (("retry-after", f"{max(1, round(seconds))}"),)
