"""What can be read on a module: its bound values stand on it as attributes, and go when they are unbound."""

from __future__ import annotations

from typing import Any

from snakepit_bridge.dspy_integration.binding import is_readable, split_attribute
from snakepit_bridge.dspy_integration.module_tree import part_at


def read_attribute(module: Any, attribute: str) -> tuple[Any, ...]:
    """Return what stands on the module under a bound attribute's name, as a 1-tuple; () where nothing does."""
    path, name = split_attribute(attribute)
    part = part_at(module, path)
    return (getattr(part, name),) if is_readable(attribute) and hasattr(part, name) else ()


def expose_value(module: Any, attribute: str, value: Any) -> None:
    """Keep ``module.temperature`` readable; what DSPy obeys is set on the copy of each call."""
    path, name = split_attribute(attribute)
    if is_readable(attribute):
        setattr(part_at(module, path), name, value)


def restore_attribute(module: Any, attribute: str, before: tuple[Any, ...] | None) -> None:
    """Undo :func:`show`: the attribute is again what it was, or isn't there again."""
    path, name = split_attribute(attribute)
    part = part_at(module, path)
    if before is None or part is None or not is_readable(attribute):
        return
    if before:
        setattr(part, name, before[0])
    elif name in vars(part):
        delattr(part, name)
