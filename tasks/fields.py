"""Fields on their way in and out: inputs checked before the LM is called, outputs made JSON.

DSPy only warns of an input of the wrong type and then sends it, or leaves an image out without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import dspy
from dspy.utils.constants import IS_TYPE_UNDEFINED
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticUndefined, to_jsonable_python

from snakepit_bridge.exceptions import InputError, PredictionFailed
from snakepit_bridge.programs.bound import BoundProgram


def check_inputs(bound: BoundProgram, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the inputs in the types that the program's fields have.

    Raises:
        InputError: one is unknown, missing or of another type; names it.
    """
    program, fields = bound.program.name, bound.inputs
    if fields is None:
        return dict(inputs)
    for name in inputs:
        if name not in fields:
            raise InputError(program, name, "it has no such input", tuple(fields))
    return {
        name: _coerce(program, name, info, inputs) for name, info in fields.items() if name in inputs or _required(info)
    }


def outputs_of(bound: BoundProgram, prediction: Any) -> dict[str, Any]:
    """Returns a prediction's outputs as JSON values: pydantic models as objects, dates as ISO texts, sets as lists.

    Raises:
        PredictionFailed: an output has no JSON form, or the program returned no prediction.
    """
    if not isinstance(prediction, dspy.Prediction):
        found = type(prediction).__name__
        raise PredictionFailed(bound.program.name, "TypeError", f"it must return a dspy.Prediction, not a {found}")
    try:
        return to_jsonable_python(dict(prediction.items()), inf_nan_mode="constants")
    except ValueError as refused:
        raise PredictionFailed(bound.program.name, type(refused).__name__, str(refused)) from refused


def _required(info: Any) -> bool:
    return info.default is PydanticUndefined


def _coerce(program: str, name: str, info: Any, inputs: Mapping[str, Any]) -> Any:
    if name not in inputs:
        raise InputError(program, name, "it is missing")
    if (info.json_schema_extra or {}).get(IS_TYPE_UNDEFINED):
        return inputs[name]
    try:
        return _adapter(info.annotation).validate_python(inputs[name])
    except ValidationError as refused:
        first = refused.errors(include_url=False, include_input=False)[0]
        within = ".".join(str(step) for step in first["loc"])
        raise InputError(program, name, f"{within + ': ' if within else ''}{first['msg']}") from None


@lru_cache(maxsize=2048)
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)
