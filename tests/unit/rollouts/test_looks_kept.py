"""The looks that are kept: their form, their distance and which of them a reader gets."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from snakepit_bridge.rollouts.arm_counts import ArmCounts
from snakepit_bridge.rollouts.guard_reports import evaluate
from snakepit_bridge.rollouts.looks import MAX_LOOKS, RolloutLook, check_limit, look_interval, thin
from snakepit_bridge.rollouts.policy import parse_policy

POLICY = parse_policy({"guards": [{"metric": "error_rate", "max_increase": 0.01}]})
REPORT = evaluate(POLICY.guards[0], ArmCounts(300, {"E": 1}), ArmCounts(70, {"E": 40}), POLICY.alpha)


def test_a_look_survives_its_encoding_with_six_digits_of_what_the_guard_said() -> None:
    look = RolloutLook.of(1_700_000_000.123456, 2, [REPORT])
    assert RolloutLook.decode(look.encode().encode()) == look
    kept, exact = look.guards[0], json.loads(json.dumps(REPORT.as_dict()))
    assert kept.keys() == exact.keys()
    assert (kept["verdict"], kept["candidate"]["count"]) == ("breached", 70)
    assert kept["candidate"]["bounds"] == pytest.approx(exact["candidate"]["bounds"], rel=1e-5)
    assert len(str(kept["baseline"]["value"])) < len(str(exact["baseline"]["value"]))


def test_a_stage_of_a_month_has_fewer_looks_than_are_kept() -> None:
    elapsed_s, looks = 0.0, 0
    while elapsed_s < 35 * 86_400:
        elapsed_s, looks = elapsed_s + look_interval(elapsed_s), looks + 1
    assert 100 < looks < MAX_LOOKS / 2


@pytest.mark.parametrize("limit", [2, 3, 50, 99])
def test_looks_are_thinned_evenly_to_the_first_and_the_last(limit: int) -> None:
    looks = [RolloutLook(float(at), 1, []) for at in range(100)]
    found = thin(looks, limit)
    assert (len(found), found[0], found[-1]) == (limit, looks[0], looks[-1])
    steps = [later.at - earlier.at for earlier, later in pairwise(found)]
    assert max(steps) - min(steps) <= 1
    assert thin(looks[:limit], limit) == tuple(looks[:limit])
    assert thin(looks, 1) == (looks[-1],)


@pytest.mark.parametrize("looks", [-1, MAX_LOOKS + 1])
def test_a_number_of_looks_that_cant_be_returned_is_refused(looks: int) -> None:
    with pytest.raises(ValueError, match=f"0 to 600; got {looks}"):
        check_limit(looks)
