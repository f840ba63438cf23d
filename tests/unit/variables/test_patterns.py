"""Patterns that users write are run in time that grows with the text, or refused by name."""

from __future__ import annotations

import re
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakepit_bridge.exceptions import CheckFailedError, ValidationError
from snakepit_bridge.snapshots.checks import encode_check, enforce_checks
from snakepit_bridge.variables import Variable
from snakepit_bridge.variables.patterns import MAX_TEXT_CHARACTERS, UnfitPatternError, check_pattern, search_pattern

EXPLOSIVE = [
    r"^(a+)+$",
    r"^(a|aa)+$",
    r"(a*)*b",
    r"^(([a-z])+.)+[A-Z]([a-z])+$",
    r"(x+x+)+y",
    r"(.*)*\d",
    r"(a?){300}a{300}",
]
REFUSED = {
    "a{99999999999}": "",
    "a{1000}{1000}{1000}": "too large",
    "(" * 5_000 + ")" * 5_000: "at most",
    "(" * 400 + ")" * 400: "",
    r"(?=a)a": "look-around",
    r"(?<!a)b": "look-around",
    r"(a)\1": "backreferences",
    r"(?P<n>a)(?P=n)": "",
    "(": "",
    "[": "",
    r"\p{Nothing}": "",
    "*": "",
}


@pytest.mark.parametrize("pattern", EXPLOSIVE)
def test_a_pattern_that_would_backtrack_runs_fast(pattern: str) -> None:
    start_s = time.thread_time()
    assert search_pattern(pattern, "a" * (MAX_TEXT_CHARACTERS - 1) + "!") in (True, False)
    assert time.thread_time() - start_s < 1.0


@pytest.mark.parametrize("pattern", [r"(\w{0,9}\s?){0,60}!$", r"[a-z]{0,999}x[a-z]{0,999}!$", "(a?){999}" * 5 + "b"])
def test_every_accepted_pattern_runs_fast(pattern: str) -> None:
    start_s = time.thread_time()
    with suppress(UnfitPatternError):
        search_pattern(pattern, "ab " * (MAX_TEXT_CHARACTERS // 3))
    assert time.thread_time() - start_s < 1.0


@pytest.mark.parametrize(("pattern", "reason"), REFUSED.items(), ids=lambda part: str(part)[:20])
def test_unsupported_patterns_are_rejected_with_the_reason(pattern: str, reason: str) -> None:
    with pytest.raises(UnfitPatternError, match=reason or None):
        check_pattern(pattern)
    with pytest.raises(ValidationError, match="pattern must be a regular expression"):
        Variable.declare("v", "a", None, {"pattern": pattern})
    with pytest.raises(ValueError, match="Check 'c'"):
        encode_check("c", {"properties": {"v": {"pattern": pattern}}})
    with pytest.raises(ValueError, match="Check 'c'"):
        encode_check("c", {"allOf": [{"patternProperties": {pattern: {}}}]})


@settings(max_examples=300)
@given(st.text("ab(|)*+?.[]{}^$\\1,d-w", max_size=20), st.text("ab1 -\n", max_size=20))
def test_any_pattern_is_run_or_rejected(pattern: str, text: str) -> None:
    outcome = declared(text, pattern)
    assert outcome == text or "pattern" in outcome


def declared(text: str, pattern: str) -> str:
    """The value of a variable that a pattern bounds, or why it is rejected."""
    try:
        return Variable.declare("v", text, "string", {"pattern": pattern}).value
    except ValidationError as exc:
        return str(exc)


SHARED = [
    r"^[A-Z]{2}\d+$",
    r"foo|bar",
    r"^\w+@\w+\.com\Z",
    r"(?i)yes",
    r"(?P<n>x)y",
    r"\bword\b",
    r"^$",
    "",
    r"\\Z",
    "é+",
]


@pytest.mark.parametrize("pattern", SHARED)
@pytest.mark.parametrize("text", ["AB12", "foo", "a@b.com", "YES", "xy", "a word", "", "\\Z", "éé", "none of them"])
def test_ordinary_patterns_match_as_in_python(pattern: str, text: str) -> None:
    assert search_pattern(pattern, text) == (re.search(pattern, text) is not None)


def test_a_text_that_is_too_long_to_search_is_rejected() -> None:
    with pytest.raises(ValidationError, match="max_length"):
        Variable.declare("v", "a" * (MAX_TEXT_CHARACTERS + 1), None, {"pattern": "a"})


def test_a_stored_unsupported_pattern_is_readable_but_rejects_new_values() -> None:
    stored = Variable.decode("v", rb'{"type":"string","value":"ab","constraints":{"pattern":"(?=a)ab"}}')
    assert (stored.value, stored.constraints.pattern) == ("ab", "(?=a)ab")
    assert stored.encode() == rb'{"constraints":{"pattern":"(?=a)ab"},"type":"string","value":"ab"}'
    with pytest.raises(ValidationError, match="look-around"):
        stored.with_value("ab")


def of(**values: object) -> dict[str, Variable]:
    return {name: Variable.declare(name, value) for name, value in values.items()}


def test_checks_run_their_patterns_by_the_same_engine() -> None:
    schema = {"properties": {"v": {"pattern": "^(a+)+$"}}, "patternProperties": {"^(n+)+$": {"maximum": 1}},
              "additionalProperties": False}  # fmt: skip
    start_s = time.thread_time()
    enforce_checks("s", {"c": schema}, of(v="aaa", nnn=1))
    for wrong in ({"v": "a" * 40 + "!"}, {"nn": 2}, {"v": "a", "other": 1}, {"n" * 40 + "!": 1}):
        with pytest.raises(CheckFailedError):
            enforce_checks("s", {"c": schema}, of(**wrong))
    enforce_checks("s", {"c": {"additionalProperties": {"type": "integer"}}}, of(a=1))
    with pytest.raises(CheckFailedError):
        enforce_checks("s", {"c": {"additionalProperties": {"type": "integer"}}}, of(a="x"))
    assert time.thread_time() - start_s < 2.0


def test_a_self_referential_check_is_rejected() -> None:
    with pytest.raises(CheckFailedError, match="itself"):
        enforce_checks("s", {"c": {"$ref": "#"}}, of(a=1))
