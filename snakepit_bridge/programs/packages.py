"""The distributions, with versions, that a program's classes, tools, functions and types come from."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata

from snakepit_bridge.programs.imports import split_at_class
from snakepit_bridge.programs.spec import ProgramSpec

_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")
# Field types may name these, but their code isn't the program's own.
_FOREIGN_PACKAGES = frozenset({"dspy", "typing", "datetime", "builtins", "snakepit_bridge"})


def iter_named_modules(spec: ProgramSpec) -> Iterator[str]:
    """Yield the Python modules that a spec names: of its classes, tools, functions and field types, nested ones too."""
    for path in (*spec.module_names, *(spec.tools or ()), *spec.functions.values()):
        module = path.partition(":")[0] if ":" in path else split_at_class(path)[0]
        if module:
            yield module
    for field in spec.signature.fields if spec.signature else ():
        for dotted in _DOTTED.findall(field.type):
            yield split_at_class(dotted)[0]
    for _, inner in spec.iter_nested():
        yield from iter_named_modules(inner)


def find_releases(spec: ProgramSpec) -> Mapping[str, str]:
    """Return the distributions that a spec's code comes from with their versions, for provenance.

    A package without a distribution is listed by its own name, with its ``__version__`` or an empty string.
    """
    tops = {name.partition(".")[0] for name in iter_named_modules(spec)} - _FOREIGN_PACKAGES
    found: dict[str, str] = {}
    for top in sorted(tops):
        known = load_distributions().get(top, ())
        if known:
            found.update({name: metadata.version(name) for name in known})
        elif top in sys.modules:
            found[top] = str(getattr(sys.modules[top], "__version__", ""))
    return found


@functools.cache
def load_distributions() -> Mapping[str, list[str]]:
    """Return the distributions that each importable package came with; cached, since reading them is slow."""
    return metadata.packages_distributions()
