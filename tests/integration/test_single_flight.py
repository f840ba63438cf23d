"""Programs that share answers: one provider call for all who ask the same, over processes, and no answer unparsed."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.handle import Handle
from snakepit_bridge.exceptions import LMAnswerError, LMRefusedError, PredictionCancelledError
from tests.harness.stage import LM_KEY, Stage, fresh, stage
from tests.harness.waiting import Stopwatch, wait_until

SOON_S = 30
OTHERS = "predictions.others"
_PROFILES = """
[profiles.elsewhere]
model = "openai/demo"
api_base = "{url}/"
api_key_env = "STAGE_LM_KEY"
"""


class InAThread(dspy.Module):
    """Has no ``acall`` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        """Ask."""
        return self.ask(question=question)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    folder: Path = tmp_path_factory.mktemp("flights")
    with stage(folder, worker=False, more_profiles=_PROFILES, DSPEX_ALLOWED_PACKAGES="tests") as playing:
        playing.fleet._allowed = ("tests",)
        playing.start(pool="asyncio", concurrency=16)
        playing.start(pool="threads", concurrency=8, queues=(OTHERS,))
        shared = {"ttl_s": 60}
        playing.fleet.register("plain", dspy.Predict("question -> answer"))
        playing.fleet.register("shared", dspy.Predict("question -> answer"), cache=shared)
        playing.fleet.register("elsewhere", dspy.Predict("question -> answer"), cache=shared, lm="elsewhere")
        playing.fleet.register("of-all", dspy.Predict("question -> answer"), cache={"ttl_s": 60, "share": "fleet"})
        playing.fleet.register("warm", dspy.Predict("question -> answer"), {"temperature": "temp"}, cache=shared)
        playing.fleet.register("in-a-thread", InAThread(), cache=shared)
        yield playing


def ask(play: Stage, program: str, question: str, **options: Any) -> Handle:
    return play.fleet.submit(program, {"question": question}, **options)


def count(play: Stage, question: str) -> int:
    return len(play.requests_with(question))


# ---------------------------------------------------------------- one call for all


def test_all_who_ask_the_same_at_a_time_over_two_processes_make_one_call(play: Stage) -> None:
    question = fresh("q")
    play.lm.delay(0.5)
    try:
        handles = [ask(play, "shared", question) for _ in range(4)]
        others = Fleet(play.url, queue=OTHERS, wait_s=SOON_S)
        handles += [others.submit("shared", {"question": question}) for _ in range(8)]
        answers = [handle.get(SOON_S) for handle in handles]
    finally:
        play.lm.faults.clear()

    assert {answer.answer for answer in answers} == {f"answer of {question}"}
    assert len({answer.provenance.pid for answer in answers}) == 2
    assert count(play, question) == 1
    provenances = [answer.provenance for answer in answers]
    assert sum(sum(provenance.answered.values()) for provenance in provenances) == 1
    assert sum(provenance.cached + provenance.shared for provenance in provenances) == 11
    # What was shared cost nothing.
    assert sum(1 for provenance in provenances if any(provenance.usage.values())) == 1


def test_an_answer_is_kept_and_the_provenance_says_so(play: Stage) -> None:
    question = fresh("q")
    first, second = (ask(play, "shared", question).get(SOON_S) for _ in range(2))

    assert first.answer == second.answer
    assert (first.provenance.cached, second.provenance.cached) == (0, 1)
    assert count(play, question) == 1


def test_without_the_field_every_call_is_a_request(play: Stage) -> None:
    question = fresh("q")
    for _ in range(2):
        assert ask(play, "plain", question).get(SOON_S).provenance.cached == 0
    assert count(play, question) == 2


def test_several_completions_are_several_answers(play: Stage) -> None:
    play.fleet.register("several", dspy.Predict("question -> answer", n=3), cache={"ttl_s": 60})
    question = fresh("q")
    ask(play, "several", question).get(SOON_S)
    assert count(play, question) == 3
    assert ask(play, "several", question).get(SOON_S).provenance.cached == 3
    assert count(play, question) == 3


def test_modules_in_threads_share_answers_too(play: Stage) -> None:
    question = fresh("q")
    play.lm.delay(0.3)
    try:
        answers = [handle.get(SOON_S) for handle in [ask(play, "in-a-thread", question) for _ in range(8)]]
    finally:
        play.lm.faults.clear()
    assert {answer.answer for answer in answers} == {f"answer of {question}"}
    assert count(play, question) == 1


# ---------------------------------------------------------------- what makes two calls different


