"""Blocking versions of methods that are awaited, with their signatures, types and docstrings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from snakepit_bridge.process.home_loop import run_blocking

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)


class HasAio(Protocol[A_co]):
    """An object whose attribute ``aio`` is its version for callers that await."""

    @property
    def aio(self) -> A_co:
        """The version for callers that await."""
        ...


def blocking(method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[HasAio[A], P], R]:
    """Return the method of a blocking class that does what a method of its ``aio`` does.

    It can be called in any thread, with or without a running event loop.

    Args:
        method: as a function of its class, such as ``AsyncJobs.get``.
    """

    @functools.wraps(method)
    def call(self: HasAio[A], *args: P.args, **kwargs: P.kwargs) -> R:
        awaited: Callable[P, Coroutine[Any, Any, R]] = getattr(self.aio, method.__name__)
        return run_blocking(awaited(*args, **kwargs))

    return call
