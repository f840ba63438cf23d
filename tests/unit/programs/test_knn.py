"""KNN as a spec: its examples travel with it, its embedder by import path."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.build import build_module, serialize_module
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.spec import ProgramSpec

numpy: Any = pytest.importorskip("numpy", reason="DSPy's KNN needs numpy")

HERE = AllowedImports((__name__,))
TRAINSET = [dspy.Example(question=text, answer="x").with_inputs("question") for text in ("a", "bbb", "cccccc")]


def vectorize(texts: list[str]) -> Any:
    """Embed a text by its length."""
    return numpy.array([[float(len(text)), 1.0] for text in texts], dtype=numpy.float32)


def test_a_rebuilt_one_finds_the_same_neighbours() -> None:
    module = dspy.KNN(2, TRAINSET, dspy.Embedder(vectorize))
    spec = ProgramSpec.parse(serialize_module(module, program="near").encode(), program="near")
    again = build_module(spec, "KNN", HERE, program="near")

    assert again(question="bbbb") == module(question="bbbb")
    assert serialize_module(again, program="near").encode() == spec.encode()


def test_a_hosted_embedder_cannot_travel() -> None:
    module = dspy.KNN(2, TRAINSET, dspy.Embedder(vectorize))
    module.embedding = dspy.Embedder("openai/text-embedding-3-small")

    with pytest.raises(ProgramSpecError, match="give it a function"):
        serialize_module(module, program="near")
