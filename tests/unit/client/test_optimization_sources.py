"""What an optimization is given by name, and what it refuses before the first prediction."""

from __future__ import annotations

from typing import Any, cast

import dspy
import numpy as np
import pytest

from snakepit_bridge.client.optimization.request import OptimizationRequest
from snakepit_bridge.client.optimization.sources import name_vectorizer
from snakepit_bridge.exceptions import OptimizationError


def measure(texts: list[str]) -> list[list[float]]:
    return [[float(len(text))] for text in texts]


def test_a_function_that_returns_lists_embeds_as_its_import_path_does() -> None:
    def open_embedder(_: str) -> Any:
        raise AssertionError("no model is named")

    allowed = (__name__.partition(".")[0],)
    for given in (measure, f"{__name__}:measure"):
        options = name_vectorizer({"k": 1, "vectorizer": given}, allowed, open_embedder)
        assert isinstance(options["vectorizer"], dspy.Embedder)
        assert options["vectorizer"](["four"]).astype(np.float32).tolist() == [[4.0]]


def test_a_priority_that_cant_be_is_refused_before_a_prediction_is_taken_for_failed() -> None:
    anything = cast(Any, None)
    with pytest.raises(OptimizationError, match="A priority is 0 to 9, the most urgent; got 99"):
        OptimizationRequest(anything, [], anything, anything, priority=99)
