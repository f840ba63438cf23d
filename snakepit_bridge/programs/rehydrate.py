"""Rehydration: from a program spec to a DSPy module, and from a module to its spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import dspy

from snakepit_bridge.dspy_integration.binding import check_bindable
from snakepit_bridge.dspy_integration.mixin import BINDINGS_KEY, VariableAwareMixin
from snakepit_bridge.dspy_integration.modules import plain_name, variable_aware
from snakepit_bridge.dspy_integration.resolver import ModuleSpec, ModuleVariableResolver, construct, lookup
from snakepit_bridge.dspy_integration.structure import predictors
from snakepit_bridge.exceptions import BindingError, ProgramSpecError, UnknownModuleError
from snakepit_bridge.programs.allowed import AllowedImports, import_path
from snakepit_bridge.programs.signature_spec import SignatureSpec
from snakepit_bridge.programs.spec import ModuleVariable, ProgramSpec

Registry = Mapping[str, ModuleSpec]


def rehydrate(spec: ProgramSpec, module_name: str, allowed: AllowedImports, *, program: str) -> Any:
    """Returns a new variable-aware module built from a spec.

    Args:
        spec: the program.
        module_name: which of ``spec.module_names`` to build.
        allowed: the packages that the spec may name.
        program: name for errors.

    Raises:
        UnknownModuleError: no such module type is registered.
        ProgramSpecError: a part of the spec is refused or does not fit the module; says which.
    """
    registry = ModuleVariableResolver.MODULE_REGISTRY
    module_class = _module_class(module_name, registry, allowed, program)
    arguments: dict[str, Any] = dict(spec.arguments)
    if spec.tools:
        arguments["tools"] = [_tool(path, allowed, program) for path in spec.tools]
    positional = [] if spec.signature is None else [spec.signature.build(allowed, program=program)]
    try:
        module = construct(module_class, registry, *positional, **arguments)
    except (TypeError, ValueError) as refused:
        raise ProgramSpecError(program, f"arguments of {module_name}", str(refused)) from refused
    _restore(module, spec, program)
    _bind(module, spec, program)
    return module


def check(spec: ProgramSpec, allowed: AllowedImports, *, program: str) -> None:
    """Builds every module that the program may run as, so that a spec which can't run is refused when it comes in.

    Raises:
        UnknownModuleError: it names a module type that isn't registered.
        ProgramSpecError: a part is refused; names the part, and the module that it doesn't fit.
    """
    for module_name in spec.module_names:
        rehydrate(spec, module_name, allowed, program=program)


def spec_of(
    module: Any,
    *,
    program: str,
    bindings: Mapping[str, str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    choose_by: str | None = None,
    among: tuple[str, ...] = (),
    lm: str | None = None,
) -> ProgramSpec:
    """Returns the spec of a module, with its demos, instructions and config.

    Args:
        module: an instance of one of DSPy's modules or of a class that the workers allow; of the latter, ``arguments``
            are what its constructor takes.
        program: name for errors.
        bindings: module attribute to session variable; a variable-aware module brings its own.
        choose_by: session variable that decides the module type, ``among`` these.
        lm: LM profile.

    Raises:
        ProgramSpecError: a part of the module can't travel as data, such as a tool defined in a function.
    """
    plain = plain_name(module)
    parts = _READERS[plain](module) if plain in _READERS else {}
    name = plain if plain in _READERS else import_path(_own_class(module))
    state = _state(module, plain)
    if choose_by and state and any(part["demos"] for part in state.values()):
        raise ProgramSpecError(program, "state", "demos fit one module type; they can't go with a module variable")
    own = module.get_bindings() if isinstance(module, VariableAwareMixin) else {}
    signature = parts.pop("signature", None)
    tools = tuple(_tool_path(tool, program) for tool in parts.pop("tools", ()))
    return ProgramSpec(
        module=ModuleVariable(variable=choose_by, allowed=among or (name,)) if choose_by else name,
        signature=None if signature is None else SignatureSpec.of(signature, program=program),
        arguments={**parts, **(arguments or {})},
        tools=tools,
        bindings={**own, **(bindings or {})},
        config={path: dict(p.config) for path, p in predictors(module) if p.config},
        state=None if choose_by else state,
        lm=lm,
    )


def _module_class(name: str, registry: Registry, allowed: AllowedImports, program: str) -> type:
    if ":" not in name:
        return variable_aware(lookup(registry, name).preferred)
    found = allowed.load(name, program=program, where="module")
    if not (isinstance(found, type) and issubclass(found, dspy.Module)):
        raise ProgramSpecError(program, "module", f"'{name}' isn't a class of dspy.Module")
    return variable_aware(found)


def _tool(path: str, allowed: AllowedImports, program: str) -> Callable[..., Any]:
    found = allowed.load(path, program=program, where="tools")
    if not callable(found):
        raise ProgramSpecError(program, "tools", f"'{path}' can't be called")
    return cast(Callable[..., Any], found)


def _restore(module: Any, spec: ProgramSpec, program: str) -> None:
    """Sets config and saved state; a program whose module a variable chooses has both only where the paths fit."""
    below = dict(predictors(module))
    for path, config in spec.config.items():
        if path in below:
            below[path].config = {**below[path].config, **config}
        elif isinstance(spec.module, str):
            raise ProgramSpecError(program, f"config.{path}", f"the module has only: {', '.join(below)}")
    if spec.state:
        saved = cast(dict[str, Any], spec.state)
        try:
            module.load_state(saved["self"] if isinstance(module, dspy.Predict) else saved)
        except (KeyError, TypeError, ValueError, AttributeError) as unfit:
            raise ProgramSpecError(program, "state", f"it doesn't fit the module: {unfit!r}") from unfit


def _bind(module: Any, spec: ProgramSpec, program: str) -> None:
    for attribute in spec.bindings:
        try:
            check_bindable(module, attribute)
        except BindingError as refused:
            raise ProgramSpecError(program, f"bindings.{attribute}", str(refused).rstrip(".")) from refused
    module._variable_bindings = dict(spec.bindings)


def _state(module: Any, plain: str) -> dict[str, Any] | None:
    """The saved state of each predictor without LMs and traces; None where the signature says it all already."""
    saved = cast(dict[str, Any], module.dump_state())
    saved.pop(BINDINGS_KEY, None)
    each = {"self": saved} if isinstance(module, dspy.Predict) else saved
    if plain in _SAID_BY_SIGNATURE and not any(part["demos"] or part.get("fields") for part in each.values()):
        return None
    return {path: {**part, "lm": None, "traces": [], "train": []} for path, part in each.items()}


def _own_class(module: Any) -> type:
    """The class as its author wrote it; an automatic twin goes by the same import path."""
    return next(kind for kind in type(module).__mro__ if not issubclass(kind, VariableAwareMixin))


def _tool_path(tool: Any, program: str) -> str:
    function = getattr(tool, "func", tool)
    if not hasattr(function, "__qualname__") or "<" in function.__qualname__ or function.__module__ == "__main__":
        raise ProgramSpecError(program, "tools", f"{function!r} can't be imported by its name; define it in a module")
    return import_path(function)


def _read_predict(module: Any) -> dict[str, Any]:
    return {"signature": module.signature}


def _read_chain(module: Any) -> dict[str, Any]:
    return {"signature": module.predict.signature.delete("reasoning")}


def _read_react(module: Any) -> dict[str, Any]:
    tools = [tool for name, tool in module.tools.items() if name != "finish"]
    return {"signature": module.signature, "tools": tools, "max_iters": module.max_iters}


def _read_program_of_thought(module: Any) -> dict[str, Any]:
    return {"signature": module.signature, "max_iters": module.max_iters}


# Their predictors hold nothing but the signature, unless there are demos.
_SAID_BY_SIGNATURE = ("Predict", "ChainOfThought", "ChainOfThoughtWithHint")

_READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "Predict": _read_predict,
    "ChainOfThought": _read_chain,
    "ChainOfThoughtWithHint": _read_chain,
    "ReAct": _read_react,
    "ProgramOfThought": _read_program_of_thought,
}

__all__ = ["UnknownModuleError", "check", "rehydrate", "spec_of"]
