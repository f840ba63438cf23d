"""Which stored results are final."""

from __future__ import annotations

import json

import pytest

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
