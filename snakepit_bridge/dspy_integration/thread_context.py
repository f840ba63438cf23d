"""Propagate a prediction's context into the threads that its program starts, on a worker.

Rate limits, deadline, cancellation, cache and usage of an LM call are found through context variables. asyncio and
DSPy's own tools propagate them into threads; Python's threads and thread pools don't, and a call from there would
bypass all of it. So within a prediction they do here; and where they can't, an LM call raises an error.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, NoReturn, cast

import dspy
from dspy.utils.callback import with_callbacks

from snakepit_bridge.dspy_integration import process_settings
from snakepit_bridge.dspy_integration.compat import validate_tool_arguments
from snakepit_bridge.exceptions import LMCallOutsidePredictionError
from snakepit_bridge.process.frames import call_marked, current_prediction_id
from snakepit_bridge.process.threads import HomeThreads, run_in_user_thread

_MARK = "__carries_predictions__"
# A pool's thread runs many jobs one after another, each with its own context.
_POOL_MODULES = frozenset({"concurrent.futures.thread", "anyio._backends._asyncio", "snakepit_bridge.process.threads"})


class NoPredictionLM(dspy.BaseLM):
    """The LM of code that runs outside of any prediction on a worker: every call raises an error."""

    def __init__(self) -> None:
        super().__init__("none/outside-of-a-prediction")

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Reject the call.

        Raises:
            LMCallOutsidePredictionError: always.
        """
        raise no_prediction_error()

    async def aforward(self, *_: Any, **__: Any) -> NoReturn:
        """Reject the call.

        Raises:
            LMCallOutsidePredictionError: always.
        """
        raise no_prediction_error()


def no_prediction_error() -> LMCallOutsidePredictionError:
    """Return the error of an LM call outside of any prediction."""
    return LMCallOutsidePredictionError(f"thread '{threading.current_thread().name}' belongs to no prediction")


def propagate_prediction_context() -> None:
    """Make threads, thread pools and synchronous tools run in the context of the prediction that uses them.

    Only for worker processes, after DSPy's settings are protected.
    """
    if hasattr(ThreadPoolExecutor.submit, _MARK):
        return
    _patch(ThreadPoolExecutor, "submit", _wrap_submit(ThreadPoolExecutor.submit))
    _patch(threading.Thread, "start", _wrap_start(threading.Thread.start))
    _patch(dspy.Tool, "acall", with_callbacks(_call_tool))
    process_settings.set_process_default("lm", NoPredictionLM())


def _patch(kind: type, name: str, function: Any) -> None:
    setattr(function, _MARK, True)
    setattr(kind, name, function)


def _wrap_submit(submit: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
    @functools.wraps(submit)
    def carrying(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        task_id = current_prediction_id()
        if not task_id or isinstance(self, HomeThreads):  # asyncio propagates the context
            return submit(self, fn, *args, **kwargs)
        return submit(self, copy_context().run, call_marked, task_id, fn, *args, **kwargs)

    return carrying


def _wrap_start(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    @functools.wraps(start)
    def carrying(self: threading.Thread) -> None:
        task_id = current_prediction_id()
        if task_id and not _is_pool_thread(self):
            context, run = copy_context(), self.run
            self.run = lambda: context.run(lambda: call_marked(task_id, run))
        start(self)

    return carrying


def _is_pool_thread(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return bool({type(thread).__module__, getattr(target, "__module__", "")} & _POOL_MODULES)


async def _call_tool(self: Any, **kwargs: Any) -> Any:
    """Call a tool as ``dspy.Tool.acall`` does, but run a synchronous function in a thread."""
    parsed = validate_tool_arguments(self, kwargs)
    if not current_prediction_id() or _is_coroutine_function(self.func):
        result = self.func(**parsed)
    else:
        result = await run_in_user_thread(cast("Callable[..., Any]", self.func), **parsed)
    return await result if inspect.isawaitable(result) else result


def _is_coroutine_function(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = cast("functools.partial[Any]", function).func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
