"""From whatever a program raises to one of the fleet's named errors, which cross the result backend whole.

Which LM errors are worth another try is decided by their kind; all others end the prediction.
"""

from __future__ import annotations

from dspy import lm15
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
    error_text,
    fresh_error,
)
from snakepit_bridge.lm.failures import AnswerRefused

_LONGEST = 1_000

_KINDS: tuple[tuple[type[lm15.LM15Error], str], ...] = (
    (lm15.RateLimitError, "rate_limit"),
    (lm15.TimeoutError, "timeout"),
    (lm15.ServerError, "server"),
    (lm15.TransportError, "transport"),
    (lm15.LockTimeoutError, "transport"),
)


def kind_of(error: lm15.LM15Error) -> str | None:
    """Returns the kind of a failure that another try may mend, None for all others."""
    return next((kind for cause, kind in _KINDS if isinstance(error, cause)), None)


def unavailable(error: lm15.LM15Error, *, profile: str, model: str, tries: int) -> LMUnavailableError:
    """Returns the fleet's error for an LM that couldn't answer.

    Args:
        error: what its engine raised.
        profile: the LM profile.
        model: its model, for errors that don't name theirs.
        tries: how often it was asked.
    """
    code, status = error.code or "lm_error", error.status or 0
    return LMUnavailableError(
        model, code, _told(error.message), status, float(error.retry_after or 0.0), profile, tries
    )


def final(error: lm15.LM15Error, *, profile: str, model: str, tries: int) -> BridgeError:
    """Returns the fleet's error for an LM call that no other try mends.

    Args:
        error: what its engine raised.
        profile: the LM profile.
        model: its model.
        tries: how often it was asked.
    """
    if kind_of(error) is not None:
        return unavailable(error, profile=profile, model=model, tries=tries)
    kind = LMContentRefusedError if isinstance(error, AnswerRefused) else LMRefusedError
    code, status = error.code or "lm_error", error.status or 0
    return kind(model, code, _told(error.message), status, float(error.retry_after or 0.0), profile, tries)


def named(error: BaseException, *, program: str, model: str, truncated: bool = False) -> BridgeError:
    """Returns the fleet's error for what a program raised.

    Args:
        error: what was raised.
        program: the program that raised it.
        model: its LM, for errors that don't name theirs.
        truncated: whether the last answer was cut off at its token limit.
    """
    mine = ours(error)
    if mine is not None:
        return mine
    if isinstance(error, AdapterParseError):
        if truncated:
            return LMAnswerTruncatedError(error.model or model, "truncated", _short(error_text(error)))
        return LMAnswerError(error.model or model, error.code or "parse_error", _short(error_text(error)))
    if isinstance(error, DSPyLMError):
        return _lm_error(error, model)
    return PredictionFailedError(program, type(error).__name__, _short(error_text(error)))


def ours(error: BaseException | None) -> BridgeError | None:
    """Returns one of our own errors, also out of what DSPy made of it: an unexpected failure of the engine."""
    while error is not None and not isinstance(error, BridgeError):
        error = error.__cause__ if isinstance(error, DSPyLMError) else None
    return error


def noted(failure: BridgeError, then: PredictionFailedError) -> BridgeError:
    """Returns an LM's failure as the reason of what a program raised that went on without its answer."""
    made = fresh_error(failure)
    if isinstance(made, LMError):
        made.message = _short(
            f"{made.message.rstrip('.')}; the program went on and raised {then.error}: {then.message}"
        )
        made.args = (made.model, made.code, made.message, *made.args[3:])
    return made


def _lm_error(error: DSPyError, model: str) -> BridgeError:
    kind = LMUnavailableError if is_retryable_lm_error(error) else LMRefusedError
    if isinstance(error.__cause__, AnswerRefused):
        kind = LMContentRefusedError
    code = error.__cause__.code if isinstance(error.__cause__, lm15.LM15Error) else error.code
    return kind(
        error.model or model,
        code or error.code or "lm_error",
        _told(error.message),
        error.status or 0,
        float(error.retry_after or 0.0),
    )


def _told(message: str) -> str:
    """What the provider said; its library's advice follows, which its own users can act on, not ours."""
    return _short(message.partition("\n\n")[0])


def _short(text: str) -> str:
    """One line: the errors go to command lines and logs."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}… ({len(line)} characters)"
