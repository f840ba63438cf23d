"""Classification of Redis errors: which ones are outages, shared by workers, clients and the CLI.

An outage ends by itself or by an operator's action, so work is retried. Any other error is caused by the command
itself, so that retrying is useless.
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

from snakepit_bridge.exceptions import ConfigurationError, StoreForbiddenError, StoreUnavailableError, copy_error

T = TypeVar("T")

MAX_WAIT_S = 600.0
"""Seconds for which a task waits for Redis at one step, unless its deadline comes first."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0

OUTAGES: tuple[type[Exception], ...] = (
    RedisConnectionError,  # refused, reset, too many clients, still loading its data set (BusyLoadingError)
    RedisTimeoutError,
    OSError,
    ClusterDownError,
    MasterDownError,
    TryAgainError,
    RedisClusterException,
    OutOfMemoryError,
    ExecAbortError,  # a command of the transaction failed with another of these
    ReadOnlyError,  # demoted to a replica: the next connection finds the primary
    NoPermissionError,
)
"""The exceptions that redis-py raises in an outage."""

OUTAGE_CODES = ("MISCONF", "BUSY", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "OOM", "READONLY")
"""Error codes of an outage that redis-py has no class for."""

# How error messages begin if a script lacks a right: on Valkey and newer Redis, and on Redis 7.0.
_FORBIDDEN_IN_SCRIPT = ("ACL failure in script", "The user executing the script can't")

# What a server says to the SELECT of a new connection; the last one is a cluster's.
_NO_DATABASE = ("DB index is out of range", "invalid DB index", "SELECT is not allowed in cluster mode")


def is_outage(exc: BaseException) -> bool:
    """Check whether an error means that the server is out of service."""
    if isinstance(exc, AttributeError):
        # Raised by kombu for a channel that another thread has closed with its connection.
        return exc.name == "client" and exc.obj is None
    if isinstance(exc, (StoreUnavailableError, OperationalError, *OUTAGES)) or is_forbidden(exc):
        return True
    return isinstance(exc, ResponseError) and _error_code(str(exc)) in OUTAGE_CODES


def is_forbidden(exc: BaseException) -> bool:
    """Check whether an error means that the user lacks a right."""
    if isinstance(exc, (StoreForbiddenError, NoPermissionError)):
        return True
    if isinstance(exc, OperationalError):
        return exc.__cause__ is not None and is_forbidden(exc.__cause__)
    return isinstance(exc, ResponseError) and any(words in str(exc) for words in _FORBIDDEN_IN_SCRIPT)


def to_database_error(exc: BaseException, url: str) -> ConfigurationError | None:
    """Return the error for a server that has no database of the URL's number; None for any other.

    Args:
        exc: raised by redis-py or kombu.
        url: of the server, without a password.
    """
    cause = exc.__cause__ if isinstance(exc, OperationalError) else exc
    if not isinstance(cause, ResponseError) or not any(words in str(cause) for words in _NO_DATABASE):
        return None
    return ConfigurationError(f"Redis at {url} can't be used: {cause}. Correct the number at the URL's end.")


def to_unavailable_error(exc: BaseException, url: str, user: str) -> StoreUnavailableError:
    """Return a StoreUnavailableError for an outage.

    Args:
        exc: raised by redis-py or kombu.
        url: of the server, without a password.
        user: the Redis user.
    """
    if isinstance(exc, StoreUnavailableError):
        return copy_error(exc)
    problem = str(exc).rstrip(".") or type(exc).__name__
    error = StoreForbiddenError(url, problem, user) if is_forbidden(exc) else StoreUnavailableError(url, problem)
    error.__cause__ = exc
    return error


def _error_code(text: str) -> str:
    """Return the error code at the start of a reply; redis-py prefixes that of a pipelined command with its name."""
    _, of_pipeline, answer = text.rpartition(" of pipeline caused error: ")
    return (answer if of_pipeline else text).partition(" ")[0].strip("('")


def is_transient(exc: BaseException) -> bool:
    """Check whether an outage may end by itself, as missing rights and wrong passwords don't."""
    chain = [error for error in (exc, exc.__cause__) if error is not None]
    return is_outage(exc) and not any(isinstance(error, AuthenticationError) or is_forbidden(error) for error in chain)


async def retry_through_outages(
    work: Callable[[], Awaitable[T]], *, deadline: float | None = None, patience_s: float = MAX_WAIT_S
) -> T:
    """Await some work on Redis and return its result; retry with backoff while Redis is unreachable.

    Args:
        work: must be idempotent, since it is repeated after a lost reply.
        deadline: Unix time in seconds after which to give up.
        patience_s: seconds after which to give up if no deadline comes first.

    Raises:
        StoreUnavailableError: Redis stayed unreachable, or the error is permanent.
    """
    until, pause_s = time.monotonic() + patience_s, _FIRST_PAUSE_S
    while True:
        try:
            return await work()
        except StoreUnavailableError as exc:
            expired = time.monotonic() >= until or (deadline is not None and time.time() >= deadline)
            if expired or not is_transient(exc):
                raise
        # The last try is begun as time runs out, not after it.
        await asyncio.sleep(min(pause_s * random.uniform(0.7, 1.0), max(0.0, until - time.monotonic())))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
