"""Programs for tests that need more than DSPy's own modules; a worker names this package in its allowed ones."""

from __future__ import annotations

import logging
import os
import sys
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


def double(number: int) -> int:
    """A tool."""
    return 2 * number


class IsShort(dspy.Module):
    """Judges an answer by a function, without an LM."""

    def forward(self, answer: str) -> Any:
        """Returns whether the answer is short."""
        return dspy.Prediction(score=len(answer) < 100)


class WithTool(dspy.Module):
    """Runs a tool, and asks the LM."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        """Returns the answer."""
        await dspy.Tool(double).acall(number=21)
        return await self.ask.acall(question=question)


class Parallel(dspy.Module):
    """Asks twice at a time, and takes the first answer; a failed one is None by then."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        """Returns the first answer."""
        pairs = [(self.ask, {"question": question}), (self.ask, {"question": question})]
        answers = dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)
        return dspy.Prediction(answer=answers[0].answer)


def reward(arguments: dict[str, Any], prediction: Any) -> float:
    """Likes any answer, and none enough."""
    return 1.0 if prediction.answer else 0.0


class Blabbing(dspy.Module):
    """Raises with all that it can find of secrets, as libraries do."""

    def forward(self, question: str) -> Any:
        """Raises."""
        key = os.environ["SECRET_LM_KEY"]
        logging.getLogger(__name__).error("sending %r with %s", {"Authorization": f"Bearer {key}"}, key)
        sys.stderr.write(f"printed {key}\n")
        raise RuntimeError(f"no answer from {os.environ['DSPEX_REDIS_URL']} for {key!r}: {key.encode()!r}")
