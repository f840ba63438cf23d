"""Celery's task and request stacks, keyed by a context variable instead of by thread.

Keyed by thread, ``self.request`` of all tasks on one event loop would get mixed up, and a coroutine that runs in
another thread than its task would see none. A context variable follows a task into its coroutine and from there into
threads; where it isn't set, the thread is the key as in Celery.
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
