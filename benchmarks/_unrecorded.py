"""A worker whose recording functions do nothing and don't ask whether they should: the fleet without telemetry.

Each is replaced before the modules that call it are imported. What is left of telemetry is a call of an empty function.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import tasks.telemetry as recording
from snakepit_bridge.telemetry import Span
from tasks.lm_middleware import middleware
from tasks.lm_middleware.telemetry import MeasureRequests, TraceCalls

_compose = middleware.compose


class _Nothing:
    """Stands for the block of any recording function."""

    span = Span()

    def end(self, *_: object) -> None:
        """Do nothing."""

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing."""


_NOTHING = _Nothing()


def _record_nothing(*_: Any, **__: Any) -> _Nothing:
    return _NOTHING


def _compose_unrecorded(middlewares: Sequence[Any], send: Any) -> Any:
    return _compose([each for each in middlewares if not isinstance(each, TraceCalls | MeasureRequests)], send)


def main() -> None:
    """Run the worker; the arguments are those of ``celery worker``."""
    for name in [name for name in vars(recording) if name.startswith("record_")]:
        setattr(recording, name, _record_nothing)
    middleware.compose = _compose_unrecorded
    from workers.worker_command import main as run_worker

    run_worker()


if __name__ == "__main__":
    main()
