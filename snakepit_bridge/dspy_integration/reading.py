"""What can be read on a module: its bound values stand on it as attributes, and go when they are unbound."""

from __future__ import annotations

from typing import Any

from snakepit_bridge.dspy_integration.binding import shows, split
from snakepit_bridge.dspy_integration.module_tree import part_at


def readable(module: Any, attribute: str) -> tuple[Any, ...]:
    """Returns what stands on the module under a bound attribute's name, as a 1-tuple; () where nothing does."""
    path, name = split(attribute)
    part = part_at(module, path)
    return (getattr(part, name),) if shows(attribute) and hasattr(part, name) else ()


def show(module: Any, attribute: str, value: Any) -> None:
    """Keeps ``module.temperature`` readable; what DSPy obeys is set on the copy of each call."""
    path, name = split(attribute)
    if shows(attribute):
        setattr(part_at(module, path), name, value)


def restore(module: Any, attribute: str, before: tuple[Any, ...] | None) -> None:
    """Undoes :func:`show`: the attribute is again what it was, or isn't there again."""
    path, name = split(attribute)
    part = part_at(module, path)
    if before is None or part is None or not shows(attribute):
        return
    if before:
        setattr(part, name, before[0])
    elif name in vars(part):
        delattr(part, name)
