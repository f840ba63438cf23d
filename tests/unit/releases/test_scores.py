"""What a score may be, and what is refused by name."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest

from snakepit_bridge.exceptions import ScoreError
from snakepit_bridge.releases.scores import Score, read_arms
from snakepit_bridge.rollouts.records import ArmAssignment
from tests.unit.protocol.test_provenance import SAMPLE


@pytest.mark.parametrize(
    ("value", "kept", "kind"),
    [
        (0, 0.0, "number"),
        (0.25, 0.25, "number"),
        (1, 1.0, "number"),
        (Decimal("0.5"), 0.5, "number"),
        (True, True, "boolean"),
        (False, False, "boolean"),
        ("good", "good", "label"),
        ("très bien: l'été", "très bien: l'été", "label"),
        ("x" * 100, "x" * 100, "label"),
    ],
)
def test_a_value_is_a_number_a_boolean_or_a_label(value: Any, kept: Any, kind: str) -> None:
    score = Score.check("helpful", value)
    assert (score.value, type(score.value), score.kind) == (kept, type(kept), kind)
    assert Score.decode(score.encode()) == score


@pytest.mark.parametrize(
    "value",
    [-0.01, 1.01, 2, math.nan, math.inf, -math.inf, 10**400, None, [], {}, b"good", 1j, "", "  ", "x" * 101, "a\nb",
     "a\x00b", "\ud800"],
)  # fmt: skip
def test_another_value_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ScoreError, match="^The score's value is refused: ") as refused:
        Score.check("helpful", value)
    assert refused.value.field == "value"
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("name", ["", " ", "1st", "a b", "a:b", "x" * 65, "ü", "name\n", None, 7])
def test_a_name_has_the_form_of_a_label(name: Any) -> None:
    with pytest.raises(ScoreError, match="name"):
        Score.check(name, 1.0)


def test_a_comment_and_a_scorer_are_bounded() -> None:
    longest = Score.check("helpful", 1.0, "é" * 2_048, "x" * 100)
    assert Score.decode(longest.encode()) == longest
    for comment in ("é" * 2_049, "\ud800", None):
        with pytest.raises(ScoreError, match="comment"):
            Score.check("helpful", 1.0, comment)
    for scorer in ("x" * 101, "", "a\nb", "\udfff", 7):
        with pytest.raises(ScoreError, match="scorer"):
            Score.check("helpful", 1.0, "", scorer)


def test_the_arms_of_a_prediction_are_in_its_provenance() -> None:
    arm = {"rollout": "r1", "arm": "candidate", "stage": 2, "target": "session:s", "colour": "of a newer worker"}
    assert read_arms({"arms": [arm]}) == [ArmAssignment("r1", "candidate", 2, "session:s")]
    assert read_arms({**SAMPLE.encode(), "arms": []}) == []
    assert read_arms({}) == []
