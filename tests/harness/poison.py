"""A program that kills the process which runs it, where its question says so, as a fault in native code would."""

from __future__ import annotations

import os
import signal
from typing import Any

import dspy

POISON = "poison"


class Poisonable(dspy.Module):
    """Answers as a plain ``Predict`` does, unless it is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        """Answer without a loop."""
        _take(question)
        return self.answer(question=question)

    async def aforward(self, question: str) -> Any:
        """Answer on a loop."""
        _take(question)
        return await self.answer.acall(question=question)


def _take(question: str) -> None:
    if POISON in question:
        os.kill(os.getpid(), signal.SIGKILL)
