"""Which errors say that Redis can't do its work now: one table for workers, clients and commands.

An outage ends by itself or by its operator's doing, and what couldn't be done is done then. Any other error is about
the command itself, which no other try mends.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kombu.exceptions import OperationalError
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ExecAbortError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from snakepit_bridge.exceptions import StoreForbiddenError, StoreUnavailableError, fresh_error

T = TypeVar("T")

PATIENCE_S = 600.0
"""For so long a task waits for Redis at one step, if its deadline doesn't come first."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0

OUTAGES: tuple[type[Exception], ...] = (
    RedisConnectionError,  # refused, cut off, too many clients, still loading its data set (BusyLoadingError)
    RedisTimeoutError,
    OSError,
    ClusterDownError,
    MasterDownError,
    TryAgainError,
    RedisClusterException,
    OutOfMemoryError,
    ExecAbortError,  # what a transaction ends by one of whose commands met another of these
    ReadOnlyError,  # a replica by now: the next connection finds the primary
    NoPermissionError,
)
"""What redis-py raises for them."""

CODES = ("MISCONF", "BUSY", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "OOM", "READONLY")
"""The server's own words for them, by which answers begin that redis-py has no class for."""

# How servers begin to say that a script lacks a right: Valkey and newer Redis, and Redis 7.0.
_FORBIDDEN_IN_SCRIPT = ("ACL failure in script", "The user executing the script can't")


def is_outage(exc: BaseException) -> bool:
    """Return whether an error says that the server can't do its work now."""
    if isinstance(exc, AttributeError):
        # What kombu says of a channel that another thread has closed with its connection.
        return exc.name == "client" and exc.obj is None
    if isinstance(exc, (StoreUnavailableError, OperationalError, *OUTAGES)) or is_forbidden(exc):
        return True
    return isinstance(exc, ResponseError) and _code(str(exc)) in CODES


def is_forbidden(exc: BaseException) -> bool:
    """Return whether an error says that the user lacks a right."""
    if isinstance(exc, (StoreForbiddenError, NoPermissionError)):
        return True
    if isinstance(exc, OperationalError):
        return exc.__cause__ is not None and is_forbidden(exc.__cause__)
    return isinstance(exc, ResponseError) and any(words in str(exc) for words in _FORBIDDEN_IN_SCRIPT)


def unavailable(exc: BaseException, url: str, user: str) -> StoreUnavailableError:
    """Return an error of ours for an outage.

    Args:
        exc: what redis-py or kombu raised.
        url: of the server, without a password.
        user: whose rights are asked for there.
    """
    if isinstance(exc, StoreUnavailableError):
        return fresh_error(exc)
    problem = str(exc).rstrip(".") or type(exc).__name__
    found = StoreForbiddenError(url, problem, user) if is_forbidden(exc) else StoreUnavailableError(url, problem)
    found.__cause__ = exc
    return found


def _code(text: str) -> str:
    """Return the word by which the server's answer begins; before that of a pipelined command redis-py names it."""
    _, of_pipeline, answer = text.rpartition(" of pipeline caused error: ")
    return (answer if of_pipeline else text).partition(" ")[0].strip("('")


def may_pass(exc: BaseException) -> bool:
    """Return whether an outage may end by itself: missing rights and wrong passwords don't."""
    causes = [one for one in (exc, exc.__cause__) if one is not None]
    return is_outage(exc) and not any(isinstance(one, AuthenticationError) or is_forbidden(one) for one in causes)


async def through_outages(
    work: Callable[[], Awaitable[T]], *, deadline: float | None = None, patience_s: float = PATIENCE_S
) -> T:
    """Return what some work on Redis returns; while Redis is away, it is done again and again.

    Args:
        work: it may be done twice, since a lost answer repeats it.
        deadline: Unix time after which nobody wants it any more.
        patience_s: seconds to wait if no deadline comes first.

    Raises:
        StoreUnavailableError: Redis stayed away, or refuses for good.
    """
    until, pause_s = time.monotonic() + patience_s, _FIRST_PAUSE_S
    while True:
        try:
            return await work()
        except StoreUnavailableError as exc:
            late = time.monotonic() >= until or (deadline is not None and time.time() >= deadline)
            if late or not may_pass(exc):
                raise
        await asyncio.sleep(pause_s * random.uniform(0.7, 1.0))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
