"""What Celery gets to see of a task's error: a copy of it, whose traceback names the lines and holds no frames.

Celery clears the frames that a failed task's traceback leads to, and Python closes a suspended coroutine whose frame is
cleared. An exception that other tasks raise too, such as one of a library that several of them wait for, leads into
coroutines that still run, and clearing them ends the process. So what leaves a task's coroutine for Celery is an error
of its own, and Celery's own clearing leaves coroutines alone.
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

from snakepit_bridge.exceptions import error_text, fresh_error

E = TypeVar("E", bound=BaseException)

# Causes and contexts that are copied along with an error; nobody reads a longer chain.
_CHAIN = 16
# Lines of source that errors were raised at.
_LINES = 4_096
_SUSPENDABLE = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR | CO_ITERABLE_COROUTINE


def detach_error(exc: E) -> E:
    """Return a copy of an error, its causes and contexts included, that leads into no frame of any task."""
    try:
        return _copy_error(exc, {})
    except Exception:  # noqa: BLE001 - code of somebody's own, and whoever waits for the task waits for an error
        return cast(E, RuntimeError(f"{type(exc).__name__}: {error_text(exc)}"))


def _copy_error(exc: E, copies: dict[int, BaseException]) -> E:
    twin = copies[id(exc)] = fresh_error(exc)
    put = BaseException.__setattr__  # a class may refuse to have anything set
    put(twin, "__cause__", _copy_linked(exc.__cause__, copies))
    put(twin, "__context__", _copy_linked(exc.__context__, copies))
    put(twin, "__suppress_context__", exc.__suppress_context__)
    return twin.with_traceback(_strip_frames(exc.__traceback__))


def _copy_linked(exc: BaseException | None, copies: dict[int, BaseException]) -> BaseException | None:
    if exc is None or len(copies) >= _CHAIN:
        return None
    return copies.get(id(exc)) or _copy_error(exc, copies)


def _strip_frames(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback of the same lines whose frames have ended, hold nothing and belong to nobody."""
    lines: list[tuple[FrameType, int]] = []
    while traceback is not None:
        # Python has none for some instructions, whatever its types say.
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
    """Return a frame of a function that bears this name and stands at a line of this file, and has ended.

    It is that of a generator that never began, since the frame of a function leads to those of its callers.
    """
    code = _nothing.__code__.replace(co_filename=file, co_name=name, co_qualname=qualified, co_firstlineno=number)
    return FunctionType(code, {"__name__": module, "__file__": file})().gi_frame


def _nothing() -> Generator[None]:
    yield


# ---------------------------------------------------------------- Celery's own clearing


def patch_celery_clearing() -> None:
    """Have Celery clear no frame that may still run, wherever it clears those of a traceback.

    A Celery that clears in another place than those known here is kept from harm by :func:`detach_error`.
    """
    if hasattr(trace, "traceback_clear"):
        trace.traceback_clear = clear_finished_frames
    if hasattr(Backend, "fail_from_current_stack"):
        Backend.fail_from_current_stack = _fail_from_current_stack


def clear_finished_frames(exc: BaseException | None = None) -> None:
    """Clear the frames of an error's traceback, without those of coroutines and generators."""
    exc = exc if exc is not None else sys.exc_info()[1]
    traceback = getattr(exc, "__traceback__", None)
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_flags & _SUSPENDABLE:
            with suppress(RuntimeError):  # it still runs
                traceback.tb_frame.clear()
        traceback = traceback.tb_next


def _fail_from_current_stack(self: Any, task_id: str, exc: BaseException | None = None) -> ExceptionInfo:
    """Do what Celery's own does, but for the clearing of the frames of the error that is being handled."""
    kind, current, traceback = sys.exc_info()
    error = current if exc is None else exc
    info = ExceptionInfo((kind, error, traceback))
    self.mark_as_failure(task_id, error, info.traceback)
    return info
