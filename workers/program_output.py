"""What code that isn't the fleet's own prints and logs on a worker: shown without anything that it was given.

DSPy logs inputs and prints failures with answers in them, warnings of pydantic quote values, a task of asyncio that
nobody awaited is logged with its exception, and programs say what they like. A text that stands in the source is none
of that, nor is a number; everything else stays out. It is taken out where records begin, so that no handler sees it.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from types import CodeType, FrameType, TracebackType
from typing import Any, cast

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from snakepit_bridge.exceptions import ConfigurationError, LMCallOutsidePredictionError, StoreUnavailableError
from snakepit_bridge.protocol.messages import HIDDEN

PRINTED = "celery.redirected"
"""Celery's logger for what is printed in a worker."""

_PROXY = "celery.utils.log"
_DSPY_STREAM = "dspy.utils.logging_utils"

_OWN = frozenset({"config", "snakepit_bridge", "tasks", "workers"})
# They log nothing of what a task holds; those of Celery's that do have a filter of their own.
_TRUSTED = frozenset({"amqp", "billiard", "celery", "click", "httpx", "kombu", "multiprocessing", "redis"})
# The parent of every logger that Celery makes for a task's code.
_TASKS = "celery.task"
# What a handler of theirs prints is a record, and without content by then.
_HANDLED = ("logging", "emit")
# They print for somebody else.
_PRINTERS = frozenset({"celery", "contextlib", "logging", "pprint", "rich", "sys", "tqdm", "traceback", "warnings"})
# Errors whose texts are about servers, settings and rules, whoever raises them,
_OURS = (ConfigurationError, LMCallOutsidePredictionError, StoreUnavailableError)
# and where the fleet's own code does.
_OPERATIONAL = (*_OURS, OSError, OperationalError, RedisError)
_WARNING = re.compile(r"[^\n]*?:\d+: \w+(?=:)")
_MOST_PLACES = 1_000

_threads = logging.getLogger("threading")
_unraisable = logging.getLogger("sys")


def hide_output() -> None:
    """Keep content out of whatever is logged and printed in this process, and in those that it forks."""
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, ContentFreeRecords):
        logging.setLogRecordFactory(ContentFreeRecords(factory))
    printed = logging.getLogger(PRINTED)
    if not any(isinstance(one, PrintedFilter) for one in printed.filters):
        printed.addFilter(PrintedFilter())
    # By default they print the exception's text, of which the filter would leave nothing.
    threading.excepthook = _log_thread
    sys.unraisablehook = _log_unraisable


class ContentFreeRecords:
    """Makes log records, without what others' code puts into them.

    Args:
        factory: makes the records themselves.
    """

    def __init__(self, factory: Callable[..., logging.LogRecord]) -> None:
        self._factory = factory

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """Return a record, made of the arguments of ``logging.LogRecord``."""
        record = self._factory(*args, **kwargs)
        top = record.name.partition(".")[0]
        if top in _OWN:
            _hide_foreign_errors(record)
        elif record.name == _TASKS or top not in _TRUSTED:
            _hide(record)
        return record


class PrintedFilter(logging.Filter):
    """Lets through what the fleet and Celery print; of others it says once for each module that it prints."""

    def __init__(self) -> None:
        super().__init__()
        self._reported: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged; its text is replaced where it is another's."""
        module = _printing_module()
        if not module or module.partition(".")[0] in _OWN | _TRUSTED:
            return True
        if module in self._reported or len(self._reported) >= _MOST_PLACES:
            return False
        self._reported.add(module)
        record.msg = (
            "%s prints. It isn't shown, since it may be what was asked or answered; DSPEX_LOG_CONTENT=true does"
        )
        record.args = (module,)
        return True


def format_frames(kind: type[BaseException], tb: TracebackType | None) -> str:
    """Return a traceback without the exception's text, which may quote anything."""
    return f"Traceback (most recent call last):\n{''.join(traceback.format_tb(tb))}{kind.__name__}"


def _hide_foreign_errors(record: logging.LogRecord) -> None:
    """Take the texts of a program's errors out of a record of the fleet's own."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            type(one).__name__ if isinstance(one, BaseException) and not isinstance(one, _OPERATIONAL) else one
            for one in record.args
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
    """Return the error of ours that an exception was made of."""
    seen: set[int] = set()
    cause = exc.__cause__
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, _OURS):
            return cause
        seen.add(id(cause))
        cause = cause.__cause__
    return None


def _hide(record: logging.LogRecord) -> None:
    """Leave of a record what stands in the source of whoever logs it."""
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
    """Return a format with the numbers of its arguments, and with nothing else of them."""
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
    """Return the name of the module whose code prints; empty where a handler prints a record."""
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
        _threads.error("A thread ended by an exception", exc_info=args.exc_value)


def _log_unraisable(unraisable: Any) -> None:
    if unraisable.exc_value is not None:
        _unraisable.error("An exception was raised where nobody can catch it", exc_info=unraisable.exc_value)
