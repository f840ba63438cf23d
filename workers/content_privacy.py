"""Keeps inputs, prompts and answers out of a worker's logs, events and remote control.

Celery shows a task's arguments, result and error text in all of them, and libraries log whole requests at debug level.
DSPy logs inputs and prints failures that contain answers, warnings of pydantic quote values, asyncio logs the
exceptions of tasks that were never awaited, and programs print anything. Of what others log and print, string literals
from the source and numbers are shown; everything else is hidden where records are created, so that no handler sees it.

That content is private to the caller. ``DSPEX_LOG_CONTENT`` shows it, for a fleet whose logs are as well protected as
its data.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from types import CodeType, FrameType, TracebackType
from typing import Any, cast

from celery.app import trace
from celery.exceptions import Retry
from celery.utils.saferepr import saferepr
from celery.worker.consumer import consumer
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from snakepit_bridge.exceptions import (
    ConfigurationError,
    LMCallOutsidePredictionError,
    LMUnavailableError,
    StoreUnavailableError,
)
from snakepit_bridge.process.own_packages import OWN_PACKAGES
from snakepit_bridge.protocol.messages import HIDDEN

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

PRINTED = "celery.redirected"
"""Celery's logger for stdout and stderr of a worker."""

_PROXY = "celery.utils.log"
_DSPY_STREAM = "dspy.utils.logging_utils"

# They log no content of tasks; Celery's loggers that do have a filter of their own.
_TRUSTED = frozenset({"amqp", "billiard", "celery", "click", "httpx", "kombu", "multiprocessing", "redis"})
# The parent of every logger that Celery makes for a task's code.
_TASKS = "celery.task"
# Output of a logging handler is a record, whose content is already hidden.
_HANDLED = ("logging", "emit")
# Modules that print on behalf of others.
_PRINTERS = frozenset({"celery", "contextlib", "logging", "pprint", "rich", "sys", "tqdm", "traceback", "warnings"})
# Errors whose texts are about servers, settings and rules, wherever they are raised,
_OURS = (ConfigurationError, LMCallOutsidePredictionError, StoreUnavailableError)
# and errors whose texts are, if the fleet's own code raises them.
_OPERATIONAL = (*_OURS, OSError, OperationalError, RedisError)
_WARNING = re.compile(r"[^\n]*?:\d+: \w+(?=:)")
_MOST_PLACES = 1_000

_threads = logging.getLogger("threading")
_unraisable = logging.getLogger("sys")


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


def hide_output() -> None:
    """Keep content out of everything that is logged and printed in this process and its forks."""
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, ContentFreeRecords):
        logging.setLogRecordFactory(ContentFreeRecords(factory))
    printed = logging.getLogger(PRINTED)
    if not any(isinstance(known, PrintedFilter) for known in printed.filters):
        printed.addFilter(PrintedFilter())
    # The default hooks print the exception's text, which the filter would drop.
    threading.excepthook = _log_thread
    sys.unraisablehook = _log_unraisable


class ContentFreeRecords:
    """A log record factory that hides the content in records of others' code.

    Args:
        factory: creates the records.
    """

    def __init__(self, factory: Callable[..., logging.LogRecord]) -> None:
        self._factory = factory

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """Return a record for the arguments of ``logging.LogRecord``."""
        record = self._factory(*args, **kwargs)
        top = record.name.partition(".")[0]
        if top in OWN_PACKAGES:
            _hide_foreign_errors(record)
        elif record.name == _TASKS or top not in _TRUSTED:
            _hide(record)
        return record


