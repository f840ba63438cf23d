"""Checks: rules for the variables of a session together, such as "no high temperature with that model".

A check is a JSON schema over the object of all values, stored with the session, or the name of a function that every
publishing process has registered. The store can't evaluate either, so the publisher does, against a state that the
store then compares: the commit succeeds on exactly that state or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from snakepit_bridge.exceptions import CheckFailedError, join_names
from snakepit_bridge.variables import Variable
from snakepit_bridge.variables.codec import encode_canonical, parse, shorten_repr
from snakepit_bridge.variables.json_schemas import build_validator, check_schema, find_violation
from snakepit_bridge.variables.types import Tensor, to_json

Check = Mapping[str, Any] | str
"""A JSON schema over ``{variable: value}``, or the name of a registered function."""

CheckFunction = Callable[[Mapping[str, Any]], str | None]
"""Takes all values by name and returns the problem, or None."""

_functions: dict[str, CheckFunction] = {}


def register_check(name: str) -> Callable[[CheckFunction], CheckFunction]:
    """Return a decorator that registers a function as the check of a name in this process.

    The function is called with the values after a publish, on the publisher's event loop; it has to be fast, and the
    same in every process.
    """

    def register(function: CheckFunction) -> CheckFunction:
        _functions[name] = function
        return function

    return register


def encode_check(name: str, check: Check) -> bytes:
    """Encode a check for storage.

    Raises:
        ValueError: the check is neither a name nor a JSON schema.
    """
    if isinstance(check, str):
        return encode_canonical(check)
    try:
        check_schema(check)
        return encode_canonical(dict(check))
    except (TypeError, ValueError) as exc:
        raise ValueError(f"Check '{name}' is neither a JSON schema nor the name of a function: {exc}") from None


def decode_check(data: bytes) -> Check:
    """Decode a check that was encoded by ``encode_check``."""
    return cast("Check", parse(data))


def enforce_checks(session: str, checks: Mapping[str, Check], variables: Mapping[str, Variable]) -> None:
    """Evaluate every check on the variables.

    Raises:
        CheckFailedError: a check failed; the first one by name.
    """
    for name in sorted(checks):
        check = checks[name]
        if isinstance(check, str):
            _enforce_function(session, name, check, variables)
        else:
            _enforce_schema(session, name, check, variables)


def _enforce_function(session: str, name: str, function: str, variables: Mapping[str, Variable]) -> None:
    registered = _functions.get(function)
    if registered is None:
        problem = (
            f"its function '{function}' is not registered in this process, which has: {join_names(_functions)}; "
            "import the module that registers it"
        )
    else:
        problem = registered({each: variable.value for each, variable in variables.items()})
    if problem:
        raise CheckFailedError(join_names(variables), _format_values(variables), problem.rstrip("."), session, name)


def _enforce_schema(session: str, name: str, schema: Mapping[str, Any], variables: Mapping[str, Variable]) -> None:
    document = {each: _to_document(variable) for each, variable in variables.items()}
    violation = find_violation(build_validator(schema), document)
    if violation is not None:
        where = str(violation.path[0]) if violation.path else join_names(variables)
        value = shorten_repr(violation.instance) if violation.path else _format_values(variables)
        raise CheckFailedError(where, value, violation.problem, session, name)


def _to_document(variable: Variable) -> Any:
    """Return a value for the schema; numbers stay numbers, including NaN, so that ``maximum`` etc. apply."""
    if isinstance(variable.value, Tensor):
        return to_json(variable.type, variable.value)
    return list(variable.value) if isinstance(variable.value, tuple) else variable.value


def _format_values(variables: Mapping[str, Variable]) -> str:
    return shorten_repr({each: variable.value for each, variable in variables.items()})
