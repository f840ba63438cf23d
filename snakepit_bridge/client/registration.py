"""Registration: turns a caller's program into a spec, and determines what that spec may import here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from snakepit_bridge.exceptions import ProgramSpecError

if TYPE_CHECKING:
    from snakepit_bridge.dspy_integration.bounds import TargetBounds
    from snakepit_bridge.programs.spec import ProgramSpec

# What a spec that is given whole may be given besides.
_OVERRIDABLE = ("bindings", "arguments", "lm", "executes_code")


def build_spec(
    name: str,
    module: Any,
    packages: tuple[str, ...],
    options: dict[str, Any],
    *,
    bounds: TargetBounds,
    trial: bool,
) -> tuple[ProgramSpec, Any]:
    """Return the spec, and what it may import here: a module instance's own code is in this process already."""
    from snakepit_bridge.programs.bounds import check_bounds
    from snakepit_bridge.programs.build import serialize_module
    from snakepit_bridge.programs.imports import AllowedImports
    from snakepit_bridge.programs.packages import iter_named_modules
    from snakepit_bridge.programs.serialize import adopt_module
    from snakepit_bridge.programs.spec import ProgramSpec

    if not isinstance(module, (ProgramSpec, Mapping, str, bytes)):
        _check_is_program(name, module)
        module = adopt_module(module, name)
        spec = serialize_module(module, program=name, **options)
        allowed = AllowedImports((*packages, *iter_named_modules(spec)))
        check_bounds(spec, bounds, program=name)
        return _add_instance_state(name, module, spec, allowed, trial=trial), allowed
    spec = module if isinstance(module, ProgramSpec) else ProgramSpec.parse(cast(Any, module), program=name)
    changed = {key: value for key, value in options.items() if key in _OVERRIDABLE and value}
    changed |= {key: options[key] for key in ("cache", "journal") if options[key] is not None}
    return ProgramSpec.parse({**spec.model_dump(), **changed}, program=name), AllowedImports(packages)


def _add_instance_state(name: str, module: Any, spec: ProgramSpec, allowed: Any, *, trial: bool) -> ProgramSpec:
    """Return the spec with the state that its constructor alone does not give the instance, for workers to rebuild."""
    from snakepit_bridge.programs.build import build_module
    from snakepit_bridge.programs.fidelity import add_attributes
    from snakepit_bridge.programs.trial import compare_prompts

    if not isinstance(spec.module, str):
        return spec
    whole = add_attributes(module, spec, allowed, program=name)
    if trial:
        compare_prompts(module, build_module(whole, spec.module, allowed, program=name), program=name)
    return whole


def _check_is_program(name: str, module: Any) -> None:
    """Refuse what is neither a module nor a spec.

    Raises:
        ProgramSpecError: says what it is, and what to give.
    """
    import dspy

    from snakepit_bridge.dspy_integration.module_tree import is_part

    if is_part(module):
        return
    if isinstance(module, type) and issubclass(module, dspy.Signature):
        problem = f"it is the signature {module.__name__}; give a module of it: dspy.Predict({module.__name__})"
    elif isinstance(module, type):
        problem = f"it is the class {module.__name__}; give an instance: {module.__name__}(…)"
    else:
        problem = f"it must be a dspy.Module, or a spec as JSON, not {type(module).__name__}"
    raise ProgramSpecError(name, "the whole", problem)
