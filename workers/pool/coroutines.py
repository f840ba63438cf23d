"""Tasks written as ``async def``: each is wrapped once in the plain function that Celery knows how to call.

The function waits for its coroutine on the home loop. On the asyncio pool it is switched out meanwhile; in a thread or
a forked process it blocks that one. So a task is written once and runs on every pool.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, runtime_checkable

from celery import Task, current_task

from snakepit_bridge.process.frames import under
from workers.pool.soft_limits import run_interruptibly
from workers.pool.task_context import current_owner, use_owner
from workers.pool.tracebacks import detach_error

_MARK = "__awaits_on_home_loop__"


@runtime_checkable
class BodyRunner(Protocol):
    """An owner of stacks that runs its task's coroutine itself: a job of the asyncio pool."""

    def run_body(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs the coroutine of the job's task and returns its result."""
        ...


def _task_id() -> str:
    """The task that runs here, by whose id the watchdog finds whose code holds up the loop."""
    running: Any = current_task
    return str(running.request.id or "") if running else ""


@functools.cache
def wrap_coroutine_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what Celery calls for a task's function: a coroutine function wrapped, any other as it is.

    The same function gets the same wrapper, since Celery builds a shared task once per app and twice for some.
    """
    if not inspect.iscoroutinefunction(function):
        return function

    @functools.wraps(function)
    def wait(*args: Any, **kwargs: Any) -> Any:
        whose, work = current_owner(), under(_task_id(), function(*args, **kwargs))
        if isinstance(whose, BodyRunner):
            return whose.run_body(work)
        try:
            with use_owner(whose):  # so that the coroutine, on its own thread, finds the request of this one
                return run_interruptibly(work)
        except Exception as exc:  # noqa: BLE001 (whatever it is, Celery gets one that leads into no coroutine)
            error = detach_error(exc)
        raise error

    wait.__signature__ = inspect.signature(function)  # pyright: ignore[reportAttributeAccessIssue]
    setattr(wait, _MARK, True)
    return wait


def is_coroutine_task(task: Task) -> bool:
    """Tells whether a task was written as ``async def``, under whatever Celery has wrapped it in since."""
    return getattr(task.run, _MARK, False)
