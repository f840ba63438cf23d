"""Keeps inputs, prompts and answers out of a worker's logs, events and remote control.

Celery shows a task's arguments, result and error text in all of them, and libraries log whole requests at debug level.
That content is private to the caller. ``DSPEX_LOG_CONTENT`` shows it, for a fleet whose logs are as well protected as
its data.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Mapping
from typing import Any, cast

from celery.app import trace
from celery.exceptions import Retry
from celery.utils.saferepr import saferepr
from celery.worker.consumer import consumer

from snakepit_bridge.exceptions import LMUnavailableError
from snakepit_bridge.protocol.messages import HIDDEN
from workers.program_output import format_frames, hide_output

# Celery's loggers that receive tasks' arguments, results and errors.
CELERY = (
    "celery.app.trace",
    "celery.pool",
    "celery.concurrency.asynpool",
    "celery.worker.consumer.consumer",
    "celery.worker.request",
    "celery.worker.strategy",
    "celery.worker.control",
)
# Libraries that log requests and answers at debug level.
LIBRARIES = ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router", "dspy", "httpcore", "httpx", "kombu", "openai", "anthropic")

_CONTENT = ("args", "kwargs", "return_value", "traceback")
# The formats of Celery's consumer that show a message's body.
_BODIES = frozenset({
    consumer.UNKNOWN_FORMAT, consumer.UNKNOWN_TASK_ERROR, consumer.INVALID_TASK_ERROR, consumer.MESSAGE_DECODE_ERROR
})  # fmt: skip
_LONGEST = 1_024
_KIND = re.compile(r"(Retry (in|at) [^:]*: )?[A-Za-z_][\w.]*")


def format_arguments(value: object, log_content: bool) -> str:
    """Return a task's arguments for logs and events, hidden unless content is logged."""
    return saferepr(value, _LONGEST) if log_content else HIDDEN


def exception_name(text: object) -> str:
    """Return the class name of an exception, given as an exception or as its representation."""
    if isinstance(text, BaseException):
        return type(text).__name__
    found = _KIND.match(str(text))
    return found[0] if found else "an error"


def hide_content() -> None:
    """Keep content out of the logs of this process and of its forks."""
    for name in CELERY:
        logger = logging.getLogger(name)
        if not any(isinstance(known, ContentFilter) for known in logger.filters):
            logger.addFilter(ContentFilter())
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.INFO)
    hide_output()
    # Nothing shows how a result looks, so Celery's tracer needn't format it.
    cast("Any", trace).saferepr = _hide_result
    # The task guard already logs this error by name.
    warnings.filterwarnings("ignore", "Exception raised outside body", RuntimeWarning)


def _hide_result(*_: object) -> str:
    return HIDDEN


class ContentFilter(logging.Filter):
    """Passes every record, with the content of tasks hidden."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True, with the record's content hidden."""
        if isinstance(record.msg, str) and record.msg in _BODIES:
            kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else "not one of Celery's"
            record.msg, record.args = "Rejected a message that this worker can't process: %s", (kind,)
        elif isinstance(record.args, dict):
            record.args = _hide_context(cast("Mapping[str, Any]", record.args))
            if hasattr(record, "data"):
                record.data = record.args
        elif record.args:
            record.args = tuple(_hide_argument(record, argument) for argument in record.args)
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = format_frames(type(record.exc_info[1]), record.exc_info[2])
            record.exc_info = None
        return True


def _hide_context(context: Mapping[str, Any]) -> dict[str, Any]:
    hidden = dict.fromkeys((name for name in _CONTENT if name in context), HIDDEN)
    kind = {"exc": f"{exception_name(context['exc'])}{_find_cause()}"} if "exc" in context else {}
    return {**context, **hidden, **kind}


def _find_cause() -> str:
    """Return why the task whose retry Celery logs is run again, as far as an LM is the cause.

    Celery passes a text, which may quote anything; it logs it while it handles the exception.
    """
    retry = sys.exc_info()[1]
    unavailable = retry.exc if isinstance(retry, Retry) else None
    return f": {unavailable.cause}" if isinstance(unavailable, LMUnavailableError) and unavailable.cause else ""


def _hide_argument(record: logging.LogRecord, value: object) -> object:
    """Return a record's argument; at debug level everything but numbers and names is hidden."""
    if isinstance(value, BaseException):
        return type(value).__name__
    if isinstance(value, int | float) or record.levelno > logging.DEBUG:
        return value
    return value if callable(value) or record.name == "celery.worker.request" else HIDDEN
