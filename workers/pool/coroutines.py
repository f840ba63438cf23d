"""``async def`` tasks, wrapped in a plain function that Celery can call, and Celery's stacks for what they await.

The function waits for its coroutine on the home loop: on the asyncio pool its greenlet is switched out meanwhile, in a
thread or a forked process it blocks. So a task is written once and runs on every pool.

Celery's task and request stacks are keyed by a context variable instead of by thread. Keyed by thread,
``self.request`` of all tasks on one event loop would get mixed up, and a coroutine that runs in another thread than its
task would see none. A context variable follows a task into its coroutine and from there into threads; where it isn't
set, the thread is the key as in Celery.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import get_ident
from typing import Any

from celery import Task, current_task
from celery._state import _task_stack  # pyright: ignore[reportPrivateUsage]

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.process.frames import mark_coroutine
from workers.pool.soft_limits import run_interruptibly
from workers.pool.tracebacks import detach_error

_owner: ContextVar[Any] = ContextVar("dspex_stack_owner", default=None)


def current_owner() -> Any:
    """Return the key of the stacks here: what :func:`use_owner` has set, otherwise the thread's identity."""
    return _owner.get() or get_ident()


@contextmanager
def use_owner(owner: Any) -> Generator[None]:
    """Use the stacks of ``owner`` in this context and in everything that is started from it."""
    token = _owner.set(owner)
    try:
        yield
    finally:
        _owner.reset(token)


def key_current_task_by_owner() -> None:
    """Key the stack behind ``current_task`` by owner.

    Raises:
        ConfigurationError: Celery runs on its fast locals, which can't use another key.
    """
    _key_by_owner(_task_stack)


def key_requests_by_owner(task: Task) -> None:
    """Key a task's request stack by owner, so that ``self.request`` is right wherever the task's code runs.

    Raises:
        ConfigurationError: Celery runs on its fast locals, which can't use another key.
    """
    _key_by_owner(task.request_stack)


def _key_by_owner(stack: Any) -> None:
    if not hasattr(stack, "__ident_func__"):
        raise ConfigurationError(
            "Celery's fast locals can only be keyed by thread. Unset USE_FAST_LOCALS for the fleet's app."
        )
    stack.__ident_func__ = current_owner


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
