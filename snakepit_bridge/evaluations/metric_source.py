"""The version of a metric that is Python code: a digest of its source and of what it was given.

It covers the module that defines the metric, since metrics call functions beside them, and nothing beyond it. In a
notebook or a script, whose source is about more than the metric, it covers the metric's own source, its defaults and
what it closes over; of a function that was typed at a prompt the bytecode in place of the source.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Mapping
from types import CodeType
from typing import Any, cast

from snakepit_bridge.exceptions import MetricError
from snakepit_bridge.variables.codec import encode_canonical

_SCRIPT = "__main__"
_ASK = "give it a version: MetricSpec(…, version='1'), or metric_version='1' for a function of your own"


def digest_source(metric: Any, *, name: str) -> str:
    """Return the digest of a metric's source and state.

    Args:
        metric: a function, a class, a partial or an object that can be called.
        name: the metric's name, for the error.

    Raises:
        MetricError: it has no source that can be read, or holds what has no lasting form; ask for a version instead.
    """
    return hashlib.sha256(encode_canonical(_describe(metric, name))).hexdigest()


def _describe(metric: Any, name: str) -> list[Any]:
    if isinstance(metric, functools.partial):
        partial = cast("functools.partial[Any]", metric)
        given = {str(place): value for place, value in enumerate(partial.args)} | partial.keywords
        return [*_describe(partial.func, name), _describe_values(given, name)]
    if inspect.ismethod(metric):
        return [metric.__name__, *_describe(metric.__self__, name)]
    if inspect.isfunction(metric) or inspect.isclass(metric):
        return [metric.__qualname__, _read_source(metric, name), _describe_context(metric, name)]
    return [*_describe(type(metric), name), _describe_state(metric, name)]


def _describe_state(metric: Any, name: str) -> Any:
    """Return the attributes of an object; of a module of DSPy those that are data, and its demos and instructions."""
    attributes = {key: value for key, value in vars(metric).items() if not key.startswith("_")}
    if not hasattr(metric, "dump_state"):
        return _describe_values(attributes, name)
    data = {key: value for key, value in attributes.items() if isinstance(value, (bool, int, float, str))}
    return [data, _describe_value(metric.dump_state(), name)]


def _read_source(thing: Any, name: str) -> str:
    module = inspect.getmodule(thing)
    is_script = module is not None and (module.__name__ == _SCRIPT or not hasattr(module, "__file__"))
    try:
        return inspect.getsource(thing if is_script or module is None else module)
    except (OSError, TypeError):
        if inspect.isfunction(thing):  # typed at a prompt
            return repr(_describe_code(thing.__code__))
        raise MetricError(name, f"its source can't be read; {_ASK}") from None


def _describe_code(code: CodeType) -> list[Any]:
    return [
        code.co_code.hex(),
        code.co_names,
        code.co_varnames,
        [_describe_constant(value) for value in code.co_consts],
    ]


def _describe_constant(value: object) -> Any:
    if isinstance(value, CodeType):
        return _describe_code(value)
    # The order of a set differs from process to process.
    return sorted(map(repr, cast("frozenset[Any]", value))) if isinstance(value, frozenset) else repr(value)


def _describe_context(thing: Any, name: str) -> Any:
    """Return the defaults of a function and what it closes over."""
    if not inspect.isfunction(thing):
        return None
    enclosed = inspect.getclosurevars(thing).nonlocals
    return [_describe_values({"defaults": list(thing.__defaults__ or ())}, name), _describe_values(enclosed, name)]


def _describe_values(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: _describe_value(value, name) for key, value in values.items()}


def _describe_value(value: Any, name: str) -> Any:
    if callable(value):
        return _describe(value, name)
    try:
        encode_canonical(value)
    except (TypeError, ValueError):
        raise MetricError(name, f"it holds a {type(value).__name__}, which has no digest; {_ASK}") from None
    return value
