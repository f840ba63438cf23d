"""``async def`` tasks, wrapped in a plain function that Celery can call.

The function waits for its coroutine on the home loop: on the asyncio pool its greenlet is switched out meanwhile, in a
thread or a forked process it blocks. So a task is written once and runs on every pool.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

from celery import Task, current_task

from snakepit_bridge.process.frames import mark_coroutine
from workers.pool.soft_limits import run_interruptibly
from workers.pool.task_context import current_owner, use_owner
from workers.pool.tracebacks import detach_error

_MARK = "__awaits_on_home_loop__"


class BodyRunner(ABC):
    """An owner of request stacks that runs its task's coroutine itself: a job of the asyncio pool."""

    @abstractmethod
    def run_body(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run the coroutine of the job's task and return its result."""


def _task_id() -> str:
    """Return the current task's id, by which the watchdog identifies code that blocks the loop."""
    running: Any = current_task
    return str(running.request.id or "") if running else ""


@functools.cache
def wrap_coroutine_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a coroutine function wrapped for Celery, and any other function as it is.

    The same function gets the same wrapper, since Celery may build a shared task more than once per app.
    """
    if not inspect.iscoroutinefunction(function):
        return function

    @functools.wraps(function)
    def wait(*args: Any, **kwargs: Any) -> Any:
        whose, work = current_owner(), mark_coroutine(_task_id(), function(*args, **kwargs))
        if isinstance(whose, BodyRunner):
            return whose.run_body(work)
        try:
            with use_owner(whose):  # so that the coroutine, in the loop's thread, finds this thread's request
                return run_interruptibly(work)
        except Exception as exc:  # noqa: BLE001 (whatever it is, Celery gets a copy that references no coroutine)
            error = detach_error(exc)
        raise error

    wait.__signature__ = inspect.signature(function)  # pyright: ignore[reportAttributeAccessIssue]
    setattr(wait, _MARK, True)
    return wait


def is_coroutine_task(task: Task) -> bool:
    """Check whether a task was written as ``async def``, however Celery has wrapped it since."""
    return getattr(task.run, _MARK, False)
