"""Say where a policy is wrong, what was found there and what to do, from what pydantic reports."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic import ValidationError as PydanticError
from pydantic_core import ErrorDetails

from snakepit_bridge.exceptions import RolloutPolicyError, join_names, suggest_name
from snakepit_bridge.protocol.validation_text import to_plain_text
from snakepit_bridge.rollouts.guard_rules import METRICS


def translate_error(exc: PydanticError, model: type[BaseModel]) -> RolloutPolicyError:
    """Return the error for pydantic's first finding.

    Args:
        exc: what pydantic raised.
        model: what it validated.
    """
    finding = exc.errors(include_url=False)[0]
    cause = finding.get("ctx", {}).get("error")
    if isinstance(cause, RolloutPolicyError):
        return cause
    location = finding["loc"]
    if finding["type"] == "extra_forbidden":
        keys = _keys_at(location[:-1], model)
        remedy = f"Known keys: {join_names(keys)}.{suggest_name(str(location[-1]), keys)}"
        return RolloutPolicyError(_path(location), "a key that no policy has there", remedy)
    if finding["type"] == "missing":
        return RolloutPolicyError(_path(location), "nothing", "The key is required; give it.")
    return RolloutPolicyError(_path(location), reprlib.repr(finding["input"]), _remedy(finding))


def _remedy(finding: ErrorDetails) -> str:
    context = finding.get("ctx", {})
    match finding["type"]:
        case "model_type" | "model_attributes_type":
            return "Give a JSON object."
        case "tuple_type":
            return "Give a list of objects."
        case "too_short":
            return f"Give at least {context['min_length']}, or leave the key out."
        case "too_long":
            return f"Give at most {context['max_length']}."
        case "union_tag_invalid" | "union_tag_not_found":
            return f"The metric of a guard is one of {join_names(METRICS)}."
        case "string_pattern_mismatch":
            return "A name has up to 64 letters, digits, _ and -, and begins with a letter."
        case _:
            text = to_plain_text(finding["msg"]).rstrip(".")
            return f"{text[:1].upper()}{text[1:]}."


def _path(location: Sequence[int | str]) -> str:
    """Return a location as in ``guards[1].max``; the third part of one in a guard is the guard's metric."""
    if location[:1] == ("guards",):
        location = (*location[:2], *location[3:])
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "the whole"


def _keys_at(location: Sequence[int | str], model: type[BaseModel]) -> list[str]:
    """Return the keys of the object at a location."""
    if not location:
        return list(model.model_fields)
    kinds = _models(model.model_fields[str(location[0])].annotation)
    metric = location[2] if len(location) > 2 else None
    fitting = [kind for kind in kinds if metric is None or metric in get_args(kind.model_fields["metric"].annotation)]
    return list(fitting[0].model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _models(part)]
