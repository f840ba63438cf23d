"""Provenance travels whole, and a newer worker's additions don't break an older client."""

from __future__ import annotations

import dataclasses
import json

import pytest

from snakepit_bridge.protocol.provenance import Provenance, Timings

SAMPLE = Provenance(
    task_id="task",
    session="s",
    token="5.2",
    requirement="at_least=5.1",
    variables={"temp": 0.5, "weights": [0.1, 0.2]},
    program="qa",
    version=3,
    digest="ab" * 32,
    module="ChainOfThought",
    model="openai/gpt-4o",
    profile="smart",
    usage={"openai/gpt-4o": {"total_tokens": 12}},
    attempt=2,
    worker="worker@host",
    pid=4711,
    started_at=1764000000.25,
    timings=Timings(1.0, 0.5, 0.25, 100.0),
    arms=[{"rollout": "r1", "arm": "candidate", "stage": 1, "target": "session:s"}],
)


def test_provenance_survives_json() -> None:
    assert Provenance.decode(json.loads(json.dumps(SAMPLE.encode()))) == SAMPLE


def test_a_trace_is_named_if_there_is_one() -> None:
    traced = dataclasses.replace(SAMPLE, trace_id="0af7651916cd43dd8448eb211c80319c")
    assert Provenance.decode(traced.encode()) == traced
    assert "trace_id" not in SAMPLE.encode()


def test_the_first_arm_is_at_hand() -> None:
    assert (SAMPLE.rollout, SAMPLE.arm) == ("r1", "candidate")
    unassigned = dataclasses.replace(SAMPLE, arms=[])
    assert (unassigned.rollout, unassigned.arm) == ("", "")


def test_fields_of_a_newer_worker_are_ignored() -> None:
    assert Provenance.decode({**SAMPLE.encode(), "moon_phase": "full"}) == SAMPLE


def test_timings_of_a_newer_worker_are_ignored() -> None:
    encoded = SAMPLE.encode()
    assert Provenance.decode({**encoded, "timings": {**encoded["timings"], "coffee_ms": 3.0}}) == SAMPLE


def test_decoding_does_not_modify_the_message() -> None:
    encoded = SAMPLE.encode()
    before = json.dumps(encoded)
    Provenance.decode(encoded)
    assert json.dumps(encoded) == before


def test_provenance_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SAMPLE.token = "9.9"  # pyright: ignore[reportAttributeAccessIssue]
