"""Signatures with the type that they have at run time: classes, where DSPy's annotations promise an instance."""

from __future__ import annotations

from typing import Any

import dspy


def make_signature(fields: str | dict[str, Any], *instructions: str) -> type[dspy.Signature]:
    """Return the class that ``dspy.Signature(fields, instructions)`` makes."""
    make: Any = dspy.Signature
    return make(fields, *instructions)


def signature_of(predictor: dspy.Predict) -> type[dspy.Signature]:
    """Return a predictor's signature."""
    signature: Any = predictor.signature
    return signature
