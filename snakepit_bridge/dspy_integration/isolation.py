"""Isolation: a copy of a user's module for each prediction, so that predictions don't see each other's state.

DSPy's own modules hold no state of a call and are shared. User code may keep state on its module: in a plain attribute,
a list, an object, the demos of a nested predictor, an attribute of its class. All of that is copied, as Python's
``deepcopy`` would, preserving identities; immutable objects are shared. A mutable object that can't be copied, such as
a connection, is rejected, unless the class names it in ``shared_attributes``.
"""

from __future__ import annotations

import collections
import copy
import enum
import functools
import logging
import re
import threading
import types
from collections.abc import Iterator
from typing import Any, Self, cast

import dspy
from dspy.primitives.base_module import BaseModule
from pydantic import BaseModel

from snakepit_bridge.dspy_integration.compat import Flex, adopt_flex
from snakepit_bridge.dspy_integration.module_tree import is_defined_by_user, is_part, is_user_class, parts

SHARED_ATTRIBUTES = "shared_attributes"
"""Class attribute by which a user's module names attributes that all predictions may share."""
MAX_OBJECTS = 100_000
"""Objects that a copy may consist of, by default."""
MAX_BYTES = 64 << 20
"""Bytes of arrays that a copy may consist of, by default."""

_ATOMS = (
    type(None), bool, int, float, complex, str, bytes, range, slice, type(...), type(NotImplemented), type, re.Pattern,
    enum.Enum, types.ModuleType, types.BuiltinFunctionType, types.CodeType, property, logging.Logger,
)  # fmt: skip
# DSPy's own objects, such as LMs, adapters and retrievers, hold no state of a call; these hold a user's values.
_DSPY_VALUES = (dspy.Example, BaseModel, BaseModule)
_LIBRARIES = ("dspy.", "snakepit_bridge.", "litellm")
_LOCKS = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}
_HEAP_TYPE_FLAG = 1 << 9  # Py_TPFLAGS_HEAPTYPE


class UncopyableError(ValueError):
    """An attribute of a user's module is mutable and can't be copied for each prediction.

    Attributes:
        attribute: its path within the module.
        problem: why, and what to do.
    """

    def __init__(self, attribute: str, problem: str) -> None:
        super().__init__(attribute, problem)
        self.attribute = attribute
        self.problem = problem


