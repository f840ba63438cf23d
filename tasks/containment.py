"""Containment: SystemExit, KeyboardInterrupt or GeneratorExit of a program fails only its own prediction."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any

from snakepit_bridge.exceptions import PredictionFailedError, error_text


class ContainedCoroutine:
    """An awaitable around a program's coroutine.

    ``SystemExit`` and ``KeyboardInterrupt`` would stop the event loop of the whole process, and ``GeneratorExit`` can't
    be told from closing the coroutine. If the program raises one of them, :class:`PredictionFailedError` is raised
    instead; closing the coroutine still closes it.

    Args:
        work: the program's coroutine.
        program: its name, for the error.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], program: str) -> None:
        self._work = work
        self._program = program

    def __await__(self) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        while True:
            try:
                waits_for = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as done:
                return done.value
            except (SystemExit, KeyboardInterrupt, GeneratorExit) as exc:
                raise PredictionFailedError(self._program, type(exc).__name__, error_text(exc)) from exc
            try:
                yield waits_for
                error = None
            except GeneratorExit:
                self._work.close()
                raise
            except BaseException as exc:  # noqa: BLE001 (asyncio throws in the exception of the awaited future)
                error = exc
