"""Serialize a DSPy module as a spec, from which a worker builds the same module."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import dspy
from pydantic import ValidationError as PydanticError

from snakepit_bridge.dspy_integration.knn_few_shot import KNNFewShot
from snakepit_bridge.dspy_integration.mixin import BINDINGS_KEY, VariableAwareMixin
from snakepit_bridge.dspy_integration.module_tree import predictors
from snakepit_bridge.dspy_integration.registry import TOOLS, NamedRegistry
from snakepit_bridge.dspy_integration.resolver import ModuleVariableResolver
from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.constructor_arguments import FUNCTIONS, READERS, ConstructorArguments
from snakepit_bridge.programs.demos import dump_demos, escape_state
from snakepit_bridge.programs.equality import are_alike, is_json
from snakepit_bridge.programs.imports import import_path
from snakepit_bridge.programs.signature_spec import SignatureSpec, spec_error
from snakepit_bridge.programs.spec import NOT_DATA, CacheSpec, ModuleVariable, ProgramSpec


def serialize_module(
    module: Any,
    *,
    program: str,
    bindings: Mapping[str, str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    choose_by: str | None = None,
    among: tuple[str, ...] = (),
    lm: str | None = None,
    cache: CacheSpec | Mapping[str, Any] | None = None,
    executes_code: bool = False,
    journal: bool | None = None,
) -> ProgramSpec:
    """Return the spec of a module, with its demos, instructions and config.

    Args:
        module: an instance of one of DSPy's modules or of a class that the workers allow; of the latter, ``arguments``
            are what its constructor takes.
        program: name for errors.
        bindings: module attribute to session variable, in addition to those of a variable-aware module.
        choose_by: session variable that selects the module type.
        among: module types that it may select.
        lm: LM profile.
        cache: response cache of its LM calls, such as ``{"ttl_s": 600}``.
        executes_code: whether it needs a process of its own.
        journal: whether it keeps a journal of its calls; None for one that makes several.

    Raises:
        ProgramSpecError: a part of the module can't be serialized, such as a tool defined in a function.
    """
    module = adopt_module(module, program)
    own_class = find_own_class(module)
    entry = ModuleVariableResolver.MODULE_REGISTRY.get(own_class.__name__)
    standard = own_class.__name__ in READERS and entry is not None and entry.module_class is own_class
    built = READERS[own_class.__name__](module, program) if standard else ConstructorArguments()
    name = own_class.__name__ if standard else import_path(own_class)
    state, is_escaped = escape_state(_collect_state(module, name) or {}) if built.carries_state else ({}, False)
    if choose_by is not None and state and any(part["demos"] for part in state.values()):
        raise ProgramSpecError(program, "state", "demos fit one module type; they can't go with a module variable")
    own_arguments = {} if standard else _find_kept_arguments(module, own_class)
    modules, below = _serialize_nested(built, program)
    own = module.get_bindings() if isinstance(module, VariableAwareMixin) else {}
    try:
        return ProgramSpec(
            module=ModuleVariable(variable=choose_by, allowed=among or (name,)) if choose_by is not None else name,
            signature=None if built.signature is None else SignatureSpec.of(built.signature, program=program),
            arguments={**built.arguments, **own_arguments, **(arguments or {})},
            functions={
                argument: find_function_path(function, program, f"functions.{argument}", FUNCTIONS.get(argument))
                for argument, function in built.functions.items()
            },
            modules=modules,
            tools=None if built.tools is None else tuple(_tool_path(tool, program) for tool in built.tools),
            bindings={**below, **own, **(bindings or {})},
            config=_collect_config(module) if built.carries_state else {},
            state=None if choose_by is not None or not state else state,
            escaped=is_escaped,
            lm=lm,
            cache=cache if cache is None or isinstance(cache, CacheSpec) else CacheSpec.model_validate(cache),
            executes_code=executes_code,
            journal=journal,
        )
    except PydanticError as exc:
        raise spec_error(exc, program) from None


def adopt_module(module: Any, program: str) -> Any:
    """Return a module in the form that a spec can describe, where DSPy's optimizers compile it to another.

    Raises:
        ProgramSpecError: a part of it has no place in a spec.
    """
    try:
        return KNNFewShot.adopt(module)
    except ValueError as exc:
        raise ProgramSpecError(program, "the whole", str(exc)) from exc


def _find_kept_arguments(module: Any, kind: type) -> dict[str, Any]:
    """Return the arguments of a user's constructor that the module keeps under their names, if they are JSON."""
    found: dict[str, Any] = {}
    # The signature of __init__ itself: DSPy's metaclass, through which the class is called, accepts anything.
    for name, parameter in list(inspect.signature(cast(Any, kind).__init__).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or name in NOT_DATA:
            continue
        held = next((vars(module)[known] for known in (name, f"_{name}") if known in vars(module)), parameter.default)
        made_of_none = parameter.default is None and held in ([], {})
        if (
            held is not parameter.empty
            and not made_of_none
            and is_json(held)
            and not are_alike(held, parameter.default)
        ):
            found[name] = held
    return found


def _serialize_nested(built: ConstructorArguments, program: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the specs of the modules inside, and their bindings, which the outer program holds under their paths."""
    specs, bindings = dict[str, Any](), dict[str, str]()
    for argument, inside in built.modules.items():
        several = isinstance(inside, list)
        each = cast(list[Any], inside) if several else [inside]
        described = [_serialize_inner(part, program, f"modules.{argument}") for part in each]
        for number, spec in enumerate(described):
            path = f"{argument}[{number}]" if several else argument
            bindings |= {f"{path}.{attribute}": variable for attribute, variable in spec.bindings.items()}
        bare = tuple(spec.model_copy(update={"bindings": {}}) for spec in described)
        specs[argument] = bare if several else bare[0]
    return specs, bindings


def _serialize_inner(module: Any, program: str, where: str) -> ProgramSpec:
    try:
        return serialize_module(module, program=program)
    except ProgramSpecError as exc:
        raise ProgramSpecError(program, f"{where}.{exc.where}", exc.problem) from None


def _collect_config(module: Any) -> dict[str, dict[str, Any]]:
    return {path or "self": dict(p.config) for path, p in predictors(module) if p.config}


def _collect_state(module: Any, plain: str) -> dict[str, Any] | None:
    """Return the saved state of each predictor without LMs and traces; None if the signature alone defines it."""
    saved = cast(dict[str, Any], module.dump_state())
    saved.pop(BINDINGS_KEY, None)
    each = {"self": saved} if isinstance(module, dspy.Predict) else saved
    if plain in _DEFINED_BY_SIGNATURE and not any(part["demos"] or part.get("fields") for part in each.values()):
        return None
    below = {path or "self": predictor for path, predictor in predictors(module)}
    for path, part in each.items():
        if path in below:
            part["demos"] = dump_demos(below[path])
    return {path: {**part, "lm": None, "traces": [], "train": []} for path, part in each.items()}


def find_own_class(module: Any) -> type:
    """Return the class as its author wrote it; an automatic variable-aware one has the same import path."""
    ours = VariableAwareMixin.__mro__
    return next(kind for kind in type(module).__mro__ if not issubclass(kind, VariableAwareMixin) and kind not in ours)


def _describe_tool(tool: dspy.Tool) -> tuple[object, ...]:
    """Return what a prompt contains of a tool."""
    return tool.name, tool.desc, tool.args, tool.arg_desc


def _tool_path(tool: Any, program: str) -> str:
    function = getattr(tool, "func", tool)
    registered = _find_registered_name(tool, TOOLS) or _find_registered_name(function, TOOLS)
    if isinstance(tool, dspy.Tool) and _describe_tool(tool) != _describe_tool(dspy.Tool(function)):
        if registered is None:
            problem = f"'{tool.name}' has a name or description of its own; write them on the function, or register it"
            raise ProgramSpecError(program, "tools", problem)
        return registered
    return find_function_path(function, program, "tools", TOOLS)


def find_function_path(function: Any, program: str, where: str, registry: NamedRegistry[Any] | None = None) -> str:
    """Return a function's import path, which every worker can load; else the name under which it is registered.

    Raises:
        ProgramSpecError: it has neither.
    """
    home = getattr(function, "__module__", None) or ""
    named = getattr(function, "__qualname__", "<")
    if "<" not in named and home != "__main__" and home.partition(".")[0] != "dspy":
        return import_path(function)
    registered = _find_registered_name(function, registry)
    if registered is None:
        raise ProgramSpecError(program, where, f"{function!r} can't be imported by its name; define it in a module")
    return registered


def _find_registered_name(thing: Any, registry: NamedRegistry[Any] | None) -> str | None:
    names = registry.names if registry else ()
    return next((name for name in names if registry and registry.find(name, "") is thing), None)


# Their predictors hold nothing but the signature, unless there are demos.
_DEFINED_BY_SIGNATURE = ("Predict", "ChainOfThought", "ChainOfThoughtWithHint")