class Isolation:
    """Makes copies of one module; the original never runs.

    Args:
        module: a bound module.
        max_objects: objects that a copy may consist of.

    Raises:
        UncopyableError: an attribute can't be copied, or is too large for it.
    """

    def __init__(self, module: Any, *, max_objects: int = MAX_OBJECTS) -> None:
        self._module = module
        self._shared: dict[int, Any] = {id(value): value for value in _iter_shared_values(module)}
        self._mutable_attributes: dict[int, list[tuple[str, Any]]] = {}
        self._of_classes: dict[int, dict[str, Any]] = {}
        self._of_classes = {id(part): held for part, held in self._iter_class_attributes()}
        self._probe(max_objects)

    @classmethod
    def of(cls, module: Any, *, max_objects: int = MAX_OBJECTS) -> Self | None:
        """Return the isolation of a module; None if all of its code is DSPy's and can be shared.

        Raises:
            UncopyableError: an attribute can't be copied, or is too large for it.
        """
        has_own = any(_has_user_class(part) for _, part in parts(module, BaseModule))
        return cls(module, max_objects=max_objects) if has_own else None

    def copy(self) -> Any:
        """Return a copy for one prediction."""
        return self._copy(self._module, {})

    def _iter_class_attributes(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield each part with the mutable attributes of its class."""
        memo: dict[int, Any] = {}
        for path, part in parts(self._module, BaseModule):
            found: dict[str, Any] = {}
            for name, value in _iter_mutable_class_attributes(part):
                if id(value) not in self._shared:
                    found[name] = self._copy_attribute(path, part, name, value, memo)
            if found:
                yield part, found

    def _probe(self, max_objects: int) -> None:
        """Copy once, to find attributes that can't be copied and objects that can be shared."""
        memo: dict[int, Any] = {}
        for path, part in reversed(list(parts(self._module, BaseModule))):  # inner parts first, for the full path
            for name, value in list(vars(part).items()):
                before = len(memo)
                self._copy_attribute(path, part, name, value, memo)
                size = _count_buffer_bytes(value)
                if (len(memo) - before > max_objects or size > MAX_BYTES) and not is_part(value):
                    count = f"{size} bytes" if size > MAX_BYTES else f"{len(memo) - before} objects"
                    problem = f"{count} are too many to be copied for each prediction{_ADVICE.format(name)}"
                    raise UncopyableError(_join_path(path, name), problem)

    def _copy_attribute(self, path: str, part: Any, name: str, value: Any, memo: dict[int, Any]) -> Any:
        try:
            return self._copy(value, memo)
        except Exception as exc:
            # A class may raise anything from its copy protocol.
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            problem = f"{type(part).__name__} keeps a {kind} there, which can't be copied for each prediction"
            raise UncopyableError(_join_path(path, name), f"{problem} ({exc}){_ADVICE.format(name)}") from exc

    def _copy(self, value: Any, memo: dict[int, Any]) -> Any:
        kind = type(value)
        if kind in _FAST or id(value) in self._shared:
            return value
        if id(value) in memo:
            return memo[id(value)]
        if kind is list or kind is collections.deque:
            return self._copy_sequence(value, memo)
        if kind is dict:
            copied = memo[id(value)] = dict[Any, Any]()
            for key, item in cast(dict[Any, Any], value).items():
                copied[self._copy(key, memo)] = self._copy(item, memo)
            return copied
        if kind is tuple or kind is frozenset or kind is set:
            return self._copy_tuple_or_set(value, memo)
        if is_part(value):
            return self._copy_part(value, memo)
        if _is_immutable(value):
            self._shared[id(value)] = value
            return value
        return self._copy_object(value, memo)

    def _copy_sequence(self, value: Any, memo: dict[int, Any]) -> Any:
        copied = memo[id(value)] = type(value)() if type(value) is list else collections.deque(maxlen=value.maxlen)
        copied.extend(self._copy(item, memo) for item in value)
        return copied

    def _copy_tuple_or_set(self, value: Any, memo: dict[int, Any]) -> Any:
        items = [self._copy(item, memo) for item in value]
        same = type(value) is not set and all(new is old for new, old in zip(items, value, strict=True))
        if same:
            self._shared[id(value)] = value
        copied = memo[id(value)] = memo.get(id(value), value if same else type(value)(items))
        return copied

    def _copy_part(self, value: Any, memo: dict[int, Any]) -> Any:
        copied = memo[id(value)] = object.__new__(type(value))
        if id(value) in self._of_classes:
            copied.__dict__.update(self._copy(self._of_classes[id(value)], memo))
        copied.__dict__.update(value.__dict__)
        known = self._mutable_attributes.get(id(value))
        for name, held in value.__dict__.items() if known is None else known:
            copied.__dict__[name] = self._copy(held, memo)
        if known is None:
            self._mutable_attributes[id(value)] = [
                (n, v) for n, v in value.__dict__.items() if copied.__dict__[n] is not v
            ]
        if isinstance(value, Flex):
            adopt_flex(copied, value)
        return copied

    def _copy_object(self, value: Any, memo: dict[int, Any]) -> Any:
        kind = type(value)
        if kind in _LOCKS:
            copied = _LOCKS[kind]()
        elif kind is types.MethodType:
            copied = types.MethodType(value.__func__, self._copy(value.__self__, memo))
        elif kind is types.FunctionType:
            return self._copy_function(value, memo)
        elif kind is functools.partial:
            copied = functools.partial(
                self._copy(value.func, memo), *self._copy(value.args, memo), **self._copy(value.keywords, memo)
            )
        elif _is_plain_object(kind):
            copied = memo[id(value)] = object.__new__(kind)
            for name, held in iter_attributes(value):
                object.__setattr__(copied, name, self._copy(held, memo))
        else:
            return copy.deepcopy(value, memo)
        memo[id(value)] = copied
        return copied

    def _copy_function(self, function: Any, memo: dict[int, Any]) -> Any:
        """Copy a function that closes over mutable state."""
        cells: tuple[Any, ...] = function.__closure__ or ()
        copied_cells = [_make_cell(self._copy(cell.cell_contents, memo)) if _is_full(cell) else cell for cell in cells]
        same = all(
            not _is_full(a) or a.cell_contents is b.cell_contents for a, b in zip(cells, copied_cells, strict=True)
        )
        if same:
            self._shared[id(function)] = function
            return function
        copied: Any = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, tuple(copied_cells)
        )
        functools.update_wrapper(copied, function)
        copied.__kwdefaults__ = function.__kwdefaults__
        memo[id(function)] = copied
        return copied


