"""A module's structure: which predictors and modules it holds, and a copy of just that structure.

DSPy's own ``named_predictors`` leaves out compiled sub-modules, which a binding must reach too, and its ``deepcopy``
copies demos, tools and LM clients, which a bound copy only reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, cast

import dspy
from dspy.primitives.base_module import BaseModule

M = TypeVar("M")


def parts(module: Any, kind: type[M]) -> Iterator[tuple[str, M]]:
    """Yields the path and the object of each part of a kind, the module itself (path ``""``) included.

    Paths read as Python does: ``extract.predict``, ``steps[0]``.
    """
    if not isinstance(module, BaseModule):
        return
    for path, part in module.named_sub_modules(kind):
        yield path.removeprefix("self").removeprefix("."), cast(M, part)


def predictors(module: Any) -> list[tuple[str, dspy.Predict]]:
    """Returns every predictor with its path, those inside compiled sub-modules included."""
    return list(parts(module, dspy.Predict))


def clone(module: M) -> M:
    """Returns a copy of a module's structure: its modules are new, everything else is shared.

    Changing an attribute of the copy, or of a module inside it, leaves the original as it is; changing a shared list
    or dict in place does not, so whoever holds a clone replaces values and never edits them.
    """
    return cast(M, _clone(module, {}))


def _clone(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, BaseModule):
        if id(value) not in done:
            twin = object.__new__(type(value))
            done[id(value)] = twin
            twin.__dict__.update({name: _clone(part, done) for name, part in value.__dict__.items()})
        return done[id(value)]
    if type(value) in (list, tuple) and any(isinstance(part, BaseModule) for part in value):
        return type(value)(_clone(part, done) for part in value)
    if type(value) is dict and any(isinstance(part, BaseModule) for part in cast(dict[Any, Any], value).values()):
        return {name: _clone(part, done) for name, part in cast(dict[Any, Any], value).items()}
    return value
