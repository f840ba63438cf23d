"""Which stored results are final, for Python and for scripts."""

from __future__ import annotations

import json

import pytest
from redis import Redis

from snakepit_bridge.client.lua import FINAL_STATE
from snakepit_bridge.protocol.task_state import is_final


def stored(state: str) -> bytes:
    return json.dumps({"status": state, "result": None}).encode()


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED"])
def test_the_result_of_a_finished_task_is_final(state: str) -> None:
    assert is_final(stored(state))


@pytest.mark.parametrize("state", ["PENDING", "STARTED", "RETRY"])
def test_the_result_of_a_task_in_progress_is_not_final(state: str) -> None:
    assert not is_final(stored(state))


def test_a_missing_result_is_not_final() -> None:
    assert not is_final(None)


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED", "PENDING", "STARTED", "RETRY"])
def test_scripts_agree_on_what_is_final(redis_url: str, state: str) -> None:
    script = f"{FINAL_STATE}\nreturn final_state(ARGV[1]) or ''"
    with Redis.from_url(redis_url, decode_responses=True) as client:
        found = client.eval(script, 0, stored(state))
    assert found == (state if is_final(stored(state)) else "")
