"""What the demo does: its questions, its three programs, and the variable versions that are published meanwhile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakepit_bridge.exceptions import ConfigurationError

SESSION = "demo"

# One session steers all three programs; the module type of `math` is itself a variable.
_BINDINGS = {"temperature": "llm_temperature", "instructions": "house_style"}
PROGRAMS: Mapping[str, Mapping[str, Any]] = {
    "math": {
        "module": {"variable": "reasoning_strategy", "allowed": ["Predict", "ChainOfThought"]},
        "signature": "question -> answer: float",
        "bindings": _BINDINGS,
    },
    "classify": {
        "module": "Predict",
        "signature": "text -> label: Literal['positive', 'negative', 'neutral']",
        "bindings": _BINDINGS,
    },
    "extract": {
        "module": "Predict",
        "signature": "text -> company: str, amount: float, date: str",
        "bindings": _BINDINGS,
    },
}

# (name, type, value, constraints) of each variable as it is first declared.
DECLARED: tuple[tuple[str, str, Any, Mapping[str, Any]], ...] = (
    ("llm_temperature", "float", 0.0, {"min": 0.0, "max": 2.0}),
    ("house_style", "string", "Answer from the text alone.", {"min_length": 1}),
    ("reasoning_strategy", "module", "Predict", {"allowed_modules": ["Predict", "ChainOfThought"]}),
)

# What is published while the questions run, each an atomic revision.
PUBLISHES: tuple[Mapping[str, Any], ...] = (
    {"llm_temperature": 0.7},
    {"house_style": "Answer from the text alone. Give dates as YYYY-MM-DD and amounts as plain numbers."},
    {"reasoning_strategy": "ChainOfThought"},
    {"llm_temperature": 0.3, "house_style": "Answer briefly, from the text alone. Dates are YYYY-MM-DD."},
)


@dataclass(frozen=True, slots=True)
class Question:
    """One line of the questions file."""

    id: str
    program: str
    inputs: Mapping[str, str]
    expected: Mapping[str, Any]

    @property
    def text(self) -> str:
        """Its one input, by which it is found again in the LM's log."""
        return " ".join(next(iter(self.inputs.values())).split())

    def is_correct(self, outputs: Mapping[str, Any]) -> bool:
        """Check whether a prediction gave every known answer; texts are compared without case."""
        return all(_same(outputs.get(name), known) for name, known in self.expected.items())


def read_questions(path: Path) -> list[Question]:
    """Read the questions.

    Raises:
        ConfigurationError: the file can't be read, a line isn't a question, or two have the same text.
    """
    try:
        questions = [Question(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError, TypeError) as problem:
        raise ConfigurationError(f"The questions in {path} can't be read: {problem}.") from problem
    if len({question.text for question in questions}) != len(questions):
        raise ConfigurationError(f"Two questions in {path} have the same text; the LM's log can't tell them apart.")
    return questions


def _same(given: Any, known: Any) -> bool:
    if isinstance(known, (int, float)) and isinstance(given, (int, float)):
        return abs(given - known) < 1e-6 * max(1.0, abs(known))
    return str(given).strip().casefold() == str(known).strip().casefold()
