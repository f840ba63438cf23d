"""Parse and format the field types of a signature as text, without evaluating anything.

DSPy imports unknown type names of a signature string, so a string from outside could run code. Here a type is parsed
into a syntax tree, and only known names and allowed import paths are resolved.
"""

from __future__ import annotations

import ast
import datetime
import decimal
import types
import typing
import uuid
from typing import Any, Literal, cast

import dspy
import dspy.experimental

from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.imports import AllowedImports

_MAX_TEXT = 4_000
_MAX_DEPTH = 24

_NAMES: dict[str, Any] = {
    "str": str, "int": int, "float": float, "bool": bool, "bytes": bytes, "list": list, "dict": dict, "set": set,
    "tuple": tuple, "frozenset": frozenset, "Any": Any, "None": type(None), "NoneType": type(None),
    "date": datetime.date, "datetime": datetime.datetime, "time": datetime.time,
    "dspy.History": dspy.History, "dspy.Image": dspy.Image, "dspy.Audio": dspy.Audio, "dspy.Code": dspy.Code,
    "dspy.Tool": dspy.Tool, "dspy.ToolCalls": dspy.ToolCalls, "dspy.ToolCallResults": dspy.ToolCallResults,
    "dspy.File": dspy.File, "dspy.Reasoning": dspy.Reasoning, "dspy.experimental.Document": dspy.experimental.Document,
    "dspy.experimental.Citations": dspy.experimental.Citations, "timedelta": datetime.timedelta,
    "Decimal": decimal.Decimal, "UUID": uuid.UUID, "object": object, "complex": complex,
}  # fmt: skip

_NAMES_BY_ID = {id(kind): name for name, kind in reversed(_NAMES.items())}
_MODULES = ("typing.", "datetime.", "decimal.", "uuid.")
_GENERIC = ("list", "dict", "set", "tuple", "frozenset")
_LITERAL = (str, int, bool, type(None))


def parse_type(text: str, allowed: AllowedImports, *, program: str, where: str) -> Any:
    """Return the type that a text such as ``list[str]``, ``Literal['a', 'b']`` or ``int | None`` means.

    Raises:
        ProgramSpecError: the text isn't a type, or names one that isn't allowed.
    """
    if len(text) > _MAX_TEXT:
        raise ProgramSpecError(program, where, f"a type of {len(text)} characters is longer than {_MAX_TEXT}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ProgramSpecError(program, where, f"{text[:80]!r} isn't a type") from None
    return _Parser(text, allowed, program, where).read(tree, 0)


class _Parser:
    def __init__(self, text: str, allowed: AllowedImports, program: str, where: str) -> None:
        self._text, self._allowed, self._program, self._where = text[:80], allowed, program, where

    def read(self, node: ast.expr, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise self._error("is nested too deeply")
        match node:
            case ast.Constant(value=None):
                return type(None)
            case ast.Name() | ast.Attribute():
                return self._read_name(node)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return _unite(self.read(left, depth + 1), self.read(right, depth + 1))
            case ast.Subscript(value=base, slice=inner):
                return self._read_generic(self._read_dotted_name(base), inner, depth)
            case _:
                raise self._error("isn't a type")

    def _read_generic(self, base: str, inner: ast.expr, depth: int) -> Any:
        items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        base = base.removeprefix("typing.")
        if base == "Literal":
            return Literal[tuple(self._read_literal(item) for item in items)]
        if base == "dspy.Code":
            return self._read_code(items)
        given = [... if _is_ellipsis(item) else self.read(item, depth + 1) for item in items]
        if base in ("Optional", "Union"):
            return _unite(*given, type(None)) if base == "Optional" else _unite(*given)
        if base.lower() not in _GENERIC:
            raise self._error(f"gives '{base}' parameters that it doesn't take")
        return _NAMES[base.lower()][tuple(given)]

    def _read_code(self, items: list[ast.expr]) -> Any:
        """Return the type of ``dspy.Code['python']``, whose language is part of its name."""
        [language] = items if len(items) == 1 else [None]
        if not isinstance(language, ast.Constant) or not isinstance(language.value, str):
            raise self._error("has a dspy.Code of no language, which is a text in brackets")
        return cast(Any, dspy.Code)[language.value]

    def _read_literal(self, node: ast.expr) -> Any:
        negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        value = node.operand if isinstance(node, ast.UnaryOp) and negative else node
        if isinstance(value, ast.Constant) and isinstance(value.value, _LITERAL):
            return -cast(int, value.value) if negative else value.value
        raise self._error("has a Literal of something else than texts, whole numbers and flags")

    def _read_name(self, node: ast.expr) -> Any:
        name = self._read_dotted_name(node)
        for module in _MODULES:
            name = name.removeprefix(module)
        if name in _NAMES:
            return _NAMES[name]
        if name.lower() in _GENERIC:  # typing's own spelling
            return _NAMES[name.lower()]
        if "." not in name:
            raise self._error(f"has no known type '{name}'; name your own as package.module.Name")
        found = self._allowed.load(name, program=self._program, where=self._where)
        if not isinstance(found, type):
            raise self._error(f"names '{name}', which isn't a class")
        return found

    def _read_dotted_name(self, node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            return f"{self._read_dotted_name(node.value)}.{node.attr}"
        if isinstance(node, ast.Name):
            return node.id
        raise self._error("isn't a type")

    def _error(self, why: str) -> ProgramSpecError:
        return ProgramSpecError(self._program, self._where, f"{self._text!r} {why}")


def _unite(*members: Any) -> Any:
    """Return the union of types, in their order.

    ``typing`` caches unions by equality, and ``int | str`` equals ``str | int``: a union of unions could come back in
    the order of another program's type, and change what a prompt says. So members that are unions are spread out.
    """
    flat = [part for member in members for part in (typing.get_args(member) if _is_union(member) else (member,))]
    return typing.Union[tuple(flat)]  # noqa: UP007


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def format_type(kind: Any, *, program: str, where: str) -> str:
    """Return the text that :func:`parse_type` reads as the same type.

    Raises:
        ProgramSpecError: the type has no name that another process could import.
    """
    if id(kind) in _NAMES_BY_ID:
        return _NAMES_BY_ID[id(kind)]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return f"Literal[{', '.join(repr(argument) for argument in arguments)}]"
    spelt = ["..." if a is ... else format_type(a, program=program, where=where) for a in arguments]
    if _is_union(kind):
        return " | ".join(spelt)
    if origin is not None and id(origin) in _NAMES_BY_ID:
        return f"{_NAMES_BY_ID[id(origin)]}[{', '.join(spelt)}]"
    if isinstance(kind, type) and dspy.Code in kind.__bases__ and kind.__name__ == f"Code_{kind.language}":
        return f"dspy.Code[{kind.language!r}]"
    if isinstance(kind, type) and "<" not in kind.__qualname__ and kind.__module__ != "__main__":
        return f"{kind.__module__}.{kind.__qualname__}"
    raise ProgramSpecError(program, where, f"{kind!r} can't be imported by its name; define it in a module")
