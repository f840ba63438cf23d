"""From whatever a program raises to one of the fleet's named errors, which cross the result backend whole.

Which LM errors are worth another try is DSPy's own judgement; the fleet only decides when, and how often.
"""

from __future__ import annotations

from dspy.utils.exceptions import AdapterParseError, DSPyError, is_retryable_lm_error
from dspy.utils.exceptions import LMError as DSPyLMError

from snakepit_bridge.exceptions import (
    BridgeError,
    LMAnswerError,
    LMRefusedError,
    LMUnavailableError,
    PredictionFailed,
)

_LONGEST = 1_000


def named(error: Exception, *, program: str, model: str) -> BridgeError:
    """Returns the fleet's error for what a program raised.

    Args:
        error: what was raised.
        program: the program that raised it.
        model: its LM, for errors that don't name theirs.
    """
    if isinstance(error, BridgeError):
        return error
    if isinstance(error, AdapterParseError):
        return LMAnswerError(error.model or model, error.code or "parse_error", _short(str(error)))
    if isinstance(error, DSPyLMError):
        return _lm_error(error, model)
    return PredictionFailed(program, type(error).__name__, _short(str(error)))


def _lm_error(error: DSPyError, model: str) -> BridgeError:
    kind = LMUnavailableError if is_retryable_lm_error(error) else LMRefusedError
    return kind(
        error.model or model,
        error.code or "lm_error",
        # What follows the first paragraph is the provider library's advice, which its own users can act on, not ours.
        _short(error.message.partition("\n\n")[0]),
        error.status or 0,
        float(error.retry_after or 0.0),
    )


def _short(text: str) -> str:
    """One line: the errors go to command lines and logs."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}… ({len(line)} characters)"
