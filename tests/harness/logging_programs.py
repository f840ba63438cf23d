"""Programs and LM middleware that log what they are asked, from each place in which they run."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import dspy

_log = logging.getLogger(__name__)


class LoggingProgram(dspy.Module):
    """Logs on the loop before and after its LM call, in a thread of asyncio's and in one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        _log.warning("the program begins %s", question)
        await asyncio.to_thread(_log.warning, "a thread works on %s", question)
        prediction = await self.answer.acall(question=question)
        thread = threading.Thread(target=_log.warning, args=("a thread ends %s", question))
        thread.start()
        await asyncio.to_thread(thread.join)
        _log.warning("the program ends %s", question)
        return prediction


async def log_call(call: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
    """Log around an LM call."""
    found = re.search(r"logged-\w+-\d+", str(call.request.messages))
    question = found[0] if found else "nothing"
    _log.warning("the middleware asks %s", question)
    response = await call_next(call)
    _log.warning("the middleware has an answer to %s", question)
    return response
