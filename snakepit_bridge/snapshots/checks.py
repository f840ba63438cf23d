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
from snakepit_bridge.variables.patterns import UnfitPatternError, check_pattern
from snakepit_bridge.variables.types import Tensor, to_json

Check = Mapping[str, Any] | str
"""A JSON schema over ``{variable: value}``, or the name of a registered function."""

CheckFunction = Callable[[Mapping[str, Any]], str | None]
"""Takes all values by name and returns the problem, or None."""

# Keywords whose values are data, not schemas.
_DATA_KEYWORDS = ("const", "enum", "default", "examples")

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
    # Imported here and below, so that only sessions with schemas pay for it.
    from jsonschema import Draft202012Validator, SchemaError

    try:
        _check_patterns(check)
        Draft202012Validator.check_schema(check)
        return encode_canonical(dict(check))
    except (SchemaError, TypeError, ValueError) as exc:
        problem = exc.message if isinstance(exc, SchemaError) else str(exc)
        raise ValueError(f"Check '{name}' is neither a JSON schema nor the name of a function: {problem}") from None


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
    from jsonschema.exceptions import best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    from snakepit_bridge.snapshots.schema_patterns import Validator

    document = {each: _to_document(variable) for each, variable in variables.items()}
    # An empty registry: the default one would fetch remote references from the network.
    validator = Validator(schema, registry=cast("Any", Registry()))
    try:
        error: Any = best_match(validator.iter_errors(document))
    except Unresolvable as exc:
        problem = f"its schema refers to {exc.ref}, which it doesn't hold"
        raise CheckFailedError(join_names(variables), _format_values(variables), problem, session, name) from None
    except RecursionError:
        problem = "its schema refers to itself without end"
        raise CheckFailedError(join_names(variables), _format_values(variables), problem, session, name) from None
    except UnfitPatternError as exc:
        raise CheckFailedError(join_names(variables), _format_values(variables), str(exc), session, name) from exc
    if error is not None:
        where = str(error.path[0]) if error.path else join_names(variables)
        value = shorten_repr(error.instance) if error.path else _format_values(variables)
        raise CheckFailedError(where, value, str(error.message).rstrip("."), session, name)


def _check_patterns(schema: Any) -> None:
    """Check that all patterns in a schema can be run.

    Raises:
        UnfitPatternError: a pattern can't be run.
    """
    if isinstance(schema, list):
        for item in cast("list[Any]", schema):
            _check_patterns(item)
    if not isinstance(schema, Mapping):
        return
    for key, value in cast("Mapping[str, Any]", schema).items():
        patterns = [value] if key == "pattern" else list(value) if key == "patternProperties" else []
        for pattern in patterns:
            if isinstance(pattern, str):
                check_pattern(pattern)
        if key == "unevaluatedProperties":
            raise UnfitPatternError("unevaluatedProperties isn't supported; use additionalProperties")
        if key not in _DATA_KEYWORDS:
            _check_patterns(value)


def _to_document(variable: Variable) -> Any:
    """Return a value for the schema; numbers stay numbers, including NaN, so that ``maximum`` etc. apply."""
    if isinstance(variable.value, Tensor):
        return to_json(variable.type, variable.value)
    return list(variable.value) if isinstance(variable.value, tuple) else variable.value


def _format_values(variables: Mapping[str, Variable]) -> str:
    return shorten_repr({each: variable.value for each, variable in variables.items()})
