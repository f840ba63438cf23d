"""The log keeps content to itself, and says what else Celery has to say."""

from __future__ import annotations

import logging

import pytest
from celery.app.trace import LOG_RETRY
from celery.exceptions import Retry
from celery.worker.consumer import consumer

from snakepit_bridge.exceptions import LMUnavailableError
from workers.content_privacy import ContentFilter

SECRET = "a customer's question"
NAME = "celery.worker.consumer.consumer"


def filtered(message: object, *args: object) -> str:
    """Return the text of a warning of Celery's consumer, as it is logged."""
    record = logging.LogRecord(NAME, logging.WARNING, __file__, 1, message, args, None)
    assert ContentFilter().filter(record)
    return record.getMessage()


@pytest.mark.parametrize(
    ("message", "args"),
    [
        (consumer.UNKNOWN_FORMAT, (SECRET,)),
        (consumer.UNKNOWN_TASK_ERROR, ("tasks.unknown", SECRET, SECRET, SECRET)),
        (consumer.INVALID_TASK_ERROR, ("KeyError", SECRET)),
        (consumer.MESSAGE_DECODE_ERROR, (ValueError(SECRET), "json", "utf-8", SECRET, SECRET)),
    ],
)
def test_the_body_of_a_message_that_cant_be_processed_stays_out(message: str, args: tuple[object, ...]) -> None:
    text = filtered(message, *args)
    assert SECRET not in text
    assert text.startswith("Rejected a message that this worker can't process")


def test_a_lost_connection_is_no_rejected_message() -> None:
    text = filtered("%s (%r)", consumer.CONNECTION_RETRY, ConnectionError("reset by peer"))
    assert text == f"{consumer.CONNECTION_RETRY} (ConnectionError)".replace("(ConnectionError)", "('ConnectionError')")


def test_the_retry_of_a_task_names_the_lm_and_the_reason_and_quotes_nothing() -> None:
    unavailable = LMUnavailableError("openai/x", "server", SECRET, 503)
    unavailable.cause = "LM profile 'smart' (openai/x) at http://lm:8000/v1: HTTP 503"

    try:
        raise Retry(exc=unavailable, when=30)
    except Retry as retry:
        context = {"id": "1", "name": "tasks.predict", "exc": str(retry)}
        record = logging.LogRecord("celery.app.trace", logging.INFO, __file__, 1, LOG_RETRY, (context,), None)
        ContentFilter().filter(record)
    line = f"Task tasks.predict[1] retry: Retry in 30s: LMUnavailableError: {unavailable.cause}"
    assert record.getMessage().strip() == line


def test_a_message_that_is_no_text_passes() -> None:
    assert filtered({"an": "object"}) == "{'an': 'object'}"
