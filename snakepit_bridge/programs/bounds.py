"""Check a program's spec against the bounds on counts, depths and sizes, before it is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from snakepit_bridge.dspy_integration.bounds import TargetBounds
from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.spec import ModuleVariable, ProgramSpec

_Excess = tuple[str, str | None]


def check_bounds(spec: ProgramSpec, bounds: TargetBounds, *, program: str) -> None:
    """Check that a spec is within its bounds.

    Raises:
        ProgramSpecError: a bound is exceeded; names the part, the value and the bound with its setting.
    """
    everything = list(_iter_specs(spec, "", 0, bounds, program))
    count = bounds.describe_excess("max_modules", len(everything), "modules")
    if count is not None:
        raise ProgramSpecError(program, "modules", count)
    for where, each in everything:
        for part, excess in _iter_excesses(each, bounds):
            if excess is not None:
                raise ProgramSpecError(program, f"{where}{part}", excess)


def _iter_specs(
    spec: ProgramSpec, where: str, depth: int, bounds: TargetBounds, program: str
) -> Iterator[tuple[str, ProgramSpec]]:
    if depth > bounds.max_module_depth:
        excess = bounds.describe_excess("max_module_depth", depth, "levels of modules") or ""
        raise ProgramSpecError(program, where.rstrip("."), excess)
    yield where, spec
    for path, inner in spec.iter_nested():
        yield from _iter_specs(inner, f"{where}{path}.", depth + 1, bounds, program)


def _iter_excesses(spec: ProgramSpec, bounds: TargetBounds) -> Iterator[_Excess]:
    choices = len(spec.module.allowed) if isinstance(spec.module, ModuleVariable) else 1
    yield "module.allowed", bounds.describe_excess("max_modules", choices, "module types")
    yield "tools", bounds.describe_excess("max_tools", len(spec.tools or ()), "tools")
    yield "functions", bounds.describe_excess("max_tools", len(spec.functions), "functions")
    yield "bindings", bounds.describe_excess("max_count", len(spec.bindings), "bindings")
    yield from _iter_signature_excesses(spec, bounds)
    yield from _iter_argument_excesses(spec, bounds)
    for path, config in spec.config.items():
        for keyword, value in config.items():
            yield f"config.{path}.{keyword}", bounds.find_excess(keyword, value)
    yield from _iter_state_excesses(spec, bounds)


def _iter_signature_excesses(spec: ProgramSpec, bounds: TargetBounds) -> Iterator[_Excess]:
    signature = spec.signature
    if signature is None:
        return
    yield "signature", bounds.describe_excess("max_fields", len(signature.fields), "fields")
    yield "signature.instructions", bounds.find_excess("instructions", signature.instructions)
    for field in signature.fields:
        for text in (field.desc, field.prefix, field.constraints, field.type):
            yield f"signature.{field.name}", bounds.find_excess("desc", text)
        yield f"signature.{field.name}.default", bounds.find_excess("default", field.default)


def _iter_argument_excesses(spec: ProgramSpec, bounds: TargetBounds) -> Iterator[_Excess]:
    # A user's constructor may give a name any meaning, so only the sizes of texts and the depths are checked.
    known = any(":" not in name for name in spec.module_names)
    for name, value in spec.arguments.items():
        yield f"arguments.{name}", bounds.find_excess(name if known else "", value)


def _iter_state_excesses(spec: ProgramSpec, bounds: TargetBounds) -> Iterator[_Excess]:
    for path, saved in (spec.state or {}).items():
        held = cast(dict[str, Any], saved)
        yield f"state.{path}.demos", bounds.find_excess("demos", held.get("demos"))
        yield f"state.{path}", bounds.find_excess_depth(held)
        signature = held.get("signature")
        if isinstance(signature, dict):
            fields = cast(dict[str, Any], signature)
            yield f"state.{path}.signature.instructions", bounds.find_excess("instructions", fields.get("instructions"))
