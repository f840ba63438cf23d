"""A program's spec held against the bounds on counts, depths and sizes, before anything is built of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from snakepit_bridge.dspy_integration.bounds import TargetBounds
from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.spec import ModuleVariable, ProgramSpec

_Excess = tuple[str, str | None]


def check_bounds(spec: ProgramSpec, bounds: TargetBounds, *, program: str) -> None:
    """Refuse a spec that asks for too much.

    Raises:
        ProgramSpecError: names the part, what was found and the bound with its setting.
    """
    everything = list(_with_nested(spec, "", 0, bounds, program))
    count = bounds.over("max_modules", len(everything), "modules")
    if count is not None:
        raise ProgramSpecError(program, "modules", count)
    for where, each in everything:
        for part, excess in _excesses(each, bounds):
            if excess is not None:
                raise ProgramSpecError(program, f"{where}{part}", excess)


def _with_nested(
    spec: ProgramSpec, where: str, depth: int, bounds: TargetBounds, program: str
) -> Iterator[tuple[str, ProgramSpec]]:
    if depth > bounds.max_module_depth:
        excess = bounds.over("max_module_depth", depth, "levels of modules") or ""
        raise ProgramSpecError(program, where.rstrip("."), excess)
    yield where, spec
    for path, inner in spec.nested():
        yield from _with_nested(inner, f"{where}{path}.", depth + 1, bounds, program)


def _excesses(spec: ProgramSpec, bounds: TargetBounds) -> Iterator[_Excess]:
    choices = len(spec.module.allowed) if isinstance(spec.module, ModuleVariable) else 1
    yield "module.allowed", bounds.over("max_modules", choices, "module types")
    yield "tools", bounds.over("max_tools", len(spec.tools or ()), "tools")
    yield "functions", bounds.over("max_tools", len(spec.functions), "functions")
    yield "bindings", bounds.over("max_count", len(spec.bindings), "bindings")
    yield from _of_signature(spec, bounds)
    yield from _of_arguments(spec, bounds)
    for path, config in spec.config.items():
        for keyword, value in config.items():
            yield f"config.{path}.{keyword}", bounds.excess(keyword, value)
    yield from _of_state(spec, bounds)


def _of_signature(spec: ProgramSpec, bounds: TargetBounds) -> Iterator[_Excess]:
    signature = spec.signature
    if signature is None:
        return
    yield "signature", bounds.over("max_fields", len(signature.fields), "fields")
    yield "signature.instructions", bounds.excess("instructions", signature.instructions)
    for field in signature.fields:
        for text in (field.desc, field.prefix, field.constraints, field.type):
            yield f"signature.{field.name}", bounds.excess("desc", text)
        yield f"signature.{field.name}.default", bounds.excess("default", field.default)


def _of_arguments(spec: ProgramSpec, bounds: TargetBounds) -> Iterator[_Excess]:
    # What the constructor of a user's own class means by a name, only it knows; its texts and depths are bounded too.
    known = any(":" not in name for name in spec.module_names)
    for name, value in spec.arguments.items():
        yield f"arguments.{name}", bounds.excess(name if known else "", value)


def _of_state(spec: ProgramSpec, bounds: TargetBounds) -> Iterator[_Excess]:
    for path, saved in (spec.state or {}).items():
        held = cast(dict[str, Any], saved)
        yield f"state.{path}.demos", bounds.excess("demos", held.get("demos"))
        yield f"state.{path}", bounds.too_deep(held)
        signature = held.get("signature")
        if isinstance(signature, dict):
            said = cast(dict[str, Any], signature)
            yield f"state.{path}.signature.instructions", bounds.excess("instructions", said.get("instructions"))
