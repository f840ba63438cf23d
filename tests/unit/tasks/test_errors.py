"""Whatever a program raises comes out as one of the fleet's errors, in one line."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from dspy import lm15
from dspy.utils import exceptions as dspys

from snakepit_bridge.exceptions import (
    BridgeError,
    InputError,
    LMAnswerError,
    LMError,
    LMRefusedError,
    LMUnavailableError,
    PredictionFailedError,
)
from snakepit_bridge.lm.endpoint import Endpoint
from tasks.errors import describe_cause, translate_error
from tests.harness.signatures import make_signature

SECRET = "a customer's question"


def name(error: Exception) -> Any:
    return translate_error(error, program="qa", model="openai/demo")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (dspys.LMTransportError, LMUnavailableError),
        (dspys.LMLockTimeoutError, LMUnavailableError),
        (dspys.LMRateLimitError, LMUnavailableError),
        (dspys.LMTimeoutError, LMUnavailableError),
        (dspys.LMServerError, LMUnavailableError),
        (dspys.LMAuthError, LMRefusedError),
        (dspys.LMBillingError, LMRefusedError),
        (dspys.LMInvalidRequestError, LMRefusedError),
        (dspys.ContextWindowExceededError, LMRefusedError),
        (dspys.LMUnsupportedModelError, LMRefusedError),
        (dspys.LMConfigurationError, LMRefusedError),
        (dspys.LMNotConfiguredError, LMRefusedError),
    ],
)
def test_only_what_dspy_would_try_again_is_unavailable(kind: type[Any], expected: type[LMError]) -> None:
    error = name(kind(message="it broke"))
    assert type(error) is expected
    assert error.model == "openai/demo"
    assert "it broke" in error.message


def test_what_the_provider_said_is_kept() -> None:
    error = name(dspys.LMRateLimitError("slow down", status=429, retry_after=2.5, model="openai/other"))
    assert (error.model, error.status, error.retry_after_s) == ("openai/other", 429, 2.5)
    assert error.message == "slow down"


def test_the_provider_librarys_advice_is_left_out() -> None:
    error = name(dspys.LMAuthError("Incorrect API key.\n\n  To fix:\n    - Pass the key explicitly\n", status=401))
    assert error.message == "Incorrect API key."


def test_an_answer_that_cannot_be_parsed_keeps_the_answer() -> None:
    signature: Any = make_signature("question -> answer")
    error = name(dspys.AdapterParseError("ChatAdapter", signature, "I would\nrather not."))
    assert type(error) is LMAnswerError
    assert "I would rather not." in error.message


def test_an_error_of_ours_stays_as_it_is() -> None:
    error = InputError("qa", "question", "it is missing")
    assert name(error) is error


@pytest.mark.parametrize("error", [KeyError("x"), ZeroDivisionError("division by zero"), RuntimeError("")])
def test_everything_else_is_the_programs_own_failure(error: Exception) -> None:
    failed = name(error)
    assert type(failed) is PredictionFailedError
    assert (failed.program, failed.error) == ("qa", type(error).__name__)
    assert str(error) in failed.message


def test_every_error_is_one_line_of_bounded_length() -> None:
    for error in (ValueError("a\nb\r\n\tc" + "x" * 5000), dspys.LMServerError("a\nb" + "x" * 5000)):
        named_error: BridgeError = name(error)
        assert "\n" not in str(named_error)
        assert len(str(named_error)) < 1300
        assert "characters)" in str(named_error)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (lm15.ServerError(SECRET, status=503), "HTTP 503"),
        (lm15.TransportError(SECRET), "transport, Connection refused"),
        (lm15.TimeoutError(SECRET), "timeout"),
    ],
)
def test_a_log_shows_profile_address_and_reason_and_neither_content_nor_credentials(
    error: lm15.LM15Error, reason: str
) -> None:
    if isinstance(error, lm15.TransportError):
        error.__cause__ = ConnectionRefusedError(errno.ECONNREFUSED, SECRET)
    endpoint = Endpoint("smart", "openai/x", api_base="https://me:hunter2@lm.test:8000/v1?key=hunter2")
    cause = describe_cause(error, endpoint)
    assert cause == f"LM profile 'smart' (openai/x) at https://lm.test:8000/v1: {reason}"
