"""The gateway's errors, and how every error is reported: as a gRPC or HTTP status, with its class and fields."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.status_pb2 import Status

from snakepit_bridge import exceptions
from snakepit_bridge.elixir import errors as elixir
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.elixir.write_back import WriteNotShownError
from snakepit_bridge.elixir.write_transaction import HalfWrittenError
from snakepit_bridge.variables.codec import encode_canonical, parse, shorten_repr
from workers.gateway.json_text import to_strict_json

_log = logging.getLogger(__name__)

Code = grpc.StatusCode

_MAX_MESSAGE_BYTES, _MAX_FIELDS_BYTES = 800, 1_000
_MAX_ITEMS, _MAX_ITEM_LENGTH = 8, 60

_error = dataclass(eq=False, repr=False)


@_error
class UnauthenticatedError(exceptions.BridgeError):
    """A call has no token, or an unknown one."""

    problem: str

    def __str__(self) -> str:
        return f"{self.problem}. Send the header 'authorization: Bearer TOKEN' with a token of this gateway."


@_error
class NotGrantedError(exceptions.BridgeError):
    """A call's token doesn't permit it."""

    grant: str
    scope: str
    session: str = ""

    def __str__(self) -> str:
        on = f" on session '{self.session}'" if self.session else ""
        return f"The token of '{self.grant}' doesn't grant '{self.scope}'{on}. Use a token that does."


@_error
class HostNotAllowedError(exceptions.BridgeError):
    """A request's ``Host`` isn't this gateway's, as in a DNS rebinding attack."""

    host: str

    def __str__(self) -> str:
        return (
            f"The host {shorten_repr(self.host)} is not allowed. Use localhost or the gateway's address, "
            "or add the host to DSPEX_GATEWAY_HOSTS."
        )


@_error
class OriginNotAllowedError(exceptions.BridgeError):
    """A browser sent a request for a page of another origin."""

    origin: str

    def __str__(self) -> str:
        return (
            f"The origin {shorten_repr(self.origin)} is not allowed. Send the request from an application, "
            "or add the origin to DSPEX_GATEWAY_ORIGINS."
        )


@_error
class MediaTypeError(exceptions.BridgeError, ValueError):
    """A request's content type isn't JSON."""

    found: str

    def __str__(self) -> str:
        found = shorten_repr(self.found) if self.found else "none"
        return f"The content type must be JSON; found {found}. Send the header 'content-type: application/json'."


@_error
class TooManyError(exceptions.BridgeError):
    """A limit of a grant or the gateway is exceeded."""

    what: str
    limit: float
    retry_after_s: float

    def __str__(self) -> str:
        return f"Too many {self.what}: the limit is {self.limit:g}. Try again in {self.retry_after_s:.3g} s."


@_error
class TooLargeError(exceptions.BridgeError):
    """A request exceeds a size limit of the gateway."""

    what: str
    limit: int

    def __str__(self) -> str:
        return f"The {self.what} is larger than this gateway's limit of {self.limit}. Send less at a time."


@_error
class MalformedError(exceptions.BridgeError, ValueError):
    """A request is malformed."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"The request's {self.where} is malformed: {self.problem.rstrip('.')}."


@_error
class PredictionNotFoundError(exceptions.PredictionError):
    """A prediction was not submitted through a gateway, has expired or was dropped, or is of a session of others."""

    task_id: str

    def __str__(self) -> str:
        return (
            f"Prediction not found: {self.task_id}. It was not submitted here, or its result has expired, "
            "or was dropped once it was read, as batches do."
        )


@_error
class RequestIdConflictError(exceptions.BridgeError):
    """A request id was used before for another request."""

    request_id: str

    def __str__(self) -> str:
        return f"Request id '{self.request_id}' belongs to another request. Use a new id for a new request."


@_error
class DrainingError(exceptions.BridgeError):
    """The gateway is shutting down."""

    retry_after_s: float = 1.0

    def __str__(self) -> str:
        return "The gateway is shutting down. Reconnect to reach another one."


@_error
class TookTooLongError(exceptions.BridgeError, TimeoutError):
    """A call exceeded the client's timeout or the gateway's. It may have taken effect."""

    seconds: float

    def __str__(self) -> str:
        return f"The call took longer than {self.seconds:.3g} s. It may have taken effect; check before retrying."


@_error
class StreamEndedError(exceptions.BridgeError):
    """A stream was open for as long as the gateway allows, or its reader was too slow."""

    problem: str

    def __str__(self) -> str:
        return f"The stream was closed: {self.problem}. Reopen it from the last token."


@_error
class ReadOnlyError(exceptions.BridgeError):
    """A visitor of the console hasn't allowed changes."""

    def __str__(self) -> str:
        return "The console is read-only. Choose 'Allow changes' at the top of a page first."


