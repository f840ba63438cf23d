"""How figures are written: with their units, without exponents, and with digits that say something."""

from __future__ import annotations

import math

import pytest

from snakepit_bridge.rollouts.units import FORMATS, format_duration, format_interval


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("share", 0.0123, "1.23 %"),
        ("share", 1.0, "100 %"),
        ("s", 0.0741, "74 ms"),
        ("s", 12.345, "12.3 s"),
        ("USD", 0, "$0.00"),
        ("USD", 0.0000646, "$0.0000646"),
        ("USD", 0.155, "$0.155"),
        ("USD", 0.1, "$0.1"),
        ("USD", 12.3, "$12.30"),
        ("score", 0.8999, "0.9"),
    ],
)
def test_a_value_of_each_unit(unit: str, value: float, text: str) -> None:
    assert FORMATS[unit](value) == text


def test_an_interval_has_its_bounds_and_its_count() -> None:
    assert format_interval(0.01, 0.005, math.inf, 20_000, "share") == "1 % (0.5 % to ∞) of 20,000"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (130, "2 min 10 s"), (3_600, "1 h"), (11_100, "3 h 5 min"),
     (187_200, "2 d 4 h")],
)  # fmt: skip
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
