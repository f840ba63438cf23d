"""The log keeps content to itself, and says what else Celery has to say."""

from __future__ import annotations

import logging

import pytest
from celery.worker.consumer import consumer

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


def test_a_message_that_is_no_text_passes() -> None:
    assert filtered({"an": "object"}) == "{'an': 'object'}"
