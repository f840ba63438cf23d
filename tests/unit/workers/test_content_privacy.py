"""The log keeps content to itself, and says what else Celery has to say; others' records are made without content."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from celery.app.trace import LOG_RETRY
from celery.exceptions import Retry
from celery.worker.consumer import consumer

from snakepit_bridge.exceptions import ConfigurationError, LMUnavailableError, StoreUnavailableError
from workers.content_privacy import PRINTED, ContentFilter, ContentFreeRecords, PrintedFilter

SECRET = "a customer's question"
MOVED = "%s was moved into a constant of the module"
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


class Kept(logging.Handler):
    """Keeps what it is given, as a formatter writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


@pytest.fixture
def kept() -> Any:
    factory, handler = logging.getLogRecordFactory(), Kept()
    logging.setLogRecordFactory(ContentFreeRecords(factory))
    try:
        yield handler
    finally:
        logging.setLogRecordFactory(factory)


def logger(name: str, kept: Kept) -> logging.Logger:
    created = logging.Logger(name)
    created.addHandler(kept)
    return created


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (("%s of %d, %.1f and %s", SECRET, 3, 1.5, None), "(not shown) of 3, 1.5 and None"),
        (("%(a)s of %(b)d", {"a": SECRET, "b": 3}), "(not shown) of 3"),
        (("%s failed", ValueError(SECRET)), "ValueError failed"),
        (("%d of a text", SECRET), "%d of a text"),
        (("100 % of a text",), "100 % of a text"),
    ],
)
def test_a_text_of_the_source_stays_and_what_it_is_filled_with_does_not(
    kept: Kept, args: tuple[Any, ...], shown: str
) -> None:
    log = logger("shop.answers", kept)
    if args[0] == "%s of %d, %.1f and %s":
        log.info("%s of %d, %.1f and %s", *args[1:])
    elif args[0] == "%(a)s of %(b)d":
        log.info("%(a)s of %(b)d", *args[1:])
    elif args[0] == "%s failed":
        log.info("%s failed", *args[1:])
    elif args[0] == "%d of a text":
        log.info("%d of a text", *args[1:])
    else:
        log.info("100 % of a text")
    assert kept.texts == [shown]


def test_a_text_that_does_not_stand_in_the_source_is_hidden(kept: Kept) -> None:
    log = logger("shop", kept)
    log.info(f"asked {SECRET}")
    log.info(SECRET)
    log.info(MOVED, SECRET)
    log.info(ValueError(SECRET))
    assert all(text.startswith("(not shown), ") for text in kept.texts)
    assert "characters from test_content_privacy.py:" in kept.texts[0]


def test_a_traceback_stays_without_its_exceptions_text(kept: Kept) -> None:
    try:
        raise LookupError(SECRET)
    except LookupError:
        logger("shop", kept).exception("it failed")
        logger("tasks.predict", kept).exception("it failed")
    for text in kept.texts:
        assert "in test_a_traceback_stays" in text
        assert text.endswith("LookupError")


def test_an_error_of_ours_behind_it_says_what_to_do(kept: Kept) -> None:
    try:
        try:
            raise ConfigurationError("name a profile")
        except ConfigurationError as exc:
            raise LookupError(SECRET) from exc
    except LookupError:
        logger("shop", kept).exception("it failed")
    assert kept.texts[0].endswith("LookupError, by ConfigurationError: name a profile")


def test_the_fleets_own_records_say_what_is_wrong_with_servers(kept: Kept) -> None:
    log = logger("tasks.rate_limits", kept)
    log.warning("%s waits for %s: %s", "a call", "Redis", StoreUnavailableError("redis://a", "it is away"))
    log.warning("%s failed with %r", "a call", LookupError(SECRET))
    assert "it is away" in kept.texts[0]
    assert kept.texts[1] == "a call failed with 'LookupError'"


def test_of_what_is_printed_the_log_says_once_that_it_was() -> None:
    printed, kept = logging.Logger(PRINTED), Kept()
    printed.addHandler(kept)
    printed.addFilter(PrintedFilter())
    for _ in range(3):
        printed.warning(SECRET)
    assert len(kept.texts) == 1
    assert kept.texts[0].startswith(f"Output of {__name__} is hidden")
