"""Checks: what the variables of a session have to obey together, such as "no high temperature with that model".

A check is a JSON schema over the object of all values, kept with the session, or the name of a function that every
publishing process has registered. No store can judge either by itself, so the publisher does, on top of a state that
the store then compares: what it let pass is committed on that very state or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from snakepit_bridge.exceptions import CheckFailedError, known
from snakepit_bridge.variables import Variable
from snakepit_bridge.variables.codec import canonical, parse, shown
from snakepit_bridge.variables.patterns import UnfitPatternError, check_pattern
from snakepit_bridge.variables.types import Tensor, to_json

Check = Mapping[str, Any] | str
"""A JSON schema over ``{variable: value}``, or the name of a registered function."""

CheckFunction = Callable[[Mapping[str, Any]], str | None]
"""Takes all values by name and returns what is wrong with them, or None."""

# Below these stands data, and no schema.
_DATA = ("const", "enum", "default", "examples")

_functions: dict[str, CheckFunction] = {}


def register_check(name: str) -> Callable[[CheckFunction], CheckFunction]:
    """Returns a decorator that makes a function the check of that name in this process.

    The function is called with the values that a publish would lead to, on the publisher's event loop; it has to be
    quick, and the same in every process.
    """

    def register(function: CheckFunction) -> CheckFunction:
        _functions[name] = function
        return function

    return register


def written(name: str, check: Check) -> bytes:
    """Returns a check as it is kept with its session.

    Raises:
        ValueError: it is neither a name nor a JSON schema.
    """
    if isinstance(check, str):
        return canonical(check)
    # Here and below: only sessions with schemas pay for the import.
    from jsonschema import Draft202012Validator, SchemaError

    try:
        _check_patterns(check)
        Draft202012Validator.check_schema(check)
        return canonical(dict(check))
    except (SchemaError, TypeError, ValueError) as error:
        problem = error.message if isinstance(error, SchemaError) else str(error)
        raise ValueError(f"Check '{name}' is neither a JSON schema nor the name of a function: {problem}") from None


def read(data: bytes) -> Check:
    """Returns the check that ``written`` wrote."""
    return cast("Check", parse(data))


def hold(session: str, checks: Mapping[str, Check], variables: Mapping[str, Variable]) -> None:
    """Returns if the variables obey every check.

    Raises:
        CheckFailedError: the first check, by name, that they break.
    """
    for name in sorted(checks):
        check = checks[name]
        if isinstance(check, str):
            _hold_function(session, name, check, variables)
        else:
            _hold_schema(session, name, check, variables)


def _hold_function(session: str, name: str, function: str, variables: Mapping[str, Variable]) -> None:
    registered = _functions.get(function)
    if registered is None:
        problem = (
            f"its function '{function}' is not registered in this process, which has: {known(_functions)}; "
            "import the module that registers it"
        )
    else:
        problem = registered({each: variable.value for each, variable in variables.items()})
    if problem:
        raise CheckFailedError(known(variables), _values(variables), problem.rstrip("."), session, name)


def _hold_schema(session: str, name: str, schema: Mapping[str, Any], variables: Mapping[str, Variable]) -> None:
    from jsonschema.exceptions import best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    from snakepit_bridge.snapshots.schema_patterns import Validator

    document = {each: _plain(variable) for each, variable in variables.items()}
    # A registry of our own: the default one would fetch what a $ref names from the network.
    validator = Validator(schema, registry=cast("Any", Registry()))
    try:
        error: Any = best_match(validator.iter_errors(document))
    except Unresolvable as missing:
        problem = f"its schema refers to {missing.ref}, which it doesn't hold"
        raise CheckFailedError(known(variables), _values(variables), problem, session, name) from None
    except RecursionError:
        problem = "its schema refers to itself without end"
        raise CheckFailedError(known(variables), _values(variables), problem, session, name) from None
    except UnfitPatternError as exc:
        raise CheckFailedError(known(variables), _values(variables), str(exc), session, name) from exc
    if error is not None:
        where = str(error.path[0]) if error.path else known(variables)
        value = shown(error.instance) if error.path else _values(variables)
        raise CheckFailedError(where, value, str(error.message).rstrip("."), session, name)


def _check_patterns(schema: Any) -> None:
    """Return if the patterns of a schema can be run, wherever in it they stand.

    Raises:
        UnfitPatternError: one can't.
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
        if key not in _DATA:
            _check_patterns(value)


def _plain(variable: Variable) -> Any:
    """Numbers stay numbers, NaN included, so that ``maximum`` and the like apply to them."""
    if isinstance(variable.value, Tensor):
        return to_json(variable.type, variable.value)
    return list(variable.value) if isinstance(variable.value, tuple) else variable.value


def _values(variables: Mapping[str, Variable]) -> str:
    return shown({each: variable.value for each, variable in variables.items()})
