"""Check that the module that a worker builds from a spec equals the one that was registered.

A spec has a module's constructor arguments, state and config. Other attributes of the instance would be lost silently:
an argument that the constructor keeps, an attribute set later, another signature. So both are compared attribute by
attribute; JSON values are added to the spec, and anything else is rejected by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from snakepit_bridge.dspy_integration.mixin import VariableAwareMixin, mixin_attribute_names
from snakepit_bridge.dspy_integration.module_tree import PARTS, is_part, parts
from snakepit_bridge.dspy_integration.modules import plain_class_name
from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.build import build_module
from snakepit_bridge.programs.equality import are_alike, is_json
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.spec import NOT_SETTABLE, ProgramSpec

# Records of past calls, source texts of functions that are compared themselves, or settings of the LM profile. Demos
# are in the state, objects among them as JSON; a trial checks that the prompts contain them unchanged.
_NOT_COMPARED = frozenset({
    "history", "callbacks", "traces", "train", "lm", "stage", "fields", "_compiled", "module_code", "reward_fn_code",
    "demos",
})  # fmt: skip


def add_attributes(module: Any, spec: ProgramSpec, allowed: AllowedImports, *, program: str) -> ProgramSpec:
    """Return the spec with the attributes that a module has besides those from its constructor and its state.

    Args:
        module: the module to register.
        spec: the spec read from it.
        allowed: the packages that the spec may name.
        program: name for errors.

    Raises:
        ProgramSpecError: an attribute isn't JSON and would be lost; names it.
    """
    if not isinstance(spec.module, str):
        return spec
    rebuilt, again = (build_module(spec, spec.module, allowed, program=program) for _ in range(2))
    # Attributes that differ between two builds of the same spec, such as a random id, come from the constructor.
    random = {(path, name) for path, name, _ in _iter_differences(rebuilt, again)}
    attributes: dict[str, dict[str, Any]] = {}
    for path, name, value in _iter_differences(module, rebuilt):
        if (path, name) in random:
            continue
        if name in NOT_SETTABLE or not is_json(value):
            raise _lost_attribute_error(program, path, name, value)
        attributes.setdefault(path or "self", {})[name] = value
    if not attributes:
        return spec
    complete = ProgramSpec.parse({**spec.model_dump(), "attributes": attributes}, program=program)
    rebuilt_again = build_module(complete, spec.module, allowed, program=program)
    for path, name, value in _iter_differences(module, rebuilt_again):
        if (path, name) not in random:
            raise _lost_attribute_error(program, path, name, value)
    return complete


_MISSING = object()


def _lost_attribute_error(program: str, path: str, name: str, value: Any) -> ProgramSpecError:
    where = f"attribute {path}.{name}" if path else f"attribute {name}"
    kind = type(value).__name__
    problem = (
        f"the module has a {kind} there that the one which a worker builds wouldn't have. Give what its constructor "
        "needs for it as arguments=…, as JSON, or make it in the constructor"
    )
    return ProgramSpecError(program, where, problem)


def _iter_differences(module: Any, rebuilt: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield path, name and value of attributes that the rebuilt module lacks or has another value of."""
    rebuilt_parts = dict(parts(rebuilt, PARTS))
    own_parts = dict(parts(module, PARTS))
    pairs = {id(part): rebuilt_parts[path] for path, part in own_parts.items() if path in rebuilt_parts}
    for path, part in own_parts.items():
        counterpart = rebuilt_parts.get(path)
        above, _, last = path.rpartition(".")
        if counterpart is None or plain_class_name(part) != plain_class_name(counterpart):
            yield above, last, part
            continue
        yield from ((path, name, value) for name, value in _iter_part_differences(part, counterpart, pairs))
    for path in rebuilt_parts.keys() - own_parts.keys():
        above, _, last = path.rpartition(".")
        yield above, last, None


def _iter_part_differences(part: Any, counterpart: Any, pairs: Mapping[int, Any]) -> Iterator[tuple[str, Any]]:
    own, others = _comparable_attributes(part), _comparable_attributes(counterpart)
    for name, value in own.items():
        if is_part(value) or _holds_parts(value):
            continue  # compared as parts of their own
        if name not in others or not are_alike(value, others[name], pairs):
            yield name, value
    for name in others.keys() - own.keys():
        yield name, _MISSING


def _comparable_attributes(part: Any) -> dict[str, Any]:
    own = mixin_attribute_names() if isinstance(part, VariableAwareMixin) else frozenset[str]()
    return {name: value for name, value in vars(part).items() if name not in _NOT_COMPARED and name not in own}


def _holds_parts(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(is_part, cast(dict[Any, Any], value).values()))
    return isinstance(value, (list, tuple)) and any(map(is_part, cast(list[Any], value)))
