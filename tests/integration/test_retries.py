"""What becomes of an LM call that went wrong, on a real worker: by kind, in place or through the broker, elsewhere."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.exceptions import (
    BridgeError,
    LMAnswerError,
    LMRefusedError,
    LMUnavailableError,
    ValidationError,
)
from snakepit_bridge.protocol.token import Token
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, Stopwatch, wait_until, within

SOON_S = 30

_PROFILES = """
[profiles.smart]
model = "openai/smart"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
fallbacks = ["demo"]
limits = {{ timeout_s = 5 }}

[profiles.patient]
model = "openai/patient"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
retry = {{ attempts = 3, in_place_s = 0, backoff_s = 0.3 }}

[profiles.calm]
model = "openai/calm"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"

[profiles.rude]
model = "openai/rude"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"

[profiles.fragile]
model = "openai/fragile"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
fallbacks = ["demo"]
circuit = {{ failures = 2, open_s = 1 }}
"""


@pytest.fixture(scope="module", params=["threads", "asyncio"])
def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    folder: Path = tmp_path_factory.mktemp("retries")
    with stage(folder, pool=request.param, more_profiles=_PROFILES) as playing:
        playing.fleet.register("qa", dspy.Predict("question -> answer"))
        for name in ("smart", "patient", "fragile", "calm", "rude"):
            playing.fleet.register(f"on-{name}", dspy.Predict("question -> answer"), lm=name)
        yield playing


def ask(play: Stage, program: str, question: str, **options: Any) -> Any:
    return play.fleet.submit(program, {"question": question}, **options)


def publish(play: Stage, session: str, policy: str) -> Token:
    return play.fleet.session(session).blocking.set_variables({"dspex.retry": policy})


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 503}, {"status": 429}, {"status": 408}])
def test_what_another_try_may_mend_is_tried_again(play: Stage, fault: dict[str, Any]) -> None:
    question = fresh("q")
    play.lm.fail(1, containing=question, **fault)
    prediction = ask(play, "qa", question).get(SOON_S)

    assert prediction.answer == f"answer of {question}"
    provenance = prediction.provenance
    assert (provenance.failed_tries, dict(provenance.answered), provenance.attempt) == (1, {"demo": 1}, 1)
    assert [sent.status for sent in play.requests_with(question)] == [fault["status"], 200]


def test_a_connection_that_breaks_is_tried_again(play: Stage) -> None:
    question = fresh("q")
    play.lm.drop(2, containing=question)
    assert ask(play, "qa", question).get(SOON_S).provenance.failed_tries == 2


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_what_no_try_mends_is_not_tried_again(play: Stage, status: int) -> None:
    question = fresh("q")
    play.lm.fail(None, status=status, containing=question)
    with pytest.raises(LMRefusedError) as refused:
        ask(play, "qa", question).get(SOON_S)

    assert refused.value.status == status
    assert len(play.requests_with(question)) == 1


def test_an_account_without_credit_is_not_tried_again(play: Stage) -> None:
    question = fresh("q")
    body = {
        "error": {"message": "You exceeded your quota.", "type": "insufficient_quota", "code": "insufficient_quota"}
    }
    play.lm.fail(None, status=429, body=body, containing=question)
    with pytest.raises(LMRefusedError, match="billing"):
        ask(play, "qa", question).get(SOON_S)
    assert len(play.requests_with(question)) == 1


def test_an_answer_that_cannot_be_parsed_is_asked_for_in_json_and_not_again(play: Stage) -> None:
    question = fresh("q")
    play.lm.garble(None, containing=question)
    with pytest.raises(LMAnswerError):
        ask(play, "qa", question).get(SOON_S)
    assert len(play.requests_with(question)) == 2


def test_the_error_says_what_was_tried(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(None, status=500, containing=question)
    with pytest.raises(LMUnavailableError, match=r"\(HTTP 500\) after 3 tries") as failed:
        ask(play, "qa", question).get(SOON_S)

    error = failed.value
    assert (error.profile, error.tries, error.status, error.code) == ("demo", 3, 500, "server")
    assert len(play.requests_with(question)) == 3


def test_a_short_retry_after_is_waited_for_and_no_try_comes_sooner(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(1, status=429, retry_after_s=1, containing=question)
    assert ask(play, "on-calm", question).get(SOON_S).provenance.attempt == 1

    first, second = play.requests_with(question)
    assert second.received_at - first.received_at >= 1.0


# ---------------------------------------------------------------- long pauses: no slot is held


def test_a_long_retry_after_parks_the_task_with_the_broker(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(1, status=429, retry_after_s=3, containing=question)
    handle = ask(play, "on-calm", question)
    play.await_asked(question)
    wait_until(lambda: handle.status == "RETRY", "the task is parked")
    # All four places of the worker are free meanwhile; only the profile itself is paused.
    others = [ask(play, "on-smart", fresh("other")) for _ in range(4)]
    with within(2.5):
        assert all(other.get(PATIENCE_S).answer for other in others)

    provenance = handle.get(SOON_S).provenance
    assert (provenance.attempt, provenance.failed_tries) == (2, 1)
    first, second = play.requests_with(question)
    assert second.received_at - first.received_at >= 3.0


def test_tries_are_counted_over_all_deliveries(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(None, status=503, containing=question)
    with pytest.raises(LMUnavailableError, match="after 3 tries"):
        ask(play, "on-patient", question).get(SOON_S)
    assert len(play.requests_with(question)) == 3
    cause = f"LMUnavailableError: LM profile 'patient' (openai/patient) at {play.lm.url}: HTTP 503"
    assert cause in play.worker.logs()


def test_no_try_is_made_that_would_come_after_the_deadline(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(None, status=429, retry_after_s=30, containing=question)
    began = Stopwatch()
    with pytest.raises(LMUnavailableError):
        ask(play, "on-rude", question, deadline=5.0).get(SOON_S)
    assert began.elapsed_s < 5
    assert len(play.requests_with(question)) == 1


# ---------------------------------------------------------------- fallbacks and circuits


def test_a_fallback_answers_while_the_profile_cannot(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(1, status=503, containing=question)
    provenance = ask(play, "on-smart", question).get(SOON_S).provenance

    assert (provenance.profile, dict(provenance.answered)) == ("smart", {"demo": 1})
    assert [sent.model for sent in play.requests_with(question)] == ["smart", "demo"]


def test_a_request_that_the_profile_refuses_goes_to_no_fallback(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(1, status=400, containing=question)
    with pytest.raises(LMRefusedError):
        ask(play, "on-smart", question).get(SOON_S)
    assert len(play.requests_with(question)) == 1


def test_a_profile_that_keeps_failing_is_left_alone_and_tried_again_later(play: Stage) -> None:
    tag = fresh("fragile")
    for question in (f"{tag} one", f"{tag} two"):
        play.lm.fail(1, status=500, containing=question)

    def models(question: str) -> list[str]:
        assert ask(play, "on-fragile", question).get(SOON_S).answer
        return [sent.model for sent in play.requests_with(question)]

    assert models(f"{tag} one") == ["fragile", "demo"]
    assert models(f"{tag} two") == ["fragile", "demo"]
    assert models(f"{tag} three") == ["demo"], "its circuit is open"
    wait_until(lambda: models(f"{tag} {fresh('later')}") == ["fragile"], "the circuit closes again")


# ---------------------------------------------------------------- the policy is data


def test_a_session_changes_the_policy(play: Stage) -> None:
    question, session = fresh("q"), fresh("s")
    token = publish(play, session, json.dumps({"attempts": 5, "backoff_s": 0.01}))
    play.lm.fail(4, status=503, containing=question)
    assert ask(play, "qa", question, session=session, at_least=token).get(SOON_S).provenance.failed_tries == 4

    question = fresh("q")
    token = publish(play, session, json.dumps({"on": ["timeout"]}))
    play.lm.fail(None, status=503, containing=question)
    with pytest.raises(BridgeError):
        ask(play, "qa", question, session=session, at_least=token).get(SOON_S)
    assert len(play.requests_with(question)) == 1


@pytest.mark.parametrize("policy", ["5", "{", '{"atempts": 3}', '{"attempts": 0}'])
def test_a_policy_that_cannot_be_is_refused_before_the_lm_is_asked(play: Stage, policy: str) -> None:
    question, session = fresh("q"), fresh("s")
    publish(play, session, policy)
    with pytest.raises(ValidationError, match=r"dspex\.retry"):
        ask(play, "qa", question, session=session).get(SOON_S)
    assert play.requests_with(question) == []


def test_nothing_that_is_parked_stays_for_ever(play: Stage) -> None:
    with Redis.from_url(play.url) as client:
        assert not [key for key in client.scan_iter("celery-task-meta-*") if client.ttl(key) == -1]
