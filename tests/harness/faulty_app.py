"""The fleet's own worker app with fault points: at a named step the next task meets an exception of a named kind.

A test writes ``fault:STEP`` with a kind, as often as the step is to fail; each failure takes one away.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_postrun, task_prerun
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError

import tasks.batch
import tasks.predict
import tasks.predict_batch
import tasks.prediction
from snakepit_bridge.exceptions import BridgeError, InputError, StoreUnavailableError
from tasks.runtime import Runtime
from tasks.singles import Singles
from workers.app import app
from workers.backend import CommitBackend

__all__ = ["KINDS", "STEPS", "app"]


class Mute(Exception):
    """Can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no text either")


class Unpickled(Exception):
    """Can't be pickled, nor made again from its arguments."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__("one argument only")
        self.made_of = (one, two, lambda: None)

    def __reduce__(self) -> Any:
        raise TypeError("it can't be pickled")


class Argless(Exception):
    """Has arguments that fail when they are read."""

    @property
    def args(self) -> Any:  # type: ignore[override]
        raise LookupError("no arguments")

    @args.setter
    def args(self, value: object) -> None: ...


class Rooted(Exception):
    """Lets nobody set anything on it."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} can't be set")


class Rude(BaseException):
    """Is no ``Exception``."""


KINDS: dict[str, Callable[[], BaseException]] = {
    "BridgeError": lambda: BridgeError("a plain one"),
    "InputError": lambda: InputError("qa", "question", "it is odd"),
    "ValueError": lambda: ValueError("odd"),
    "unencodable": lambda: ValueError(object(), {1, 2}, b"\xff"),
    "half a character": lambda: ValueError("half \ud83d"),
    "long": lambda: ValueError("x" * 100_000),
    "mute": Mute,
    "unpickled": lambda: Unpickled(1, 2),
    "argless": Argless,
    "rooted": Rooted,
    "group": lambda: ExceptionGroup("several", [ValueError("a"), LookupError("b")]),
    "MemoryError": MemoryError,
    "RecursionError": lambda: RecursionError("maximum recursion depth exceeded"),
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "TimeoutError": TimeoutError,
    "OSError": lambda: OSError(24, "Too many open files"),
    "OperationalError": lambda: OperationalError("the broker is away"),
    "RedisConnectionError": lambda: RedisConnectionError("away"),
    "OutOfMemoryError": lambda: OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    "ResponseError": lambda: ResponseError("WRONGTYPE"),
    "StoreUnavailableError": lambda: StoreUnavailableError("redis://nowhere", "it is away"),
    "SoftTimeLimitExceeded": SoftTimeLimitExceeded,
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
    "rude": Rude,
}

STEPS: list[str] = []

_server = Redis.from_url(app.settings.redis)


def meet(step: str) -> None:
    """Raise what a test has planned for this step."""
    if kind := _server.rpop(f"fault:{step}"):
        raise KINDS[kind.decode()]()  # type: ignore[union-attr]


def fail_at(step: str, *places: tuple[Any, str]) -> None:
    """Make functions fail before they do anything."""
    STEPS.append(step)
    for owner, name in places:
        setattr(owner, name, _failing(step, getattr(owner, name)))


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


fail_at("reading the request", (tasks.predict, "request_of"), (tasks.predict_batch, "request_of"))
fail_at("reading the delivery", (tasks.predict, "delivery_of"), (tasks.predict_batch, "delivery_of"))
fail_at("looking for an end", (Runtime, "look"), (Runtime, "ended_of"))
fail_at("preparing", (tasks.predict, "prepared"), (tasks.batch, "prepared"))
fail_at("serving a snapshot", (tasks.prediction, "_prepared"))
fail_at("handing code over", (tasks.predict, "hand_over_code"), (tasks.batch, "hand_over_code"))
fail_at("fetching inputs", (tasks.prediction, "arrived"))
fail_at("taking inputs", (tasks.prediction, "taken"))
fail_at("predicting", (tasks.predict, "predicted"), (tasks.batch, "predicted"))
fail_at("calling the program", (tasks.prediction, "_call"))
fail_at("encoding outputs", (tasks.prediction, "encode_outputs"))
fail_at("storing beside", (tasks.predict, "stored_form"), (tasks.batch, "stored_form"))
fail_at("storing an input's result", (tasks.batch.Ends, "succeeded"))
fail_at("storing an input's error", (tasks.batch.Ends, "failed"))
fail_at("encoding an end", (CommitBackend, "_call"))
fail_at("committing", (CommitBackend, "_soon"))
fail_at("sending again", (Singles, "_send"))
STEPS += ["before the task", "after the task"]


@task_prerun.connect
def _before(**_: Any) -> None:
    meet("before the task")


@task_postrun.connect
def _after(**_: Any) -> None:
    meet("after the task")
