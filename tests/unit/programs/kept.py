"""Modules of a user's own whose instances have more than their class says."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import dspy

from tests.harness.signatures import make_signature


def shout(text: str) -> str:
    """Shouts."""
    return text.upper()


class Greeter(dspy.Module):
    """Greets in the name of a shop, which has a default."""

    def __init__(self, shop: str = "our shop", *, tags: list[str] | None = None) -> None:
        super().__init__()
        self.shop = shop
        self._tags = tags or []
        self.rounds = 1
        self.ask = dspy.Predict("shop, question -> answer")

    def forward(self, question: str) -> Any:
        """Asks in the name of the shop."""
        answer = None
        for _ in range(self.rounds):
            answer = self.ask(shop=f"{self.shop} {self._tags}", question=question)
        return answer


class Needs(dspy.Module):
    """Can't be built without a name, which it keeps under another."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.called = name
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        """Asks."""
        return self.ask(question=question)


class Holds(dspy.Module):
    """Keeps whatever it is given, and a random number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.number = random.random()
        self.change: Callable[[str], str] = shout
        self.thing: Any = None
        self.ask = dspy.Predict("question -> answer")
        self.agent = dspy.ReAct(make_signature("question -> answer"), tools=[shout], max_iters=3)

    def forward(self, question: str) -> Any:
        """Asks."""
        return self.ask(question=question)


class Doubles(dspy.Module):
    """Its attribute isn't the argument of the same name."""

    def __init__(self, k: int = 2) -> None:
        super().__init__()
        self.k = k * 2
        self.ask = dspy.Predict("k, question -> answer")

    def forward(self, question: str) -> Any:
        """Asks."""
        return self.ask(k=str(self.k), question=question)


_SUFFIX = {"now": ""}


class Hidden(dspy.Module):
    """Asks by what its constructor keeps where nobody looks."""

    def __init__(self, suffix: str = "") -> None:
        super().__init__()
        self._ends = iter([suffix] * 1_000)
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        """Asks."""
        return self.ask(question=question + next(self._ends))
