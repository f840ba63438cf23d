"""Copies of task errors for Celery, whose tracebacks show the lines but reference no live frames.

Celery clears the frames of a failed task's traceback, and Python closes a suspended coroutine whose frame is cleared.
An exception that several tasks raise, such as that of a shared call that they all wait for, references coroutines
that still run, and clearing them ends the process. So Celery gets a copy of the error, and its clearing is patched to
leave coroutines alone.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Generator
from contextlib import suppress
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR, CO_ITERABLE_COROUTINE
from types import FrameType, FunctionType, TracebackType
from typing import Any, TypeVar, cast

from billiard.einfo import ExceptionInfo
from celery.app import trace
from celery.backends.base import Backend

from snakepit_bridge.exceptions import copy_error, error_text

E = TypeVar("E", bound=BaseException)

# Maximum causes and contexts that are copied along with an error.
_CHAIN = 16
# Cached frames, one per source line that errors were raised at.
_LINES = 4_096
_SUSPENDABLE = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR | CO_ITERABLE_COROUTINE


def detach_error(exc: E) -> E:
    """Return a copy of an error, with its causes and contexts, that references no frame of any task."""
    try:
        return _copy_error(exc, {})
    except Exception:  # noqa: BLE001 - copying runs user code, and the task needs an error in any case
        return cast(E, RuntimeError(f"{type(exc).__name__}: {error_text(exc)}"))


def _copy_error(exc: E, copies: dict[int, BaseException]) -> E:
    copy = copies[id(exc)] = copy_error(exc)
    put = BaseException.__setattr__  # a class may refuse to have anything set
    put(copy, "__cause__", _copy_linked(exc.__cause__, copies))
    put(copy, "__context__", _copy_linked(exc.__context__, copies))
    put(copy, "__suppress_context__", exc.__suppress_context__)
    return copy.with_traceback(_strip_frames(exc.__traceback__))


def _copy_linked(exc: BaseException | None, copies: dict[int, BaseException]) -> BaseException | None:
    if exc is None or len(copies) >= _CHAIN:
        return None
    return copies.get(id(exc)) or _copy_error(exc, copies)


def _strip_frames(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback of the same lines whose frames have finished and hold nothing."""
    lines: list[tuple[FrameType, int]] = []
    while traceback is not None:
        # Some instructions have no line number, despite the type.
        lines.append((traceback.tb_frame, traceback.tb_lineno or traceback.tb_frame.f_code.co_firstlineno))
        traceback = traceback.tb_next
    shown: TracebackType | None = None
    for frame, number in reversed(lines):
        code, module = frame.f_code, frame.f_globals.get("__name__")
        stand_in = _make_finished_frame(code.co_filename, code.co_name, code.co_qualname, number, str(module))
        shown = TracebackType(shown, stand_in, -1, number)  # -1: no instruction, so no column is shown
    return shown


@functools.lru_cache(_LINES)
def _make_finished_frame(file: str, name: str, qualified: str, number: int, module: str) -> FrameType:
    """Return an inert frame with this function name, file and line.

    It is the frame of a generator that never started, since a function's frame references those of its callers.
    """
    code = _nothing.__code__.replace(co_filename=file, co_name=name, co_qualname=qualified, co_firstlineno=number)
    return FunctionType(code, {"__name__": module, "__file__": file})().gi_frame


def _nothing() -> Generator[None]:
    yield


# ---------------------------------------------------------------- Celery's own clearing


def patch_celery_clearing() -> None:
    """Patch Celery so that it clears no frame that may still run.

    Should a version of Celery clear frames elsewhere too, :func:`detach_error` still keeps coroutines safe.
    """
    if hasattr(trace, "traceback_clear"):
        trace.traceback_clear = clear_finished_frames
    if hasattr(Backend, "fail_from_current_stack"):
        Backend.fail_from_current_stack = _fail_from_current_stack


def clear_finished_frames(exc: BaseException | None = None) -> None:
    """Clear the frames of an error's traceback, except those of coroutines and generators."""
    exc = exc if exc is not None else sys.exc_info()[1]
    traceback = getattr(exc, "__traceback__", None)
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_flags & _SUSPENDABLE:
            with suppress(RuntimeError):  # it still runs
                traceback.tb_frame.clear()
        traceback = traceback.tb_next


def _fail_from_current_stack(self: Any, task_id: str, exc: BaseException | None = None) -> ExceptionInfo:
    """Do what Celery's method does, without clearing the frames of the error that is being handled."""
    kind, current, traceback = sys.exc_info()
    error = current if exc is None else exc
    info = ExceptionInfo((kind, error, traceback))
    self.mark_as_failure(task_id, error, info.traceback)
    return info
