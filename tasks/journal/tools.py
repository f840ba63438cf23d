"""The results of a prediction's tools in its journal, from whatever thread they are called."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from snakepit_bridge.dspy_integration.tool_calls import tool_call_id
from snakepit_bridge.process.home_loop import get_home_loop, run_blocking, run_on_home_loop
from tasks.journal.journal import CallJournal, FoundResult


class JournaledTools:
    """Runs the tools of a prediction that aren't idempotent, each call once.

    Args:
        journal: the prediction's.
        task_id: its task.
        deadline: its deadline in Unix seconds.
    """

    def __init__(self, journal: CallJournal, task_id: str, deadline: float | None) -> None:
        self._journal = journal
        self._task_id = task_id
        self._deadline = deadline

    def call(self, name: str, arguments: Mapping[str, Any], run: Callable[[], Any]) -> Any:
        """Return the recorded result of a call, or run the tool and record its result.

        On the home loop nothing can be waited for: the next LM call then waits until Redis has the result.
        """
        if asyncio._get_running_loop() is get_home_loop():
            found = self._journal.find_result(name, arguments)
            if found.is_recorded:
                return found.value
            with self._identify(found):
                result = run()
            self._journal.record_result(found, result)
            self._journal.flush()
            return result
        found = run_blocking(self._find(name, arguments))
        if found.is_recorded:
            return found.value
        with self._identify(found):
            result = run()
        run_blocking(self._record(found, result))
        return result

    async def acall(self, name: str, arguments: Mapping[str, Any], run: Callable[[], Awaitable[Any]]) -> Any:
        """Return the recorded result of a call, or await the tool and record its result."""
        found = await run_on_home_loop(self._find(name, arguments))
        if found.is_recorded:
            return found.value
        with self._identify(found):
            result = await run()
        await run_on_home_loop(self._record(found, result))
        return result

    async def _find(self, name: str, arguments: Mapping[str, Any]) -> FoundResult:
        """Return what is recorded of a call, once Redis has what led to it."""
        found = self._journal.find_result(name, arguments)
        if not found.is_recorded:
            await self._journal.wait_written(self._deadline)
        return found

    async def _record(self, found: FoundResult, result: Any) -> None:
        self._journal.record_result(found, result)
        await self._journal.wait_written(self._deadline)

    @contextmanager
    def _identify(self, found: FoundResult) -> Generator[None]:
        token = tool_call_id.set(f"{self._task_id}:{found.digest}:{found.number}")
        try:
            yield
        finally:
            tool_call_id.reset(token)
