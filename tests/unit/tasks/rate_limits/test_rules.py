"""Which limits concern a call: the file's, the fleet's variables over them, and the session's own."""

from __future__ import annotations

import pytest

from tasks.rate_limits.rules import FLEET_SESSION, LimitValues, Rules
from tests.unit.tasks.callers import snapshot

FILE = Rules({"smart": LimitValues(requests_per_min=60, concurrency=5)})


def limits(rules: Rules, profile: str = "smart", fleet: object = None, session: object = None) -> dict[str, float]:
    found = rules.buckets_for(profile, fleet, session)  # pyright: ignore[reportArgumentType]
    return {bucket.name: bucket.limit for bucket in found}


def test_the_files_limits_hold_for_their_profile_alone() -> None:
    assert limits(FILE) == {"p:smart:requests_per_min": 60, "p:smart:concurrency": 5}
    assert limits(FILE, "other") == {}


def test_the_fleets_variables_beat_the_file_and_can_lift_a_limit() -> None:
    fleet = snapshot(
        FLEET_SESSION,
        dspex__limits__smart__requests_per_min=30,
        dspex__limits__smart__concurrency=-1,
        dspex__limits__other__tokens_per_min=1_000.0,
    )
    assert limits(FILE, fleet=fleet) == {"p:smart:requests_per_min": 30}
    assert limits(FILE, "other", fleet) == {"p:other:tokens_per_min": 1_000}


def test_a_sessions_own_limits_come_beside_its_profiles() -> None:
    own = snapshot("alice", dspex__limits__spend_per_hour=2.5, unrelated=1)
    assert limits(FILE, "other", None, own) == {"s:alice:spend_per_hour": 2.5}
    assert set(limits(FILE, "smart", None, own)) == {
        "p:smart:requests_per_min",
        "p:smart:concurrency",
        "s:alice:spend_per_hour",
    }


def test_a_newer_snapshot_is_read_and_an_older_one_not_again() -> None:
    before, after = snapshot("alice", dspex__limits__concurrency=1), snapshot("alice", dspex__limits__concurrency=2)
    assert limits(FILE, "other", None, before) == {"s:alice:concurrency": 1}
    assert limits(FILE, "other", None, after) == {"s:alice:concurrency": 2}
    assert FILE.buckets_for("other", None, after)[0] is FILE.buckets_for("other", None, after)[0]


@pytest.mark.parametrize("value", ["60", True, -2])
def test_what_is_no_limit_is_told_of_and_changes_nothing(value: object, caplog: pytest.LogCaptureFixture) -> None:
    fleet = snapshot(FLEET_SESSION, dspex__limits__smart__requests_per_min=value)
    assert limits(FILE, fleet=fleet)["p:smart:requests_per_min"] == 60
    assert "which is no limit" in caplog.text


def test_a_limit_of_nothing_is_a_limit() -> None:
    fleet = snapshot(FLEET_SESSION, dspex__limits__smart__requests_per_min=0)
    assert limits(FILE, fleet=fleet)["p:smart:requests_per_min"] == 0


def test_minutes_come_evenly_and_hours_all_at_once() -> None:
    rules = Rules({"p": LimitValues(requests_per_min=6_000, spend_per_hour=5, concurrency=3)})
    words = {bucket.name: bucket.script_args for bucket in rules.buckets_for("p", None, None)}
    *_, rate, burst = words["p:p:requests_per_min"]
    assert rate == pytest.approx(0.0975)
    assert burst == pytest.approx(24.375)
    assert words["p:p:spend_per_hour"][-2] == 0
    assert words["p:p:concurrency"][3] == 0
