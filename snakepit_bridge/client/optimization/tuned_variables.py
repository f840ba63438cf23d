"""Variables that an optimizer tunes: those that a program's instructions and demos are bound to.

A binding would override what the optimizer tries. So variants are tried without these bindings, beginning with the
session's values; what is found holds in a version without them, or as new values of the variables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from snakepit_bridge.dspy_integration.binding import (
    INSTRUCTIONS,
    BoundValue,
    LMScope,
    bind_values,
    part_at,
    read_attribute,
    restore_attribute,
    split_attribute,
)
from snakepit_bridge.dspy_integration.module_tree import predictors
from snakepit_bridge.programs.demos import dump_demos
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.snapshots.snapshot import Snapshot

_DEMOS = "demos"


def find_tuned(spec: ProgramSpec) -> dict[str, str]:
    """Return the bindings of a program's instructions and demos."""
    return {
        attribute: variable
        for attribute, variable in spec.bindings.items()
        if split_attribute(attribute)[1] in (INSTRUCTIONS, _DEMOS)
    }


def without_tuned(spec: ProgramSpec) -> ProgramSpec:
    """Return a program without these bindings."""
    tuned = find_tuned(spec)
    left = {attribute: variable for attribute, variable in spec.bindings.items() if attribute not in tuned}
    return spec.model_copy(update={"bindings": left}) if tuned else spec


def apply_tuned(module: Any, tuned: Mapping[str, str], snapshot: Snapshot) -> Any:
    """Return a copy of a module with a session's values in place of these bindings.

    Raises:
        VariableNotFoundError: the session lacks a variable.
        ValidationError: a value isn't valid for its target.
    """
    values = {attribute: BoundValue(variable, snapshot.value(variable)) for attribute, variable in tuned.items()}
    bound = bind_values(module, values, LMScope())
    for attribute in tuned:  # which is also set to be read, and would be taken for one of the program's own
        restore_attribute(bound, attribute, read_attribute(module, attribute))
    bound._variable_bindings = {}
    return bound


def read_tuned(module: Any, tuned: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the variables under which a program is what a module is, as far as they say it.

    Instructions of several predictors aren't one text any more once an optimizer has changed them.
    """
    found: dict[str, str] = {}
    for attribute, variable in tuned.items():
        path, target = split_attribute(attribute)
        inside = predictors(part_at(module, path))
        if len(inside) == 1:
            found[variable] = _read(inside[0][1], target)
    return found


def _read(predictor: Any, target: str) -> str:
    signature: Any = predictor.signature
    if target == INSTRUCTIONS:
        return cast(str, signature.instructions)
    return json.dumps(
        [{name: demo[name] for name in signature.fields if name in demo} for demo in dump_demos(predictor)]
    )


def is_held_by_variables(start: Any, found: Any, tuned: Mapping[str, str]) -> bool:
    """Check whether what an optimizer has changed of a module is all in these variables.

    Args:
        start, found: the module before and after.
        tuned: the bindings.
    """
    held = {(id(inside[0][1]), target) for inside, target in _iter_tuned(found, tuned) if len(inside) == 1}
    before = dict(predictors(start))
    for path, predictor in predictors(found):
        earlier: Any = before[path]
        if _describe(predictor) != _describe(earlier) or predictor.config != earlier.config:
            return False
        for target in (INSTRUCTIONS, _DEMOS):
            if _read(predictor, target) != _read(earlier, target) and (id(predictor), target) not in held:
                return False
    return True


def _iter_tuned(module: Any, tuned: Mapping[str, str]) -> list[tuple[list[tuple[str, Any]], str]]:
    split = [split_attribute(attribute) for attribute in tuned]
    return [(predictors(part_at(module, path)), target) for path, target in split]


def _describe(predictor: Any) -> list[Any]:
    """Return what a prompt says of a predictor's fields."""
    fields: Mapping[str, Any] = predictor.signature.fields
    return [(name, repr(info.annotation), repr(info.json_schema_extra)) for name, info in fields.items()]
