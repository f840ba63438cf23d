"""Schemas that users write: what is wrong with a document, and what no schema may be or do."""

from __future__ import annotations

import math
from typing import Any

import pytest

from snakepit_bridge.variables.json_schemas import SchemaViolation, build_validator, check_schema, find_violation


def violation(schema: dict[str, Any], document: Any) -> SchemaViolation | None:
    check_schema(schema)
    return find_violation(build_validator(schema), document)


def test_a_document_that_fits_has_no_violation() -> None:
    assert violation({"properties": {"a": {"maximum": 2}}}, {"a": 1}) is None


def test_a_violation_says_what_is_wrong_and_where() -> None:
    schema = {"properties": {"a": {"maximum": 2}}, "required": ["b"]}
    assert violation(schema, {"a": 3, "b": 1}) == SchemaViolation("3 is greater than the maximum of 2", ("a",), 3)
    assert violation(schema, {"a": 1}) == SchemaViolation("'b' is a required property")


@pytest.mark.parametrize(
    ("schema", "document", "problem"),
    [
        ({"$ref": "#"}, {}, "refers to itself"),
        ({"$ref": "http://nowhere.example/x"}, {}, "which it doesn't hold"),
        ({"properties": {"a": {"pattern": "x"}}}, {"a": "x" * 200_000}, "too long for a pattern"),
        ({"properties": {"a": {"multipleOf": 0.1}}}, {"a": math.inf}, "has no answer"),
        ({"properties": {"a": {"multipleOf": 0.1}}}, {"a": math.nan}, "has no answer"),
    ],
)
def test_what_can_not_be_evaluated_is_a_violation(schema: dict[str, Any], document: Any, problem: str) -> None:
    found = violation(schema, document)
    assert found is not None
    assert problem in found.problem


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "nonsense"}, "is not valid"),
        ({"properties": {"a": {"pattern": "(?=a)"}}}, "look-around"),
        ({"patternProperties": {"(a)\\1": {}}}, "backreferences"),
        ({"unevaluatedProperties": False}, "use additionalProperties"),
    ],
)
def test_what_is_no_schema_is_rejected(schema: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_schema(schema)


def test_a_schema_that_is_nested_too_deeply_is_rejected() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5_000):
        schema = {"not": schema}
    with pytest.raises(ValueError, match="nested too deeply"):
        check_schema(schema)
