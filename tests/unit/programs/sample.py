"""A user's package, as far as program specs are concerned: types, tools and a module of one's own."""

from __future__ import annotations

import enum
import os
from typing import Any

import dspy
import pydantic

PATH = os.sep
VALUE = 7


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Person(pydantic.BaseModel):
    name: str
    age: int = 0

    class Pet(pydantic.BaseModel):
        kind: str


def lookup(word: str) -> str:
    """Look a word up."""
    return f"{word}: a word"


def count(items: list[str], limit: int = 3) -> int:
    """Count items."""
    return min(len(items), limit)


class Summarize(dspy.Module):
    """Two steps, with constructor arguments of its own."""

    def __init__(self, tone: str = "dry", steps: int = 2) -> None:
        super().__init__()
        self.tone = tone
        self.steps = steps
        self.draft = dspy.Predict("text -> draft")
        self.polish = dspy.ChainOfThought("draft, tone -> summary")

    def forward(self, text: str) -> Any:
        return self.polish(draft=self.draft(text=text).draft, tone=self.tone)


class Explodes(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        raise RuntimeError("it went off")


async def seek(word: str) -> str:
    """Seek a word."""
    return word


def brevity(inputs: dict[str, Any], prediction: Any) -> float:
    """Reward short answers."""
    return 1.0 / (1 + len(str(prediction)))


def embed(texts: list[str]) -> Any:
    """Embed a text by its length."""
    return [[float(len(text)), 1.0] for text in texts]


def matches(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(example.answer == prediction.answer)


def first(outputs: list[Any]) -> Any:
    return outputs[0]


def sandbox() -> Any:
    """An interpreter of the user's own making."""
    return dspy.PythonInterpreter()


class ReAct(dspy.Module):
    """It only shares its name with DSPy's."""

    def __init__(self) -> None:
        super().__init__()
        self.step = dspy.Predict("question -> answer")

    def forward(self, **inputs: Any) -> Any:
        return self.step(**inputs)


class Simulates(dspy.Module):
    """Code of one's own that says that it computes."""

    executes_code = True

    def forward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer=question)


def always(inputs: Any, prediction: Any) -> float:
    return 1.0


class _Lazy:
    """A proxy that can't be looked at before it is connected."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("not connected yet")


class _Nameless:
    __module__: Any = 3


LAZY = _Lazy()
NAMELESS = _Nameless()
