"""Whose request it is: Celery's stacks of tasks and requests, kept per task where many share a thread.

Celery keys both by thread. On one event loop that mixes up ``self.request`` of all tasks that run there, and a
coroutine that runs on another thread than its task sees none. Here the key is a context variable, which follows a task
into its coroutine and from there into threads; without one, it is the thread as ever.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import get_ident
from typing import Any

from celery import Task
from celery._state import _task_stack  # pyright: ignore[reportPrivateUsage]

from snakepit_bridge.exceptions import ConfigurationError

_owner: ContextVar[Any] = ContextVar("dspex_stack_owner", default=None)


def current_owner() -> Any:
    """Returns what the stacks are kept by here: what :func:`use_owner` has set, else the thread's identity."""
    return _owner.get() or get_ident()


@contextmanager
def use_owner(owner: Any) -> Generator[None]:
    """Within it, and in all that is started from there, the stacks are those of ``who``."""
    token = _owner.set(owner)
    try:
        yield
    finally:
        _owner.reset(token)


def key_current_task_by_owner() -> None:
    """Keeps the stack behind ``current_task`` by owner.

    Raises:
        ConfigurationError: Celery runs on thread locals that know no other key.
    """
    _key_by_owner(_task_stack)


def key_requests_by_owner(task: Task) -> None:
    """Keeps a task's stack of requests by owner, so that ``self.request`` is right wherever the task's code runs.

    Raises:
        ConfigurationError: as above.
    """
    _key_by_owner(task.request_stack)


def _key_by_owner(stack: Any) -> None:
    if not hasattr(stack, "__ident_func__"):
        raise ConfigurationError("Celery's fast locals know threads alone. Unset USE_FAST_LOCALS for the fleet's app.")
    stack.__ident_func__ = current_owner