_FAST = frozenset({type(None), bool, int, float, complex, str, bytes, type})
_ADVICE = "; if predictions only read it, or may share it, name it on its class: shared_attributes = ('{}',)"


def _has_user_class(part: Any) -> bool:
    return is_user_class(type(part))


def _iter_shared_values(module: Any) -> Iterator[Any]:
    for _, part in parts(module, BaseModule):
        for name in cast(tuple[str, ...], getattr(type(part), SHARED_ATTRIBUTES, ())):
            if hasattr(part, name):
                yield getattr(part, name)


def _iter_mutable_class_attributes(part: Any) -> Iterator[tuple[str, Any]]:
    seen = set(vars(part))
    for base in type(part).__mro__:
        for name, value in vars(base).items() if is_defined_by_user(base) else ():
            plain = (
                not name.startswith("__")
                and name not in (SHARED_ATTRIBUTES, *seen)
                and not hasattr(type(value), "__get__")
            )
            if plain and not name.startswith("_abc_") and not _is_immutable(value):
                seen.add(name)
                yield name, value


def _is_immutable(value: Any) -> bool:
    if isinstance(value, _ATOMS):
        return True
    kind = type(value)
    of_library = kind.__module__.startswith(_LIBRARIES) and not isinstance(value, _DSPY_VALUES)
    return of_library or isinstance(value, dspy.Tool)


@functools.lru_cache(maxsize=4096)
def _is_plain_object(kind: type) -> bool:
    """Check whether objects of a class consist of their attributes alone, so that they can be copied one by one."""
    standard = ("__reduce_ex__", "__reduce__", "__getstate__")
    is_standard = all(getattr(kind, name, None) is getattr(object, name, None) for name in standard)
    hooks = ("__deepcopy__", "__setstate__", "__getnewargs__", "__getnewargs_ex__")
    return is_standard and not any(hasattr(kind, name) for name in hooks) and _is_written_in_python(kind)


def _is_written_in_python(kind: type) -> bool:
    """Check whether a class holds only attributes and slots, unlike extension types."""
    slots = sum(len(_slot_names(base)) for base in kind.__mro__)
    pointer = tuple.__itemsize__
    return bool(kind.__flags__ & _HEAP_TYPE_FLAG) and kind.__basicsize__ <= object.__basicsize__ + pointer * (slots + 2)


def _slot_names(base: type) -> tuple[str, ...]:
    named: Any = vars(base).get("__slots__", ())
    names: tuple[str, ...] = (named,) if isinstance(named, str) else tuple(named)
    own = base.__name__.lstrip("_")
    return tuple(f"_{own}{name}" if name.startswith("__") and not name.endswith("__") else name for name in names)


def iter_attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield an object's attributes and filled slots."""
    yield from getattr(value, "__dict__", {}).items()
    for base in type(value).__mro__:
        for name in _slot_names(base):
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _count_buffer_bytes(value: Any) -> int:
    return int(getattr(value, "nbytes", 0) or 0) if not is_part(value) else 0


def _make_cell(content: Any) -> Any:
    return types.CellType(content)


def _is_full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _join_path(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
