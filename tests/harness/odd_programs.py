"""Modules as users write them without a thought of a fleet: they keep state, block, start threads, return nonsense."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Any

import dspy


class Rag(dspy.Module):
    """Fetches the context itself; its predictor's inputs aren't its own."""

    def __init__(self) -> None:
        super().__init__()
        self.respond = dspy.ChainOfThought("context: list[str], question -> response")

    def retrieve(self, question: str) -> list[str]:
        """Find a document."""
        return [f"a document about {question}"]

    def forward(self, question: str, top: int = 1) -> Any:
        """Answer from what it fetched."""
        return self.respond(context=self.retrieve(question) * top, question=question)


class Memory:
    """What a chat remembers, behind a lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.texts: list[str] = []


class Chat(dspy.Module):
    """Remembers what it was asked, in every way that there is."""

    of_class: list[str] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("past, question -> answer")
        self.a_list: list[str] = []
        self.a_dict: dict[str, list[str]] = {"past": []}
        self.a_set: set[str] = set()
        self.a_deque: deque[str] = deque()
        self.memory = Memory()
        self.last = ""

    def forward(self, question: str, seen: list[str] = []) -> Any:  # noqa: B006
        """Answer, and say all that it remembers."""
        past = [*self.a_list, *self.a_dict["past"], *sorted(self.a_set), *self.a_deque, *self.memory.texts, self.last]
        past += [*self.of_class, *seen, *(demo.question for demo in self.ask.demos), self.ask.signature.instructions]  # pyright: ignore[reportAttributeAccessIssue]
        answer = self.ask(past=" ".join(past), question=question).answer
        for keep in (self.a_list, self.a_dict["past"], self.a_deque, self.memory.texts, self.of_class, seen):
            keep.append(question)
        self.a_set.add(question)
        self.last = question
        self.ask.demos.append(dspy.Example(past="", question=question, answer=question))
        self.ask.signature = self.ask.signature.with_instructions(question)
        return dspy.Prediction(answer=answer, past=" ".join(past))


class Holds(dspy.Module):
    """Keeps what can't be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = (number for number in range(3))

    def forward(self, question: str) -> Any:
        """Is never reached."""
        return dspy.Prediction(answer=question)


class Returns(dspy.Module):
    """Returns whatever it is told to."""

    def forward(self, kind: str) -> Any:
        """Return nonsense of a kind."""
        values: dict[str, Any] = {
            "none": None,
            "dict": {"answer": 1},
            "text": "answer",
            "example": dspy.Example(answer="1"),
            "list": [dspy.Prediction(answer="1")],
            "type": dspy.Prediction,
            "object": dspy.Prediction(answer=object()),
            "function": dspy.Prediction(answer=print),
            "lock": dspy.Prediction(answer=threading.Lock()),
            "cycle": _cycle(),
            "deep": _deep(),
            "keys": dspy.Prediction(answer={("a", "b"): 1}),
            "bytes": dspy.Prediction(answer=b"\xff\xfe"),
            "surrogate": dspy.Prediction(answer="\ud83d"),
            "nan": dspy.Prediction(answer=float("nan")),
            "big": dspy.Prediction(answer="x" * 2_000_000),
        }
        if kind == "generator":
            return (number for number in range(3))
        if kind == "coroutine":
            return _answer()
        return values[kind]


class Raises(dspy.Module):
    """Raises whatever it is told to."""

    def forward(self, kind: str) -> Any:
        """Raise an exception of a kind."""
        raise _RAISED[kind]


class RaisesAsync(dspy.Module):
    """The same in a coroutine."""

    async def aforward(self, kind: str) -> Any:
        """Raise an exception of a kind."""
        raise _RAISED[kind]


class Threads(dspy.Module):
    """Starts a thread that outlives it, and one that it waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        """Answer from the thread that called it."""
        threading.Thread(target=threading.Event().wait, args=(0.2,), daemon=True).start()
        found: list[str] = []
        waited = threading.Thread(target=found.append, args=(question,))
        waited.start()
        waited.join()
        return dspy.Prediction(answer=self.ask(question=found[0]).answer)


class Odd(Exception):
    """An exception that can't even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


_RAISED: dict[str, BaseException] = {
    "exception": ValueError("a value"),
    "base": BaseException("a base exception"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "generator_exit": GeneratorExit(),
    "cancelled": asyncio.CancelledError(),
    "stop": StopIteration(1),
    "stop_async": StopAsyncIteration(),
    "recursion": RecursionError("deep"),
    "memory": MemoryError(),
    "group": BaseExceptionGroup("several", [ValueError("a"), SystemExit(1)]),
    "odd": Odd(),
    "timeout": TimeoutError("own"),
    "assertion": AssertionError(),
    "long": ValueError("x" * 1_000_000),
    "surrogate": ValueError("\ud83d"),
}
RAISED = tuple(_RAISED)


async def _answer() -> dspy.Prediction:
    return dspy.Prediction(answer="1")


def _cycle() -> Any:
    inside: list[Any] = []
    inside.append(inside)
    return dspy.Prediction(answer=inside)


def _deep() -> Any:
    inside: list[Any] = []
    for _ in range(5_000):
        inside = [inside]
    return dspy.Prediction(answer=inside)
