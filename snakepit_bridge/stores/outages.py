"""Which errors say that Redis can't do its work now: one table for workers, clients and commands.

An outage ends by itself or by its operator's doing, and what couldn't be done is done then. Any other error is about
the command itself, which no other try mends.
"""

from __future__ import annotations

from kombu.exceptions import OperationalError
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
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

from snakepit_bridge.exceptions import StoreUnavailableError

OUTAGES: tuple[type[Exception], ...] = (
    RedisConnectionError,  # refused, cut off, too many clients, still loading its data set (BusyLoadingError)
    RedisTimeoutError,
    OSError,
    ClusterDownError,
    MasterDownError,
    TryAgainError,
    RedisClusterException,
    OutOfMemoryError,
    ReadOnlyError,  # a replica by now: the next connection finds the primary
    NoPermissionError,
)
"""What redis-py raises for them."""

CODES = ("MISCONF", "BUSY", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "OOM", "READONLY")
"""The server's own words for them, by which answers begin that redis-py has no class for."""

_LASTING = (NoPermissionError, AuthenticationError)


def is_outage(exc: BaseException) -> bool:
    """Return whether an error says that the server can't do its work now."""
    if isinstance(exc, (StoreUnavailableError, OperationalError, *OUTAGES)):
        return True
    return isinstance(exc, ResponseError) and str(exc).partition(" ")[0] in CODES


def may_pass(exc: BaseException) -> bool:
    """Return whether an outage may end by itself: missing rights and wrong passwords don't."""
    cause = exc.__cause__ if isinstance(exc, StoreUnavailableError) else exc
    return is_outage(exc) and not isinstance(cause, _LASTING)
