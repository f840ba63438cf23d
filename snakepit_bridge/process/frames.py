"""Frames that bear a prediction's id, so that the stack of a process which hangs shows whose code it is in.

A process that hangs can't be asked anything: a regular expression holds the interpreter lock, and no thread of it runs.
Its stack can still be written by a signal handler in C, with the names of its functions and nothing else. So each
prediction runs below a function that is called like it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType
from typing import Any, TypeVar, cast

T = TypeVar("T")

PREFIX = "prediction "
"""What the names of such frames begin with; no function that somebody wrote can be called that."""

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

_whose: ContextVar[str] = ContextVar("dspex_frame", default="")


def under(task_id: str, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Returns the coroutine below a frame with a prediction's id; tasks that it creates get such frames as well.

    An id that no frame can be named by leaves the coroutine as it is.
    """
    return _named(_await_marked, task_id)(task_id, work) if _ID.fullmatch(task_id) else work


def call_under(task_id: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Calls a function below a frame with a prediction's id."""
    if not _ID.fullmatch(task_id):
        return function(*args, **kwargs)
    return _named(_call, task_id)(function, args, kwargs)


def whose() -> str:
    """Returns the id of the prediction that the caller runs for, empty if it is none."""
    return _whose.get()


@contextmanager
def unmarked() -> Generator[None]:
    """Within it code runs for nobody: what it starts, such as a thread at an import, outlives the prediction."""
    token = _whose.set("")
    try:
        yield
    finally:
        _whose.reset(token)


def mark_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Has the tasks that a prediction's code creates on a loop run below frames with its id as well."""
    loop.set_task_factory(cast("Any", _marked_task))


def _marked_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    context = options.get("context")
    task_id = _whose.get() if context is None else cast("str", context.get(_whose, ""))
    if not task_id or not asyncio.iscoroutine(work):
        return asyncio.Task(work, loop=loop, **options)
    task = asyncio.Task(_named(_await, task_id)(work), loop=loop, **options)
    # One that is cancelled before its first step never gets to what it was made for.
    task.add_done_callback(lambda _: work.close())
    return task


async def _await_marked(task_id: str, work: Coroutine[Any, Any, T]) -> T:
    token = _whose.set(task_id)
    try:
        return await work
    finally:
        _whose.reset(token)


async def _await(work: Coroutine[Any, Any, T]) -> T:
    return await work


def _call(function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    return function(*args, **kwargs)


def _named(function: Any, task_id: str) -> Any:
    name = PREFIX + task_id
    code = function.__code__.replace(co_name=name, co_qualname=name)
    return FunctionType(code, function.__globals__, name)
