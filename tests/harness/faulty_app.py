"""The fleet's own worker app with fault points: at a named step the next task meets an exception of a named kind.

A test writes ``fault:STEP`` with a kind, as often as the step is to fail; each failure takes one away.
"""

from __future__ import annotations

import functools
import inspect
from pkgutil import resolve_name
from typing import Any

from celery.signals import task_postrun, task_prerun
from redis import Redis

from tests.harness.faults import KINDS, STEPS
from workers.app import app

__all__ = ["app"]

_server = Redis.from_url(app.settings.redis)


def meet(step: str) -> None:
    """Raise what a test has planned for this step."""
    if kind := _server.rpop(f"fault:{step}"):
        raise KINDS[kind.decode()]()  # type: ignore[union-attr]


def fail_at(step: str, place: str) -> None:
    """Make a function fail before it does anything."""
    owner, _, name = place.rpartition("." if "." in place.partition(":")[2] else ":")
    holder = resolve_name(owner)
    setattr(holder, name, _failing(step, getattr(holder, name)))


def _failing(step: str, function: Any) -> Any:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def fails_later(*args: Any, **kwargs: Any) -> Any:
            meet(step)
            return await function(*args, **kwargs)

        return fails_later

    @functools.wraps(function)
    def fails(*args: Any, **kwargs: Any) -> Any:
        meet(step)
        return function(*args, **kwargs)

    return fails


for step, places in STEPS.items():
    for place in places:
        fail_at(step, place)


@task_prerun.connect
def _before(**_: Any) -> None:
    meet("before the task")


@task_postrun.connect
def _after(**_: Any) -> None:
    meet("after the task")
