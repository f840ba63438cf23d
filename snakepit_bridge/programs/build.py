"""Build a DSPy module from a program spec; :mod:`~.serialize` is the inverse."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import dspy

from snakepit_bridge.dspy_integration.binding import check_bindable
from snakepit_bridge.dspy_integration.bounds import DEFAULT_BOUNDS, TargetBounds
from snakepit_bridge.dspy_integration.ensemble import Ensemble
from snakepit_bridge.dspy_integration.isolation import Isolation, UncopyableError
from snakepit_bridge.dspy_integration.knn_few_shot import KNNFewShot, Vectorizer
from snakepit_bridge.dspy_integration.mixin import BINDINGS_KEY, mixin_attribute_names
from snakepit_bridge.dspy_integration.module_tree import is_user_class, part_at, predictors
from snakepit_bridge.dspy_integration.modules import variable_aware
from snakepit_bridge.dspy_integration.registry import TOOLS, NamedRegistry
from snakepit_bridge.dspy_integration.resolver import ModuleSpec, ModuleVariableResolver, construct, lookup
from snakepit_bridge.dspy_integration.targets.keywords import ANY_ENGINE
from snakepit_bridge.dspy_integration.targets.keywords import is_allowed as allowed_keyword
from snakepit_bridge.exceptions import BindingError, BridgeError, ProgramSpecError, ValidationError, join_names
from snakepit_bridge.programs.bounds import check_bounds
from snakepit_bridge.programs.constructor_arguments import FUNCTIONS
from snakepit_bridge.programs.demos import restore_state
from snakepit_bridge.programs.few_shot_examples import load_examples, load_vectors
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.serialize import serialize_module
from snakepit_bridge.programs.spec import ModuleVariable, ProgramSpec
from snakepit_bridge.variables.variable import check_variable_name

Registry = Mapping[str, ModuleSpec]


def build_module(spec: ProgramSpec, module_name: str, allowed: AllowedImports, *, program: str) -> Any:
    """Return a new variable-aware module built from a spec.

    Args:
        spec: the program.
        module_name: which of ``spec.module_names`` to build.
        allowed: the packages that the spec may name.
        program: name for errors.

    Raises:
        UnknownModuleError: no such module type is registered.
        ProgramSpecError: a part of the spec isn't allowed or doesn't fit the module; names the part.
    """
    registry = ModuleVariableResolver.MODULE_REGISTRY
    module_class = _find_module_class(module_name, registry, allowed, program, signed=spec.signature is not None)
    arguments: dict[str, Any] = dict(spec.arguments)
    if spec.tools is not None:
        arguments["tools"] = [_load_function(path, TOOLS, allowed, program, "tools") for path in spec.tools]
    for argument, path in spec.functions.items():
        where = f"functions.{argument}"
        arguments[argument] = _load_function(path, FUNCTIONS.get(argument), allowed, program, where)
    for argument, inside in spec.modules.items():
        _check_one_or_many(module_class, argument, inside, program)
        arguments[argument] = _build_inner(inside, allowed, program, f"modules.{argument}")
    if spec.module_names == ("KNN",):
        _prepare_knn(arguments, program)
    if issubclass(module_class, KNNFewShot):
        _prepare_knn_few_shot(arguments, program)
    if spec.signature is not None:
        spec.signature.check_names(module_name, program=program)
    positional = [] if spec.signature is None else [spec.signature.build(allowed, program=program)]
    try:
        module = construct(module_class, registry, *positional, **arguments)
    except BridgeError:
        raise
    except Exception as exc:
        # A constructor may raise anything; here it always means that the spec doesn't fit.
        path = f"{type(exc).__name__}: {exc}"
        raise ProgramSpecError(program, f"arguments of {module_name}", path) from exc
    _check_keywords(module, spec, program)
    _set_attributes(module, spec, program)
    _restore(module, spec, program)
    _bind(module, spec, program)
    return module


def check_spec(
    spec: ProgramSpec, allowed: AllowedImports, *, program: str, bounds: TargetBounds = DEFAULT_BOUNDS
) -> None:
    """Build every module that the program may run as, so that an invalid spec is rejected at registration.

    Raises:
        UnknownModuleError: it names a module type that isn't registered.
        ProgramSpecError: a part is refused; names the part, and the module that it doesn't fit.
    """
    check_bounds(spec, bounds, program=program)
    spec.verify(program)
    _check_variable_names(spec, program)
    for module_name in spec.module_names:
        make_isolation(build_module(spec, module_name, allowed, program=program), program=program)


def _check_variable_names(spec: ProgramSpec, program: str) -> None:
    """Reject names that no variable can have; only here, so that what is stored stays readable."""
    named = {f"bindings.{attribute}": variable for attribute, variable in spec.bindings.items()}
    if isinstance(spec.module, ModuleVariable):
        named["module.variable"] = spec.module.variable
    for where, variable in named.items():
        try:
            check_variable_name(variable)
        except ValidationError as exc:
            raise ProgramSpecError(program, where, str(exc).rstrip(".")) from exc


def make_isolation(module: Any, *, program: str) -> Isolation | None:
    """Return what makes copies of a module for its predictions; None where they can share it.

    Raises:
        ProgramSpecError: an attribute of a user's module can change and can't be copied; names it.
    """
    try:
        return Isolation.of(module)
    except UncopyableError as exc:
        raise ProgramSpecError(program, f"attribute {exc.attribute}", exc.problem) from exc


def _find_module_class(name: str, registry: Registry, allowed: AllowedImports, program: str, *, signed: bool) -> type:
    if ":" not in name:
        return variable_aware(lookup(registry, name).preferred)
    found = allowed.load(name, program=program, where="module")
    if not (isinstance(found, type) and issubclass(found, dspy.Module)):
        raise ProgramSpecError(program, "module", f"'{name}' isn't a class of dspy.Module")
    if signed and "signature" not in inspect.signature(found).parameters:
        raise ProgramSpecError(program, "signature", f"the constructor of '{name}' takes none")
    return variable_aware(found)


def _load_function(
    path: str, registry: NamedRegistry[Any] | None, allowed: AllowedImports, program: str, where: str
) -> Callable[..., Any]:
    """Return a registered function by its name, or one in an allowed package by its import path."""
    if ":" not in path and registry is not None and path in registry.names:
        return cast(Callable[..., Any], registry.find(path, where))
    if ":" not in path and "." not in path:
        registered = f"; registered are: {join_names(registry.names)}" if registry is not None else ""
        raise ProgramSpecError(
            program, where, f"'{path[:80]}' is neither an import path nor a registered name{registered}"
        )
    found = allowed.load(path, program=program, where=where)
    if not callable(found):
        raise ProgramSpecError(program, where, f"'{path}' can't be called")
    return cast(Callable[..., Any], found)


def _prepare_knn(arguments: dict[str, Any], program: str) -> None:
    """Convert the arguments of KNN: its examples are sent as objects, and DSPy needs its function wrapped."""
    try:
        arguments["trainset"] = [
            dspy.Example(demo["example"]).with_inputs(*demo["inputs"]) for demo in arguments["trainset"]
        ]
    except (KeyError, TypeError) as exc:
        problem = f"it must be a list of objects with 'example' and 'inputs': {exc!r}"
        raise ProgramSpecError(program, "arguments.trainset", problem) from exc
    if "vectorizer" in arguments:
        arguments["vectorizer"] = dspy.Embedder(arguments["vectorizer"])


def _prepare_knn_few_shot(arguments: dict[str, Any], program: str) -> None:
    """Convert the arguments of KNNFewShot: its examples and vectors, and by what its inputs are embedded."""
    for name, load in (("trainset", load_examples), ("vectors", load_vectors)):
        try:
            arguments[name] = load(arguments.get(name))
        except ValueError as exc:
            raise ProgramSpecError(program, f"arguments.{name}", str(exc)) from exc
    embedder, function = arguments.pop("embedder", ""), arguments.get("vectorizer")
    if not isinstance(embedder, str) or bool(embedder) == (function is not None):
        problem = "either it names an LM profile, or functions.vectorizer names a function"
        raise ProgramSpecError(program, "arguments.embedder", problem)
    arguments["vectorizer"] = Vectorizer(function, model=embedder)


def _build_inner(
    inside: ProgramSpec | tuple[ProgramSpec, ...], allowed: AllowedImports, program: str, where: str
) -> Any:
    if not isinstance(inside, ProgramSpec):
        return [_build_inner(part, allowed, program, f"{where}.{number}") for number, part in enumerate(inside)]
    try:
        return build_module(inside, inside.module_names[0], allowed, program=program)
    except ProgramSpecError as exc:
        raise ProgramSpecError(program, f"{where}.{exc.where}", exc.problem) from None


def _check_one_or_many(
    module_class: type, argument: str, inside: ProgramSpec | tuple[ProgramSpec, ...], program: str
) -> None:
    """Check that a module is given a list of modules only if it takes one; BestOfN itself would only fail in its calls.

    Raises:
        ProgramSpecError: the argument is a list instead of a spec, or the reverse.
    """
    wants_one = (issubclass(module_class, _SINGLE_MODULE_WRAPPERS) and argument == "module") or (
        issubclass(module_class, KNNFewShot) and argument in ("student", "teacher")
    )
    wants_list = issubclass(module_class, Ensemble) and argument == "programs"
    if wants_one and not isinstance(inside, ProgramSpec):
        raise ProgramSpecError(program, f"modules.{argument}", "it must be one spec and not a list")
    if wants_list and isinstance(inside, ProgramSpec):
        raise ProgramSpecError(program, f"modules.{argument}", "it must be a list of specs")


_SINGLE_MODULE_WRAPPERS = (dspy.BestOfN, dspy.Refine)


def _check_keywords(module: Any, spec: ProgramSpec, program: str) -> None:
    """Reject constructor arguments that became LM keywords which a spec may not set."""
    for _, predictor in predictors(module):
        for name in predictor.config.keys() & spec.arguments.keys():
            if not allowed_keyword(name):
                problem = f"as an LM keyword it isn't one of: {', '.join(sorted(ANY_ENGINE))}"
                raise ProgramSpecError(program, f"arguments.{name}", problem)


def _set_attributes(module: Any, spec: ProgramSpec, program: str) -> None:
    """Set plain attributes; never one that is a part, code or an object, or that its class defines otherwise."""
    for key, attributes in spec.attributes.items():
        path = "" if key == "self" else key
        part = part_at(module, path)
        if part is None:
            raise ProgramSpecError(program, f"attributes.{key}", "the module has no such part")
        for name, value in attributes.items():
            if not name.isidentifier() or name.startswith("__") or not _is_settable(part, name):
                raise ProgramSpecError(program, f"attributes.{key}.{name}", "it isn't a plain attribute of that part")
            vars(part)[name] = copy.deepcopy(value)


def _is_settable(part: Any, name: str) -> bool:
    if name in mixin_attribute_names():
        return False
    if name in vars(part):
        return type(vars(part)[name]) in _PLAIN
    of_class = inspect.getattr_static(type(part), name, None)
    return is_user_class(type(part)) and type(of_class) in _PLAIN


_PLAIN = (type(None), bool, int, float, str, list, dict)


def _restore(module: Any, spec: ProgramSpec, program: str) -> None:
    """Set config and saved state; if a variable chooses the module, config applies only to paths that it has."""
    below = dict(predictors(module))
    for key, config in spec.config.items():
        path = "" if key == "self" else key
        if path in below:
            below[path].config = {**below[path].config, **config}
        elif isinstance(spec.module, str):
            raise ProgramSpecError(program, f"config.{key}", f"the module has only: {', '.join(below) or 'none'}")
    if spec.state:
        _load_state(module, cast(dict[str, Any], spec.state), program, is_escaped=spec.escaped)


def _load_state(module: Any, saved: dict[str, Any], program: str, *, is_escaped: bool) -> None:
    try:
        saved = restore_state(saved) if is_escaped else saved
        present = {name: part for name, part in module.dump_state().items() if name != BINDINGS_KEY}
        each: dict[str, Any] = {"self": present} if isinstance(module, dspy.Predict) else present
        for path in each.keys() ^ saved.keys():
            raise ProgramSpecError(program, f"state.{path}", f"the module has only: {', '.join(each) or 'none'}")
        for path, part in each.items():
            # DSPy matches the fields by position, so another signature's state would be loaded silently.
            found, wanted = len(saved[path]["signature"]["fields"]), len(part["signature"]["fields"])
            if found != wanted:
                raise ProgramSpecError(program, f"state.{path}", f"it has {found} fields, the signature {wanted}")
        module.load_state(saved["self"] if isinstance(module, dspy.Predict) else saved)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        if isinstance(exc, ProgramSpecError):
            raise
        raise ProgramSpecError(program, "state", f"it doesn't fit the module: {exc!r}") from exc


def _bind(module: Any, spec: ProgramSpec, program: str) -> None:
    for attribute in spec.bindings:
        try:
            check_bindable(module, attribute)
        except BindingError as exc:
            raise ProgramSpecError(program, f"bindings.{attribute}", str(exc).rstrip(".")) from exc
    module._variable_bindings = dict(spec.bindings)


__all__ = ["check_spec", "make_isolation", "build_module", "serialize_module"]