class PrintedFilter(logging.Filter):
    """Passes output of the fleet and Celery; for other modules it logs once that they print."""

    def __init__(self) -> None:
        super().__init__()
        self._reported: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Check whether to log the record, replacing the text of other modules."""
        module = _printing_module()
        if not module or module.partition(".")[0] in OWN_PACKAGES | _TRUSTED:
            return True
        if module in self._reported or len(self._reported) >= _MOST_PLACES:
            return False
        self._reported.add(module)
        record.msg = "Output of %s is hidden, since it may contain inputs or answers; DSPEX_LOG_CONTENT=true shows it"
        record.args = (module,)
        return True


def format_frames(kind: type[BaseException], tb: TracebackType | None) -> str:
    """Format a traceback without the exception's text, which may quote anything."""
    return f"Traceback (most recent call last):\n{''.join(traceback.format_tb(tb))}{kind.__name__}"


def _hide_foreign_errors(record: logging.LogRecord) -> None:
    """Hide the texts of a program's errors in a record of the fleet."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            type(value).__name__ if isinstance(value, BaseException) and not isinstance(value, _OPERATIONAL) else value
            for value in record.args
        )
    _hide_error(record, shown=_OPERATIONAL)


def _hide_error(record: logging.LogRecord, *, shown: tuple[type[BaseException], ...] = _OURS) -> None:
    exc = record.exc_info[1] if record.exc_info else None
    if record.exc_info is None or exc is None or isinstance(exc, shown):
        return
    ours = _find_own_cause(exc)
    reason = f", by {type(ours).__name__}: {ours}" if ours is not None else ""
    record.exc_text = format_frames(type(exc), record.exc_info[2]) + reason
    record.exc_info = None


def _find_own_cause(exc: BaseException) -> BaseException | None:
    """Return the first of our errors in an exception's cause chain."""
    seen: set[int] = set()
    cause = exc.__cause__
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, _OURS):
            return cause
        seen.add(id(cause))
        cause = cause.__cause__
    return None


def _hide(record: logging.LogRecord) -> None:
    """Hide everything in a record but literals from the source of the code that logs it."""
    text = str(record.msg)
    warned = _WARNING.match(text if text != "%s" else str(record.args)) if record.name == "py.warnings" else None
    if warned is not None:
        record.msg = f"{warned[0]}: {HIDDEN}"
    elif _stands_in_source(text, record):
        record.msg = _format_numbers(text, record.args)
    else:
        record.msg = f"{HIDDEN}, {len(text)} characters from {record.filename}:{record.lineno}"
    record.args = ()
    _hide_error(record)


def _format_numbers(text: str, args: Any) -> str:
    """Format a text with the numbers among its arguments, and hide the other arguments."""
    if not args:
        return text
    plain = (
        _hide_values(cast("Mapping[str, Any]", args)) if isinstance(args, Mapping) else tuple(map(_hide_value, args))
    )
    try:
        return text % plain
    except (TypeError, ValueError, KeyError):
        return text


def _hide_values(args: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _hide_value(value) for name, value in args.items()}


def _hide_value(value: object) -> object:
    if value is None or type(value) in (bool, int, float):
        return value
    return type(value).__name__ if isinstance(value, BaseException) else HIDDEN


def _stands_in_source(text: str, record: logging.LogRecord) -> bool:
    frame: FrameType | None = sys._getframe(3)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        code: CodeType = frame.f_code
        if code.co_filename == record.pathname and code.co_name == record.funcName:
            return text in code.co_consts
        frame = frame.f_back
    return False


def _printing_module() -> str:
    """Return the name of the module that prints; empty if a handler prints a record."""
    frame: FrameType | None = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
    proxied = False
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if proxied and (module, frame.f_code.co_name) == _HANDLED:
            return ""
        proxied = proxied or module == _PROXY
        if module not in (__name__, _DSPY_STREAM) and module.partition(".")[0] not in _PRINTERS:
            return module
        frame = frame.f_back
    return "?"


def _log_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        _threads.error("A thread ended with an exception", exc_info=args.exc_value)


def _log_unraisable(unraisable: Any) -> None:
    if unraisable.exc_value is not None:
        _unraisable.error("An exception couldn't be raised to a caller", exc_info=unraisable.exc_value)
