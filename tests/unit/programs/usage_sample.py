"""Modules that ask an LM from threads, tasks and parts of their own."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import dspy


class Asks(dspy.Module):
    """The base: one predictor, asked some way."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")


class InParallel(Asks):
    """``dspy.Parallel`` in a forward."""

    def forward(self, question: str) -> Any:
        pairs = [(self.ask, {"question": f"{question} {number}"}) for number in range(4)]
        answers = dspy.Parallel(num_threads=3, disable_progress_bar=True)(pairs)
        return dspy.Prediction(answer=answers[0].answer)


class InNestedParallel(Asks):
    """``dspy.Parallel`` of modules that use it themselves, and one call beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = InParallel()

    def forward(self, question: str) -> Any:
        pairs = [(self.inner, {"question": f"{question} {name}"}) for name in "ab"]
        dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)
        return self.ask(question=question)


class InThreads(Asks):
    """A pool of its own, which it hands its context."""

    def forward(self, question: str) -> Any:
        with ThreadPoolExecutor(3) as pool:
            tasks = [
                pool.submit(copy_context().run, lambda n=number: self.ask(question=f"{question} {n}"))
                for number in range(3)
            ]
            answers = [task.result() for task in tasks]
            return answers[0]


class InAsyncify(Asks):
    """``dspy.asyncify`` and tasks side by side."""

    async def aforward(self, question: str) -> Any:
        blocking: Any = dspy.asyncify(self.ask)
        answers = await asyncio.gather(
            blocking(question=f"{question} 1"), blocking(question=f"{question} 2"), self.ask.acall(question=question)
        )
        return answers[0]


class InTrack(Asks):
    """``dspy.track_usage`` of its own around one of two calls."""

    def forward(self, question: str) -> Any:
        with dspy.track_usage() as usage:
            self.ask(question=f"{question} 1")
        assert usage.get_total_tokens()
        return self.ask(question=question)


WAYS: dict[type[Asks], int] = {InParallel: 4, InNestedParallel: 9, InThreads: 3, InAsyncify: 3, InTrack: 2}
"""How often each asks."""
