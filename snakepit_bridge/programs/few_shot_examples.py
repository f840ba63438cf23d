"""Serialize the examples of a KNNFewShot with their vectors as JSON, from which a worker chooses the same ones."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import dspy
from dspy.utils.lazy_import import require

from snakepit_bridge.programs.demos import dump_values
from snakepit_bridge.protocol.json_values import escape, unescape
from snakepit_bridge.protocol.plain_values import revive

np = require("numpy")

# As DSPy keeps them, on any machine.
_TYPE = "<f4"


def dump_examples(examples: Sequence[Any]) -> list[dict[str, Any]]:
    """Return examples as JSON objects."""
    return [
        {"example": escape(dump_values(example.toDict())), "inputs": list(example.inputs().keys())}
        for example in examples
    ]


def load_examples(found: Any) -> list[dspy.Example]:
    """Undo :func:`dump_examples`.

    Raises:
        ValueError: it isn't what that returns.
    """
    try:
        return [_load_example(each) for each in found]
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"it must be a list of objects with 'example' and 'inputs': {exc!r}") from exc


def _load_example(found: Mapping[str, Any]) -> dspy.Example:
    example: Any = revive(unescape(found["example"]))
    return dspy.Example(**example).with_inputs(*found["inputs"])


def dump_vectors(vectors: Any) -> list[str]:
    """Return vectors as texts: the bytes of their numbers in base64, to the bit what they were."""
    return [base64.b64encode(row.tobytes()).decode() for row in np.asarray(vectors, dtype=_TYPE)]


def load_vectors(found: Any) -> Any:
    """Undo :func:`dump_vectors`.

    Raises:
        ValueError: it isn't what that returns, or the vectors differ in length.
    """
    try:
        rows = [np.frombuffer(base64.b64decode(text, validate=True), dtype=_TYPE) for text in found]
        return np.stack(rows).astype(np.float32)
    except (TypeError, binascii.Error, ValueError) as exc:
        raise ValueError(f"it must be a list of texts, each of as many numbers in base64: {exc}") from exc
