"""A module's tree: which predictors and modules it holds, a copy of just that structure, and the methods a call runs.

DSPy's own ``named_predictors`` leaves out compiled sub-modules, which a binding must reach too, and its ``deepcopy``
copies demos, tools and LM clients, which a bound copy only reads.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import dspy
from dspy.primitives.base_module import BaseModule

from snakepit_bridge.dspy_integration.compat import KNN, RLM, Flex, Parallel, adopt_flex

M = TypeVar("M")


# KNN and Parallel aren't modules in DSPy, but variables can be bound to them as to modules.
PARTS: tuple[type, ...] = (BaseModule, KNN, Parallel)

# Set on the mixin, which may precede any class. It has no base class of ours, so that the first class after it in an
# instance's method resolution order is the plain one.
AWARE = "_is_variable_aware"
# Set on classes that precede others and apply context overrides around their calls.
APPLIES_OVERRIDES = "_applies_overrides"
# Attribute of the mixin's wrapper of a method, which holds the method as the user wrote it.
WRITTEN_BY_THE_USER = "_written_by_the_user"

_OUR_PACKAGE = __name__.rpartition(".")[0]


# Records of past calls, and plain values: neither holds parts.
_RECORDS = frozenset({"history", "callbacks", "traces", "train", "demos", "config", "fields"})
_PLAIN = frozenset({str, int, float, bool, type(None)})


def is_part(thing: Any) -> bool:
    """Check whether a thing is a part of a program: one of DSPy's, or of any class with the mixin before it."""
    return _is_part_class(type(thing))


# Checked for every attribute in every bound call; issubclass would take most of a binding's time.
@functools.lru_cache(maxsize=4096)
def _is_part_class(kind: type) -> bool:
    return issubclass(kind, PARTS) or hasattr(kind, AWARE)


def is_ours(kind: type) -> bool:
    """Check whether a class is the mixin or applies context overrides, rather than a module of its own."""
    return AWARE in vars(kind) or APPLIES_OVERRIDES in vars(kind)


def is_defined_by_user(kind: type) -> bool:
    """Check whether a class itself is the user's own, and not DSPy's, ours or Python's."""
    return not kind.__module__.startswith(("dspy.", _OUR_PACKAGE, "builtins")) and not is_ours(kind)


@functools.lru_cache(maxsize=4096)
def is_user_class(kind: type) -> bool:
    """Check whether a class, or one that it inherits from, is the user's own."""
    return any(map(is_defined_by_user, kind.__mro__))


def parts(module: Any, kind: type[M] | tuple[type, ...]) -> Iterator[tuple[str, M]]:
    """Yield the path and the object of each part of a kind, the module itself (path ``""``) included.

    Paths read as Python does: ``extract.predict``, ``steps[0]``. They are those of DSPy's ``named_sub_modules``, which
    looks through demos and histories as well and takes ten times as long.
    """
    for path, part in _list_parts(module):
        if isinstance(part, kind):
            yield path, cast(M, part)


def has_part(module: Any, kind: type | tuple[type, ...]) -> bool:
    """Check whether a module is or holds a part of a kind."""
    return any(isinstance(part, kind) for _, part in _list_parts(module))


# While values are applied to a copy its structure doesn't change, and every target needs it.
_cached_structures: ContextVar[dict[int, tuple[Any, list[tuple[str, Any]]]] | None] = ContextVar(
    "structure", default=None
)


@contextmanager
def cache_structure() -> Generator[None]:
    """Cache each module's parts within the block, which must not add or exchange parts."""
    token = _cached_structures.set({})
    try:
        yield
    finally:
        _cached_structures.reset(token)


def _list_parts(root: Any) -> Iterable[tuple[str, Any]]:
    known = _cached_structures.get()
    if known is None:
        return _walk(root)
    if id(root) not in known:
        known[id(root)] = (root, list(_walk(root)))  # with the root, so that its id isn't reused
    return known[id(root)][1]