def test_sessions_do_not_share_unless_the_program_says_so(play: Stage) -> None:
    first, other = fresh("s"), fresh("s")
    for session in (first, other):
        play.fleet.session(session).blocking.set_variables({"temp": 0.5})
    question = fresh("q")
    for session in (first, other, first):
        ask(play, "shared", question, session=session).get(SOON_S)
    assert count(play, question) == 2
    question = fresh("q")
    for session in (first, other):
        ask(play, "of-all", question, session=session).get(SOON_S)
    assert count(play, question) == 1


def test_a_variable_that_reaches_the_lm_makes_another_call(play: Stage) -> None:
    session, question = fresh("s"), fresh("q")
    for temperature in (0.1, 0.2, 0.1):
        token = play.fleet.session(session).blocking.set_variables({"temp": temperature})
        ask(play, "warm", question, session=session, at_least=token).get(SOON_S)
    assert [sent.temperature for sent in play.requests_with(question)] == [0.1, 0.2]


def test_another_endpoint_is_another_call(play: Stage) -> None:
    question = fresh("q")
    for program in ("shared", "elsewhere"):
        ask(play, program, question).get(SOON_S)
    assert count(play, question) == 2


# ---------------------------------------------------------------- failures


def test_an_answer_that_cannot_be_parsed_is_not_kept(play: Stage) -> None:
    question = fresh("q")
    play.lm.garble(2, containing=question)  # the second is the adapter's own try in JSON
    with pytest.raises(LMAnswerError):
        ask(play, "shared", question).get(SOON_S)
    assert ask(play, "shared", question).get(SOON_S).answer == f"answer of {question}"
    assert count(play, question) == 3


def test_a_refusal_is_not_kept(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(1, status=400, containing=question)
    with pytest.raises(LMRefusedError):
        ask(play, "shared", question).get(SOON_S)
    assert ask(play, "shared", question).get(SOON_S).answer


def test_when_the_leader_is_cancelled_a_follower_asks(play: Stage) -> None:
    question = fresh("q")
    play.lm.hang(1, containing=question)
    leader = ask(play, "shared", question)
    play.await_asked(question)
    followers = [ask(play, "shared", question) for _ in range(6)]
    wait_until(lambda: _in_flight(play) >= 7, "all of them run")
    assert leader.cancel()

    assert {follower.get(SOON_S).answer for follower in followers} == {f"answer of {question}"}
    with pytest.raises(PredictionCancelledError):
        leader.get(SOON_S)
    assert count(play, question) == 2


def test_a_followers_cancellation_leaves_the_call_running(play: Stage) -> None:
    question = fresh("q")
    play.lm.delay(3.0)
    try:
        leader = ask(play, "shared", question)
        play.await_asked(question)
        follower = ask(play, "shared", question)
        wait_until(lambda: _in_flight(play) >= 2, "both run")
        assert follower.cancel()
        assert leader.get(SOON_S).answer == f"answer of {question}"
    finally:
        play.lm.faults.clear()
    assert [sent.status for sent in play.requests_with(question)] == [200]


def _in_flight(play: Stage) -> int:
    active: Any = play.fleet.app.control.inspect(timeout=1, limit=len(play.workers)).active() or {}
    return sum(len(tasks) for tasks in active.values())


def test_when_the_leaders_process_is_killed_a_follower_asks(play: Stage) -> None:
    question = fresh("q")
    play.lm.hang(1, containing=question)
    doomed = play.start(pool="asyncio", concurrency=4, queues=("predictions.doomed",))
    Fleet(play.url, queue="predictions.doomed").submit("shared", {"question": question})
    play.await_asked(question)
    follower = ask(play, "shared", question)
    wait_until(lambda: _in_flight(play) >= 2, "the follower runs")
    killed = Stopwatch()
    doomed.kill()

    assert follower.get(SOON_S).answer == f"answer of {question}"
    assert killed.elapsed_s < 10
    assert count(play, question) == 2


# ---------------------------------------------------------------- what is kept


def test_what_is_kept_expires_and_holds_no_key(play: Stage) -> None:
    ask(play, "shared", fresh("q")).get(SOON_S)
    with Redis.from_url(play.url) as client:
        keys = list(client.scan_iter("dspex:{lm:*}:answer"))
        assert keys
        for key in keys:
            assert 0 < client.ttl(key) <= 60
            stored: Any = client.get(key)
            assert LM_KEY.encode() not in stored
            assert json.loads(stored)["model"] in ("demo", "openai/demo")
        assert not [key for key in client.scan_iter("*:lease") if client.ttl(key) == -1]