@_error
class FormExpiredError(exceptions.BridgeError):
    """A form wasn't sent from a page that its sender was shown."""

    def __str__(self) -> str:
        return "This form is out of date: you have signed in or out since. Go back, reload the page, and send it again."


@_error
class PageNotFoundError(exceptions.BridgeError):
    """A page of the console doesn't exist, or not for this visitor."""

    path: str

    def __str__(self) -> str:
        return f"There is no page {shorten_repr(self.path)}."


_CODES: tuple[tuple[type[BaseException], Code], ...] = (
    (UnauthenticatedError, Code.UNAUTHENTICATED),
    (NotGrantedError, Code.PERMISSION_DENIED),
    (HostNotAllowedError, Code.PERMISSION_DENIED),
    (OriginNotAllowedError, Code.PERMISSION_DENIED),
    (ReadOnlyError, Code.PERMISSION_DENIED),
    (FormExpiredError, Code.PERMISSION_DENIED),
    (PageNotFoundError, Code.NOT_FOUND),
    (TooManyError, Code.RESOURCE_EXHAUSTED),
    (TooLargeError, Code.RESOURCE_EXHAUSTED),
    (DrainingError, Code.UNAVAILABLE),
    (StreamEndedError, Code.UNAVAILABLE),
    (RequestIdConflictError, Code.ALREADY_EXISTS),
    (exceptions.IdempotencyConflictError, Code.ALREADY_EXISTS),
    (PredictionNotFoundError, Code.NOT_FOUND),
    (exceptions.VariableNotFoundError, Code.NOT_FOUND),
    (exceptions.SessionNotFoundError, Code.NOT_FOUND),
    (exceptions.LabelNotFoundError, Code.NOT_FOUND),
    (exceptions.ProgramNotFoundError, Code.NOT_FOUND),
    (exceptions.ExperimentNotFoundError, Code.NOT_FOUND),
    (exceptions.DatasetNotFoundError, Code.NOT_FOUND),
    (exceptions.EvaluationNotFoundError, Code.NOT_FOUND),
    (exceptions.JobNotFoundError, Code.NOT_FOUND),
    (exceptions.DeadMessageNotFoundError, Code.NOT_FOUND),
    (exceptions.ApprovalNotFoundError, Code.NOT_FOUND),
    (exceptions.ApprovalOutdatedError, Code.ABORTED),
    (exceptions.ApprovalError, Code.PERMISSION_DENIED),
    (exceptions.RolloutNotFoundError, Code.NOT_FOUND),
    (exceptions.SessionNameError, Code.INVALID_ARGUMENT),
    (exceptions.StaleTokenError, Code.ABORTED),
    (exceptions.FencedError, Code.ABORTED),
    (exceptions.RolloutMovedError, Code.ABORTED),
    (exceptions.RolloutOverlapError, Code.FAILED_PRECONDITION),
    (exceptions.RevisionLostError, Code.OUT_OF_RANGE),
    (WriteNotShownError, Code.DEADLINE_EXCEEDED),
    (exceptions.AuthorityAwayError, Code.UNAVAILABLE),
    (exceptions.StalenessExceededError, Code.UNAVAILABLE),
    (exceptions.SessionError, Code.FAILED_PRECONDITION),
    (exceptions.NotReplicatedError, Code.UNAVAILABLE),
    (exceptions.StoreUnavailableError, Code.UNAVAILABLE),
    (elixir.ElixirUnavailableError, Code.UNAVAILABLE),
    (HalfWrittenError, Code.UNAVAILABLE),
    (elixir.ElixirMethodNotServedError, Code.UNIMPLEMENTED),
    (elixir.AnswerTooLargeError, Code.RESOURCE_EXHAUSTED),
    (elixir.ElixirError, Code.INTERNAL),
    (exceptions.PredictionCancelledError, Code.CANCELLED),
    (exceptions.ConfigurationError, Code.FAILED_PRECONDITION),
    (TimeoutError, Code.DEADLINE_EXCEEDED),
    (ValueError, Code.INVALID_ARGUMENT),
    (exceptions.BridgeError, Code.FAILED_PRECONDITION),
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
    """Return the gRPC status of an error; INTERNAL for an unexpected one."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL)


def http_status(error: BaseException) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, MediaTypeError):
        return 415
    return 413 if isinstance(error, TooLargeError) else _HTTP[grpc_code(error)]


def log_failure(error: BaseException, path: str) -> None:
    """Log an error that nobody expected.

    Args:
        error: the error.
        path: of the operation that failed.
    """
    if grpc_code(error) is Code.INTERNAL:
        _log.error("%s failed", path, exc_info=error)


def to_message(error: BaseException) -> pb.Error:
    """Return the message that describes an error to clients; an unexpected error reveals no details."""
    if not isinstance(error, exceptions.BridgeError | ValueError):
        return pb.Error(kind="InternalError", message="The gateway failed; see its log.", fields_json=b"[]")
    kind = type(error).__name__ if isinstance(error, exceptions.BridgeError) else "MalformedError"
    return pb.Error(kind=kind, message=str(error), fields_json=_fields(error))


def _fields(error: BaseException) -> bytes:
    try:
        return encode_canonical(to_strict_json(list(error.args)))
    except (TypeError, ValueError):
        return encode_canonical([shorten_repr(part) for part in error.args])


def to_brief_message(error: BaseException) -> pb.Error:
    """Return the message of an error, shortened to fit gRPC's metadata.

    Clients accept 8 KiB of metadata, and drop even the status if there is more.
    """
    full = to_message(error)
    if len(full.fields_json) > _MAX_FIELDS_BYTES:
        full.fields_json = encode_canonical(_truncate(parse(full.fields_json)))
    if len(full.fields_json) > _MAX_FIELDS_BYTES:
        full.fields_json = b"[]"
    full.message = full.message.encode()[:_MAX_MESSAGE_BYTES].decode(errors="ignore")
    return full


def _truncate(part: Any) -> Any:
    if isinstance(part, list):
        return [_truncate(item) for item in cast("list[Any]", part)[:_MAX_ITEMS]]
    return part[:_MAX_ITEM_LENGTH] if isinstance(part, str) else part


def trailing_metadata(error: BaseException) -> tuple[tuple[str, bytes | str], ...]:
    """Return the trailing metadata that carry an error in gRPC's richer error model."""
    packed, brief = AnyMessage(), to_brief_message(error)
    packed.Pack(brief)
    code: Any = grpc_code(error).value
    status = Status(code=code[0], message=brief.message, details=[packed])
    return (("grpc-status-details-bin", status.SerializeToString()), *retry_after(error))


def retry_after(error: BaseException) -> tuple[tuple[str, str], ...]:
    """Return the ``retry-after`` header, if the error knows when to retry."""
    seconds = getattr(error, "retry_after_s", None)
    return () if seconds is None else (("retry-after", f"{max(1, round(seconds))}"),)
