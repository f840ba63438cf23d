"""Translate what a program or an LM engine raises into the fleet's errors, which the result backend can serialize.

The kind of an LM error decides whether it is retried; all other errors end the prediction.
"""

from __future__ import annotations

import os
import socket
import ssl
from urllib.parse import urlsplit

from dspy import lm15
from dspy.lm15 import LM15Error
from dspy.utils.exceptions import AdapterParseError, DSPyError, is_retryable_lm_error
from dspy.utils.exceptions import LMError as DSPyLMError

from snakepit_bridge.exceptions import (
    BridgeError,
    LMAnswerError,
    LMAnswerTruncatedError,
    LMContentRefusedError,
    LMError,
    LMRefusedError,
    LMUnavailableError,
    PredictionFailedError,
    copy_error,
    error_text,
)
from snakepit_bridge.lm.endpoint import Endpoint
from snakepit_bridge.lm.failures import AnswerRefusedError

_MAX_CHARACTERS = 1_000

_KINDS: tuple[tuple[type[LM15Error], str], ...] = (
    (lm15.RateLimitError, "rate_limit"),
    (lm15.TimeoutError, "timeout"),
    (lm15.ServerError, "server"),
    (lm15.TransportError, "transport"),
    (lm15.LockTimeoutError, "transport"),
)


def retryable_kind(error: LM15Error) -> str | None:
    """Return the kind of a retryable failure, None for all others."""
    return next((kind for cause, kind in _KINDS if isinstance(error, cause)), None)


def build_unavailable_error(error: LM15Error, *, profile: str, model: str, tries: int) -> LMUnavailableError:
    """Return the error for an LM that is unavailable.

    Args:
        error: the exception of its engine.
        profile: the LM profile.
        model: its model, for errors that don't name theirs.
        tries: the number of attempts so far.
    """
    code, status = error.code or "lm_error", error.status or 0
    return LMUnavailableError(
        model, code, _provider_message(error.message), status, float(error.retry_after or 0.0), profile, tries
    )


def describe_cause(error: LM15Error, endpoint: Endpoint) -> str:
    """Return which LM failed, where it is and why, for a log that shows neither content nor credentials.

    Args:
        error: the exception of its engine, whose text may quote the prompt.
        endpoint: of the LM.
    """
    reason = f"HTTP {error.status}" if error.status else error.code or retryable_kind(error) or "lm_error"
    details = _describe_connection(error)
    where = f" at {_format_address(endpoint.api_base)}" if endpoint.api_base else ""
    return f"LM profile '{endpoint.profile}' ({endpoint.model}){where}: {reason}{f', {details}' if details else ''}"


def _describe_connection(error: BaseException | None) -> str:
    """Return what the operating system says of a connection, in its own words; empty if it says nothing."""
    while error is not None:
        if isinstance(error, socket.gaierror):
            return "its host name isn't known"
        if isinstance(error, ssl.SSLError):
            return f"TLS: {error.reason or type(error).__name__}"
        if isinstance(error, OSError) and error.errno:
            return os.strerror(error.errno)
        error = error.__cause__
    return ""


def _format_address(url: str) -> str:
    """Return a URL without credentials, query and fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def build_final_error(error: LM15Error, *, profile: str, model: str, tries: int) -> BridgeError:
    """Return the error for an LM call that is not retried.

    Args:
        error: the exception of its engine.
        profile: the LM profile.
        model: its model.
        tries: the number of attempts so far.
    """
    if retryable_kind(error) is not None:
        return build_unavailable_error(error, profile=profile, model=model, tries=tries)
    kind = LMContentRefusedError if isinstance(error, AnswerRefusedError) else LMRefusedError
    code, status = error.code or "lm_error", error.status or 0
    return kind(model, code, _provider_message(error.message), status, float(error.retry_after or 0.0), profile, tries)


def translate_error(error: BaseException, *, program: str, model: str, is_truncated: bool = False) -> BridgeError:
    """Return the fleet's error for an exception of a program.

    Args:
        error: the exception.
        program: the program that raised it.
        model: its LM, for errors that don't name theirs.
        is_truncated: whether the last answer was cut off at its token limit.
    """
    bridge_error = find_bridge_error(error)
    if bridge_error is not None:
        return bridge_error
    if isinstance(error, AdapterParseError):
        if is_truncated:
            return LMAnswerTruncatedError(error.model or model, "truncated", _shorten(error_text(error)))
        return LMAnswerError(error.model or model, error.code or "parse_error", _shorten(error_text(error)))
    if isinstance(error, DSPyLMError):
        return _translate_lm_error(error, model)
    return PredictionFailedError(program, type(error).__name__, _shorten(error_text(error)))


def find_bridge_error(error: BaseException | None) -> BridgeError | None:
    """Return the BridgeError in the cause chain, if any: DSPy wraps unexpected failures of the engine."""
    while error is not None and not isinstance(error, BridgeError):
        error = error.__cause__ if isinstance(error, DSPyLMError) else None
    return error


def merge_lm_failure(failure: BridgeError, program_error: PredictionFailedError) -> BridgeError:
    """Return an LM failure, with what the program raised after it had swallowed that failure."""
    merged = copy_error(failure)
    if isinstance(merged, LMError):
        merged.message = _shorten(
            f"{merged.message.rstrip('.')}; "
            f"the program went on and raised {program_error.error}: {program_error.message}"
        )
        merged.args = (merged.model, merged.code, merged.message, *merged.args[3:])
    return merged


def _translate_lm_error(error: DSPyError, model: str) -> BridgeError:
    kind = LMUnavailableError if is_retryable_lm_error(error) else LMRefusedError
    if isinstance(error.__cause__, AnswerRefusedError):
        kind = LMContentRefusedError
    code = error.__cause__.code if isinstance(error.__cause__, LM15Error) else error.code
    return kind(
        error.model or model,
        code or error.code or "lm_error",
        _provider_message(error.message),
        error.status or 0,
        float(error.retry_after or 0.0),
    )


def _provider_message(message: str) -> str:
    """Return the provider's own message, without the advice that its client library appends."""
    return _shorten(message.partition("\n\n")[0])


def _shorten(text: str) -> str:
    """Return the text as one line of bounded length: errors go to terminals and logs."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_CHARACTERS]}… ({len(line)} characters)"
