"""Programs for tests that need more than DSPy's own modules; a worker names this package in its allowed ones."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from typing import Any

import dspy


class Twice(dspy.Module):
    """Asks the LM, and asks it again with its own answer."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        """Return the second answer."""
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
        """Return whether the answer is short."""
        return dspy.Prediction(score=len(answer) < 100)


class WithTool(dspy.Module):
    """Runs a tool, and asks the LM."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        """Return the answer."""
        await dspy.Tool(double).acall(number=21)
        return await self.ask.acall(question=question)


class Parallel(dspy.Module):
    """Asks twice at a time, and takes the first answer; a failed one is None by then."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        """Return the first answer."""
        pairs = [(self.ask, {"question": question}), (self.ask, {"question": question})]
        answers = dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)
        return dspy.Prediction(answer=answers[0].answer)


def reward(arguments: dict[str, Any], prediction: Any) -> float:
    """Like any answer, and none enough."""
    return 1.0 if prediction.answer else 0.0


class Blabbing(dspy.Module):
    """Raises with all that it can find of secrets, as libraries do."""

    def forward(self, question: str) -> Any:
        """Raise."""
        key = os.environ["SECRET_LM_KEY"]
        logging.getLogger(__name__).error("sending %r with %s", {"Authorization": f"Bearer {key}"}, key)
        sys.stderr.write(f"printed {key}\n")
        raise RuntimeError(f"no answer from {os.environ['DSPEX_REDIS_URL']} for {key!r}: {key.encode()!r}")


class Dated(dspy.Module):
    """Asks for the time, which is another question each time, and then what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        """Returns the answer to the second question."""
        await self.ask.acall(question=f"is it {time.time_ns()}?")
        return await self.ask.acall(question=question)


class Chains(dspy.Module):
    """Asks along two chains at the same time, each with its own last answer."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        """Returns both last answers."""
        ends = await asyncio.gather(*(self._follow(f"{question} {name}") for name in ("left", "right")))
        return dspy.Prediction(answer=" and ".join(ends))

    async def _follow(self, question: str) -> str:
        for _ in range(2):
            question = (await self.ask.acall(question=question)).answer
        return question


class Quotes(dspy.Module):
    """Fails, and its error quotes the question."""

    def forward(self, question: str) -> Any:
        raise ValueError(f"can't answer {question}")
