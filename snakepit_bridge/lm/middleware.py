"""What LM middleware of the user's own is given: types for its annotations, of a package that needs no worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, Self

from dspy.lm15 import Request, Response

from snakepit_bridge.snapshots.snapshot import Snapshot


class MiddlewareCall(Protocol):
    """An LM call of a prediction, as middleware sees it."""

    @property
    def request(self) -> Request:
        """The request, in DSPy's canonical form."""
        ...

    @property
    def profile(self) -> str:
        """The LM profile that is called."""
        ...

    @property
    def snapshot(self) -> Snapshot:
        """The session's variables that the prediction runs under."""
        ...

    @property
    def task_id(self) -> str:
        """The id of the prediction."""
        ...

    @property
    def program(self) -> str:
        """The name of the program."""
        ...

    def with_request(self, request: Request) -> Self:
        """Return the call with another request, for ``call_next``."""
        ...


NextMiddleware = Callable[[MiddlewareCall], Awaitable[Response]]
"""The rest of the chain, which returns the response."""
