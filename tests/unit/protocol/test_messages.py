"""What travels: requirements, requests and results, with their defaults left out and their versions checked."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from celery.states import READY_STATES

from snakepit_bridge.protocol.messages import (
    DEFAULT_SESSION,
    FINAL_STATES,
    PREDICT,
    VERSION,
    PredictionRequest,
    Requirement,
    Result,
    is_final,
    is_result,
)
from snakepit_bridge.protocol.token import Token

TOKEN = Token(5, 2)


@pytest.mark.parametrize(
    ("requirement", "text"),
    [
        (Requirement(), "latest"),
        (Requirement("at_least", TOKEN), "at_least=5.2"),
        (Requirement("exactly", TOKEN), "exactly=5.2"),
    ],
)
def test_a_requirement_survives_its_text_form(requirement: Requirement, text: str) -> None:
    assert str(requirement) == text
    assert Requirement.parse(text) == requirement


def test_a_requirement_is_built_from_the_public_keywords() -> None:
    assert Requirement.of() == Requirement("latest")
    assert Requirement.of(at_least=TOKEN) == Requirement.of(at_least="5.2") == Requirement("at_least", TOKEN)
    assert Requirement.of(exactly="5.2") == Requirement("exactly", TOKEN)
    with pytest.raises(ValueError, match=r"at_least= or exactly=, not both"):
        Requirement.of(TOKEN, TOKEN)


@pytest.mark.parametrize("text", ["", "newest", "at_least", "exactly=", "latest=1.2", "at_least=new", "exactly:1.2"])
def test_an_invalid_requirement_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Requirement.parse(text)


def test_defaults_are_omitted_from_the_message() -> None:
    assert PredictionRequest("qa", {}).keywords() == {"v": VERSION}
    full = PredictionRequest("qa", {}, "s", Requirement("exactly", TOKEN), 12.5, {"text": "answer"})
    assert full.keywords() == {
        "v": VERSION,
        "session": "s",
        "requirement": "exactly=5.2",
        "deadline": 12.5,
        "take": {"text": "answer"},
    }
    assert json.loads(json.dumps(full.keywords())) == full.keywords()
    assert PredictionRequest("qa", {}, DEFAULT_SESSION).keywords() == {"v": VERSION}


def test_a_request_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PredictionRequest("qa", {}).program = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_result_survives_json() -> None:
    result = Result({"answer": [1, {"a": None}]}, {"token": "1.1"}, {"question": "why?"})
    assert Result.decode(json.loads(json.dumps(result.encode()))) == result


def test_a_result_of_another_version_is_rejected() -> None:
    newer: dict[str, Any] = {**Result({}, {}).encode(), "v": VERSION + 1}
    with pytest.raises(ValueError, match=rf"version {VERSION + 1}, this client reads {VERSION}\. Upgrade it"):
        Result.decode(newer)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Result({}, {}).encode(), True),
        ({"question": "why?"}, False),
        ({"v": 1, "outputs": {}}, False),
        ([], False),
        (None, False),
        ("v outputs provenance", False),
    ],
)
def test_a_previous_result_is_distinguished_from_plain_inputs(value: Any, expected: bool) -> None:
    assert is_result(value) is expected


def test_the_task_has_the_name_that_clients_of_other_languages_use() -> None:
    assert PREDICT == "tasks.predict"


def stored(state: str) -> bytes:
    return json.dumps({"status": state, "result": None}).encode()


def test_the_final_states_are_celerys() -> None:
    assert FINAL_STATES == READY_STATES


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED"])
def test_the_result_of_a_finished_task_is_final(state: str) -> None:
    assert is_final(stored(state))


@pytest.mark.parametrize("state", ["PENDING", "STARTED", "RETRY"])
def test_the_result_of_a_task_in_progress_is_not_final(state: str) -> None:
    assert not is_final(stored(state))


def test_a_missing_result_is_not_final() -> None:
    assert not is_final(None)
