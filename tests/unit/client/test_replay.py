"""Replay: the same question under the same revision and program version, and what came out differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from snakepit_bridge.client.fleet_prediction import FleetPrediction
from snakepit_bridge.client.replay import Replay
from snakepit_bridge.protocol.messages import Result
from tests.unit.protocol.test_provenance import SAMPLE


def predicted(**outputs: Any) -> FleetPrediction:
    return FleetPrediction.from_result(Result(outputs, SAMPLE.encode()))


@pytest.mark.parametrize(
    ("first", "again", "differences"),
    [
        ({"answer": "a"}, {"answer": "a"}, {}),
        ({"answer": "a"}, {"answer": "b"}, {"answer": ("a", "b")}),
        ({"answer": "a", "why": "x"}, {"answer": "a", "why": "y"}, {"why": ("x", "y")}),
        ({"answer": "a", "why": "x"}, {"answer": "a"}, {"why": ("x", None)}),
        ({"answer": "a"}, {"answer": "a", "why": "x"}, {"why": (None, "x")}),
        ({"answer": [1, {"b": 2}]}, {"answer": [1, {"b": 2}]}, {}),
        ({"answer": [1, {"b": 2}]}, {"answer": [1, {"b": 3}]}, {"answer": ([1, {"b": 2}], [1, {"b": 3}])}),
        ({"answer": 1}, {"answer": "1"}, {"answer": (1, "1")}),
    ],
)
def test_only_what_differs_is_told(
    first: Mapping[str, Any], again: Mapping[str, Any], differences: Mapping[str, Any]
) -> None:
    replay = Replay({"question": "why?"}, predicted(**first), predicted(**again))
    assert replay.differences == differences
    assert list(replay.differences) == list(differences)


def test_a_provenance_is_no_difference() -> None:
    other = FleetPrediction.from_result(
        Result({"answer": "a"}, replace(SAMPLE, task_id="other", started_at=2.0).encode())
    )
    assert Replay({}, predicted(answer="a"), other).differences == {}


def test_differences_come_in_the_order_of_the_first_outputs() -> None:
    replay = Replay({}, predicted(b=1, a=1), predicted(z=1, a=2, b=2))
    assert list(replay.differences) == ["b", "a", "z"]


# ---------------------------------------------------------------- the fleet's part
