"""Stack frames named after a prediction's id, so that the stack of a hung process shows which prediction it runs.

A hung process can't answer: a regular expression, say, holds the interpreter lock, so that no other thread runs. A
signal handler in C (faulthandler) can still write its stack, with function names and nothing else. So each prediction
runs below a function that is named after it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType
from typing import Any, TypeVar, cast

from snakepit_bridge.process.frame_names import PREFIX

T = TypeVar("T")

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

_prediction_id: ContextVar[str] = ContextVar("dspex_frame", default="")


def mark_coroutine(task_id: str, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Wrap a coroutine in a frame named after a prediction; tasks that it creates get such frames as well.

    If the caller runs below such a frame already, or the id isn't usable as a name, return the coroutine as it is.
    """
    if _prediction_id.get() == task_id:
        return work
    return _rename_code(_await_marked, task_id)(task_id, work) if _ID.fullmatch(task_id) else work


def call_marked(task_id: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a function below a frame named after a prediction."""
    if not _ID.fullmatch(task_id):
        return function(*args, **kwargs)
    return _rename_code(_call, task_id)(function, args, kwargs)


def current_prediction_id() -> str:
    """Return the id of the prediction that the caller runs for, or an empty string."""
    return _prediction_id.get()


@contextmanager
def unmarked() -> Generator[None]:
    """Run a block for no prediction: what it starts, such as a thread at an import, outlives the prediction."""
    token = _prediction_id.set("")
    try:
        yield
    finally:
        _prediction_id.reset(token)


def mark_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Install a task factory, so that tasks created by a prediction run below frames with its id too."""
    loop.set_task_factory(cast("Any", _create_marked_task))


def _create_marked_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    context = options.get("context")
    task_id = _prediction_id.get() if context is None else cast("str", context.get(_prediction_id, ""))
    if not task_id or not asyncio.iscoroutine(work):
        return asyncio.Task(work, loop=loop, **options)
    task = asyncio.Task(_rename_code(_await, task_id)(work), loop=loop, **options)
    # A task that is cancelled before its first step never starts the coroutine.
    task.add_done_callback(lambda _: work.close())
    return task


async def _await_marked(task_id: str, work: Coroutine[Any, Any, T]) -> T:
    token = _prediction_id.set(task_id)
    try:
        return await work
    finally:
        _prediction_id.reset(token)


async def _await(work: Coroutine[Any, Any, T]) -> T:
    return await work


def _call(function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    return function(*args, **kwargs)


def _rename_code(function: Any, task_id: str) -> Any:
    name = PREFIX + task_id
    code = function.__code__.replace(co_name=name, co_qualname=name)
    return FunctionType(code, function.__globals__, name)
