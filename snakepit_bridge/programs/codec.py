"""Convert inputs and outputs between JSON and the types of a program's fields.

DSPy only warns about an input of the wrong type and then sends it, or silently drops an image; so each input is
validated and converted to its field's type before the LM is called. Outputs may be pydantic models, dates, enums, sets,
and several completions of them.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Annotated, Any, cast

import dspy
from dspy.utils.constants import IS_TYPE_UNDEFINED
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from snakepit_bridge.exceptions import InputError, PredictionFailedError
from snakepit_bridge.protocol.json_values import BOUNDS, find_problem, repair_text
from snakepit_bridge.protocol.plain_values import UnfitValueError, revive
from snakepit_bridge.protocol.validation_text import to_plain_text


def decode_inputs(program: str, fields: Mapping[str, Any] | None, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs in the types that the program's fields have: a dict for an image becomes the image.

    Args:
        program: name for errors.
        fields: input field to DSPy's description of it; None where only the program's ``forward`` knows.
        inputs: JSON values, or the objects that they encode.

    Raises:
        InputError: one is unknown, missing, of another type or beyond its limits; the error names it.
    """
    if fields is None:
        return dict(inputs)
    for name in inputs:
        if name not in fields:
            raise InputError(program, name, "it has no such input", tuple(fields))
    for name, info in fields.items():
        if info.is_required() and name not in inputs:
            raise InputError(program, name, "it is missing", tuple(fields))
    return {name: _decode(program, name, fields[name], value) for name, value in inputs.items()}


def revive_inputs(program: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs with tagged JSON values decoded to what they were: an image, a tuple.

    Raises:
        InputError: a tagged value can't be decoded.
    """
    return {name: _revive(program, name, value) for name, value in inputs.items()}


def _revive(program: str, name: str, value: Any) -> Any:
    if not isinstance(value, (dict, list)):
        return value
    try:
        return revive(value)
    except UnfitValueError as exc:
        raise InputError(program, name, str(exc)) from None


def encode_outputs(program: str, prediction: Any) -> dict[str, Any]:
    """Return a prediction's outputs as JSON values, of its first completion if it has several.

    Models become objects, dates ISO texts, enums their values, sets lists in a fixed order.

    Raises:
        PredictionFailedError: an output has no JSON form, or the program returned no prediction.
    """
    return _encode(program, dict(_check_prediction(program, prediction).items(include_dspy=True)))


def encode_values(program: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of fields as JSON values, as :func:`encode_outputs` does.

    Raises:
        PredictionFailedError: one has no JSON form.
    """
    return _encode(program, values)


def encode_completions(program: str, prediction: Any) -> list[dict[str, Any]]:
    """Return every completion's outputs as JSON values, as :func:`encode_outputs` does; [] if there is only one.

    Raises:
        PredictionFailedError: an output has no JSON form, or the program returned no prediction.
    """
    completions: Any = getattr(_check_prediction(program, prediction), "completions", None)
    found = dict(completions.items()) if completions is not None else {}
    count = max((len(values) for values in found.values()), default=0)
    if count < 2:
        return []
    return [_encode(program, {name: values[number] for name, values in found.items()}) for number in range(count)]


def _check_prediction(program: str, prediction: Any) -> Any:
    if not isinstance(prediction, dspy.Prediction):
        found = type(prediction).__name__
        raise PredictionFailedError(program, "TypeError", f"it must return a dspy.Prediction, not a {found}")
    return prediction


def _decode(program: str, name: str, info: Any, value: Any) -> Any:
    if (info.json_schema_extra or {}).get(IS_TYPE_UNDEFINED) or (value is None and info.default is None):
        return value
    limits = tuple(limit for limit in info.metadata if isinstance(limit, Hashable))
    adapter = _adapter(info.annotation, limits)
    try:
        return adapter.validate_python([value])[0]
    except ValidationError as exc:
        if isinstance(value, BaseModel):  # of another type than the field's, such as one without its language
            return _decode(program, name, info, {key: getattr(value, key) for key in type(value).model_fields})
        first = exc.errors(include_url=False, include_input=False)[0]
        within = ".".join(str(step) for step in first["loc"][1:])
        raise InputError(program, name, f"{within + ': ' if within else ''}{to_plain_text(first['msg'])}") from None


@lru_cache(maxsize=2048)
def _adapter(annotation: Any, limits: tuple[Any, ...]) -> TypeAdapter[list[Any]]:
    """Return the adapter of a one-item list of a type, which also accepts non-finite floats as local DSPy does.

    A list, since pydantic accepts no config for a type that may have its own.
    """
    item_type = _annotate(annotation, limits) if limits else annotation
    return TypeAdapter(cast(Any, list)[item_type], config=ConfigDict(allow_inf_nan=True))


def _annotate(annotation: Any, limits: tuple[Any, ...]) -> Any:
    subscript = cast(Any, Annotated)
    return subscript[(annotation, *limits)]


def _encode(program: str, outputs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        encoded = {
            name: to_jsonable_python(_normalize(value), inf_nan_mode="constants") for name, value in outputs.items()
        }
    except RecursionError as exc:
        problem = "an output is nested too deeply, or holds itself"
        raise PredictionFailedError(program, "ValueError", problem) from exc
    except ValueError as exc:
        raise PredictionFailedError(program, type(exc).__name__, str(exc)) from exc
    for name, value in encoded.items():
        if (problem := find_problem(value, BOUNDS)) is not None:
            raise PredictionFailedError(program, "ValueError", f"output '{name}' can't be handed on: {problem}")
    return encoded


def _normalize(value: Any) -> Any:
    """Return a value with its sets sorted, as their order differs between processes, and lone surrogates replaced."""
    if type(value) is str:
        return repair_text(value)
    if isinstance(value, (set, frozenset)):
        plain = [to_jsonable_python(_normalize(item)) for item in cast(set[Any], value)]
        return sorted(plain, key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, dict):
        return {_normalize(key): _normalize(item) for key, item in cast(dict[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [_normalize(item) for item in cast(list[Any], value)]
    return value
