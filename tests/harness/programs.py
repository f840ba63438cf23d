"""Programs for tests that need more than DSPy's own modules; a worker names this package in its allowed ones."""

from __future__ import annotations

from typing import Any

import dspy


class Twice(dspy.Module):
    """Asks the LM, and asks it again with its own answer."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        """Returns the second answer."""
        first = await self.ask.acall(question=question)
        return await self.ask.acall(question=first.answer)

    def forward(self, question: str) -> Any:
        """The same for callers that can't await."""
        return self.ask(question=self.ask(question=question).answer)