def _walk(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield every part once, the nearer ones first."""
    queue: deque[tuple[str, Any]] = deque([("", root)])
    seen = {id(root)}
    while queue:
        path, thing = queue.popleft()
        if is_part(thing):
            yield path, thing
            inside = [
                (f"{path}.{name}" if path else name, held)
                for name, held in thing.__dict__.items()
                if type(held) not in _PLAIN and name not in _RECORDS
            ]
        elif isinstance(thing, dict):
            inside = [(f"{path}[{key}]", held) for key, held in cast(dict[Any, Any], thing).items()]
        else:
            inside = [(f"{path}[{at}]", held) for at, held in enumerate(thing)]
        for name, held in inside:
            if (is_part(held) or isinstance(held, (list, tuple, dict))) and id(held) not in seen:
                seen.add(id(held))
                queue.append((name, held))


def predictors(module: Any) -> list[tuple[str, dspy.Predict]]:
    """Return every predictor with its path, those inside compiled sub-modules included."""
    return list(parts(module, dspy.Predict)) if is_part(module) else []


def part_at(module: Any, path: str) -> Any | None:
    """Return the part at a path, or None; ``steps['a']`` finds what ``steps[a]`` does."""
    if not path:
        return module
    wanted = path.replace("['", "[").replace("']", "]")
    return next((part for name, part in parts(module, PARTS) if name == wanted), None)


def clone(module: M) -> M:
    """Return a copy of a module's structure: its modules are new, everything else is shared.

    Changing an attribute of the copy, or of a module inside it, leaves the original as it is; changing a shared list
    or dict in place does not, so callers replace values of a clone and never edit them.
    """
    return cast(M, _clone(module, {}))


def _clone(value: Any, done: dict[int, Any]) -> Any:
    if is_part(value):
        if id(value) not in done:
            copied = object.__new__(type(value))
            done[id(value)] = copied
            copied.__dict__.update(
                {name: part if name in _RECORDS else _clone(part, done) for name, part in value.__dict__.items()}
            )
            if isinstance(value, Flex):
                adopt_flex(copied, value)
        return done[id(value)]
    if type(value) in (list, tuple) and any(map(is_part, value)):
        return type(value)(_clone(part, done) for part in value)
    if type(value) is dict and any(map(is_part, cast(dict[Any, Any], value).values())):
        return {name: _clone(part, done) for name, part in cast(dict[Any, Any], value).items()}
    return value


def runs_natively(module_class: type) -> bool:
    """Check whether a class has an ``aforward`` that matches its ``forward`` and doesn't block the loop.

    A class that overrides only ``forward`` would run its parent's ``aforward``, which does something else. RLM's
    blocks the loop while its interpreter runs.
    """
    for base in module_class.__mro__:
        if base is RLM:
            return False
        if not is_ours(base) and ("aforward" in vars(base) or (is_defined_by_user(base) and "acall" in vars(base))):
            return True
        if not is_ours(base) and ("forward" in vars(base) or (is_defined_by_user(base) and "__call__" in vars(base))):
            return False
    return False


def find_entry_points(module: Any) -> list[Callable[..., Any]]:
    """Return the functions of the user's own that a call of a module runs, bound to it, the outer one first."""
    names = ("acall", "aforward") if runs_natively(type(module)) else ("__call__", "forward")
    return [found for found in (_find_method(module, name) for name in names) if found is not None]


def _find_method(module: Any, name: str) -> Callable[..., Any] | None:
    """Return a method as the user wrote it, bound to the module; None if it is DSPy's or doesn't exist."""
    if name in vars(module) and callable(vars(module)[name]):
        return cast(Callable[..., Any], vars(module)[name])
    for base in type(module).__mro__:
        if name in vars(base) and not is_ours(base):
            written: Any = vars(base)[name]
            if not is_defined_by_user(base):
                return None
            written = getattr(written, WRITTEN_BY_THE_USER, written)
            return written.__get__(module, type(module)) if hasattr(type(written), "__get__") else written
    return None
