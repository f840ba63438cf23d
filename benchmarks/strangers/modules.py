"""Programs as strangers write them: they keep state, block, start threads, raise, return nonsense and configure."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import dspy

# At import, as some packages do: no prediction may notice.
dspy.configure(adapter=dspy.JSONAdapter())


class Blocks(dspy.Module):
    """Blocks its thread for a while, then asks."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        time.sleep(0.05)
        return self.ask(question=question)


class Keeps(dspy.Module):
    """Keeps what it was asked, where the next prediction would find it."""

    seen: ClassVar[list[str]] = []

    def __init__(self) -> None:
        super().__init__()
        self.past: list[str] = []
        self.ask = dspy.Predict("question, past -> answer")

    def forward(self, question: str) -> Any:
        self.past.append(question)
        return self.ask(question=question, past=" | ".join(self.past))


class Threads(dspy.Module):
    """Asks from threads of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        with ThreadPoolExecutor(2) as threads:
            first, second = (threads.submit(self.ask, question=f"{question} {number}") for number in range(2))
            return [first.result(), second.result()][0]


class Raises(dspy.Module):
    """Raises what no program should."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        kinds = (SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError, MemoryError, _Unprintable)
        raise kinds[sum(question.encode()) % len(kinds)](question)


class Nonsense(dspy.Module):
    """Returns what no program should."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        nonsense = (
            None,
            3,
            "text",
            [1],
            {"a": object()},
            lambda: None,
            dspy.Example(a=object()),
            (n for n in range(2)),
        )
        return nonsense[sum(question.encode()) % len(nonsense)]


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__
