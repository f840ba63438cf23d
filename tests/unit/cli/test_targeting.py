"""What ``predict`` and ``batch`` send for rollouts and experiments to assign by, and how they name the arm."""

from __future__ import annotations

import pytest

from snakepit_bridge.cli.connection_options import build_targeting
from snakepit_bridge.cli.predict import describe_arm
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.rollouts.records import ArmAssignment


def test_a_key_and_attributes_of_json_types() -> None:
    found = build_targeting("user-42", ["plan=pro", "seats=3", "trial=false", "note=a=b"])
    assert found == {"key": "user-42", "attributes": {"plan": "pro", "seats": 3, "trial": False, "note": "a=b"}}
    assert build_targeting(None, None) == {"key": None, "attributes": None}


@pytest.mark.parametrize(
    ("key", "attributes"), [("k" * 10_000, []), (None, ["plan"]), (None, ["plan=pro", "plan=free"]), (None, ["a=[1]"])]
)
def test_what_cant_be_sent_is_refused_before_it_is(key: str | None, attributes: list[str]) -> None:
    with pytest.raises(BridgeError):
        build_targeting(key, attributes)


def test_an_arm_is_named_with_its_rollout_or_experiment() -> None:
    candidate = ArmAssignment("id", "candidate", 2, "session:demo")
    assert describe_arm(candidate.encode()) == "candidate of the rollout of session:demo, stage 2"
    warm = ArmAssignment("id", "warm", 0, "program:qa@prod", "tone")
    assert describe_arm(warm.encode()) == "warm of experiment tone on program:qa@prod"
