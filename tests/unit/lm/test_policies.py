"""The retry policy: what it may say, how it changes, and the pauses that it gives."""

from __future__ import annotations

from typing import Any

import pytest

from snakepit_bridge.lm.policies import CircuitPolicy, RetryPolicy


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"attempts": 0}, "attempts: it must be a whole number from 1"),
        ({"attempts": True}, "attempts"),
        ({"backoff_s": -1}, "backoff_s: it must be seconds"),
        ({"longest_s": float("nan")}, "longest_s"),
        ({"in_place_s": "2"}, "in_place_s"),
        ({"on": ["auth"]}, "'auth' isn't one of rate_limit, timeout, server, transport"),
        ({"on": "server"}, "on: it must be a list"),
        ({"atempts": 2}, "atempts: there is no such field; they are attempts, backoff_s"),
    ],
)
def test_a_field_that_it_cannot_have_is_named(fields: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        RetryPolicy().with_changes(fields)


def test_only_what_is_said_changes() -> None:
    assert RetryPolicy(backoff_s=0.5).with_changes({"attempts": 7, "on": ["server"]}) == RetryPolicy(
        7, 0.5, on=("server",)
    )


def test_pauses_double_with_jitter() -> None:
    policy = RetryPolicy(backoff_s=1.0)
    for tries, base in ((1, 1.0), (2, 2.0), (3, 4.0)):
        pauses = {policy.pause_s(tries) for _ in range(50)}
        assert len(pauses) > 1
        assert 0.5 * base <= min(pauses) <= max(pauses) <= 1.5 * base


def test_a_providers_wish_is_a_lower_bound_within_the_longest_pause() -> None:
    policy = RetryPolicy(backoff_s=0.1, longest_s=60)
    assert 7.0 <= policy.pause_s(1, 7.0) <= 7.7
    assert policy.pause_s(1, 3600.0) == 60
    assert policy.pause_s(1_000) == 60


def test_a_circuit_may_be_switched_off_but_not_be_nonsense() -> None:
    assert CircuitPolicy(failures=0).failures == 0
    with pytest.raises(ValueError, match="open_s"):
        CircuitPolicy(open_s=-1)
