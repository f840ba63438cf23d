"""Serialize demos as JSON from which another process formats the same prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from dspy.adapters.utils import serialize_for_json

from snakepit_bridge.protocol.json_values import TypedList, escape, unescape
from snakepit_bridge.protocol.plain_values import revive


def dump_demos(predictor: Any) -> list[dict[str, Any]]:
    """Return a predictor's demos as JSON values from which DSPy's adapters format the same prompt.

    Images and similar types become the placeholder text that DSPy itself replaces in the prompt.
    """
    return [dump_values(dict(demo)) for demo in predictor.demos]


def dump_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of one demo in the same way."""
    return {name: _dump_value(value) for name, value in values.items()}


def escape_state(state: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the state of predictors with its demos as JSON, and whether they had to be escaped for that."""
    found = {path: escape(part["demos"]) for path, part in state.items()}
    changed = any(found[path] is not part["demos"] for path, part in state.items())
    return {path: {**part, "demos": found[path]} for path, part in state.items()}, changed


def restore_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Undo :func:`escape_state`.

    Raises:
        ValueError: a tagged value of a demo can't be decoded.
    """
    return {path: {**part, "demos": revive(unescape(part["demos"]))} for path, part in state.items()}


def _dump_value(value: Any) -> Any:
    if value is None or type(value) in (str, int, float, bool):
        return value
    shown = serialize_for_json(value)
    # DSPy numbers the items of a list in a text field; of a tuple or a set it shows the JSON.
    return (
        TypedList("tuple", cast("list[Any]", shown))
        if isinstance(shown, list) and not isinstance(value, list)
        else shown
    )
