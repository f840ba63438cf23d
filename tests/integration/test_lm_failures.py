"""An LM's failure comes out by its name, however deep a program has swallowed it, and a passing one fails nobody."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import dspy
import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import (
    LMAnswerError,
    LMAnswerTruncatedError,
    LMContentRefusedError,
    LMRefusedError,
    LMUnavailableError,
)
from snakepit_bridge.testing import Raw, RecordingLM
from tests.harness import programs
from tests.harness.stage import LM_KEY, Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until, within

_PROFILES = """
[profiles.patient]
model = "openai/patient"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
retry = {{ backoff_s = 0.2, longest_s = 1, for_s = 30 }}
circuit = {{ failures = 5, open_s = 1 }}

[profiles.steady]
model = "openai/steady"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
retry = {{ attempts = 3, backoff_s = 0.05 }}
circuit = {{ failures = 0 }}

[profiles.returning]
model = "openai/returning"
api_base = "http://127.0.0.1:{port}/v1"
api_key_env = "STAGE_LM_KEY"
retry = {{ for_s = 30, longest_s = 1 }}
circuit = {{ failures = 5, open_s = 0.3 }}

[profiles.reasoning]
model = "openai/o3-mini"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
"""


@pytest.fixture(scope="module")
def port() -> int:
    """A port on which an LM server starts and stops."""
    with RecordingLM() as server:
        return server.port


@pytest.fixture(scope="module", params=["asyncio", "threads"])
def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, port: int) -> Generator[Stage]:
    folder: Path = tmp_path_factory.mktemp("failures")
    profiles = _PROFILES.replace("{port}", str(port))
    allowed = {"DSPEX_ALLOWED_PACKAGES": "tests", "DSPEX_TASK_ATTEMPTS": ""}
    more: Any = {"pool": request.param, "more_profiles": profiles, **allowed}
    with stage(folder, **more) as playing:
        playing.fleet.register("qa", dspy.Predict("question -> answer"))
        for name in ("patient", "returning", "reasoning"):
            playing.fleet.register(f"on-{name}", dspy.Predict("question -> answer"), lm=name)
        playing.fleet.register("warm", dspy.Predict("question -> answer"), bindings={"temperature": "t", "model": "m"})
        yield playing


@pytest.fixture(autouse=True)
def undisturbed(play: Stage) -> Generator[None]:
    yield
    play.lm.faults.clear()


def ask(play: Stage, program: str, question: str, **options: Any) -> Any:
    return play.fleet.submit(program, {"question": question}, **options)


# ---------------------------------------------------------------- swallowed on the way


def swallowing(play: Stage, kind: str, attempts: int = 2) -> str:
    """Register a module that catches what its parts raise, and return its name."""
    program, fleet = fresh("p"), Fleet(play.url, wait_s=30, allowed_packages=("tests",))
    if kind == "Parallel":
        fleet.register(program, programs.Parallel(), lm="steady")
    else:
        wrapper: Any = {"BestOfN": dspy.BestOfN, "Refine": dspy.Refine}[kind]
        inner = dspy.Predict("question -> answer")
        fleet.register(program, wrapper(inner, N=attempts, reward_fn=programs.reward, threshold=2.0), lm="steady")
    return program


@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["BestOfN", "Refine"])
def test_a_dead_lm_is_unavailable_whatever_tries_it(play: Stage, kind: str, attempts: int) -> None:
    """With any N, and with the later try that it would have had without them."""
    program, question = swallowing(play, kind, attempts), fresh("q")
    play.lm.fail(None, status=503, containing=question)
    with pytest.raises(LMUnavailableError) as failed:
        ask(play, program, question).get(PATIENCE_S)
    assert (failed.value.status, failed.value.profile, failed.value.tries) == (503, "steady", 3)


@pytest.mark.parametrize("kind", ["BestOfN", "Refine", "Parallel"])
def test_a_refusal_comes_out_by_its_name(play: Stage, kind: str) -> None:
    program, question = swallowing(play, kind), fresh("q")
    play.lm.fail(None, status=401, containing=question)
    with pytest.raises(LMRefusedError) as failed:
        ask(play, program, question).get(PATIENCE_S)
    assert (failed.value.status, failed.value.code) == (401, "auth")


@pytest.mark.parametrize("kind", ["BestOfN", "Refine", "Parallel"])
def test_a_call_for_later_brings_the_whole_task_again(play: Stage, kind: str) -> None:
    """The failure isn't taken for an answer, and what would be thrown away isn't asked."""
    program, question = swallowing(play, kind), fresh("q")
    play.lm.fail(1, status=429, retry_after_s=3, containing=question)
    prediction = ask(play, program, question).get(PATIENCE_S)
    assert prediction.provenance.attempt == 2
    assert prediction.provenance.failed_tries >= 1
    statuses = [request.status for request in play.lm.requests if question in str(request.body)]
    assert statuses[0] == 429
    assert set(statuses[1:]) == {200}


# ---------------------------------------------------------------- how answers end


def say(play: Stage, text: str, finish: str, **more: Any) -> None:
    message = {"role": "assistant", "content": text, **more}
    play.lm.say({"model": "demo", "choices": [{"index": 0, "message": message, "finish_reason": finish}]})


@pytest.mark.parametrize("stream", [False, True])
def test_a_truncated_answer_shows(play: Stage, stream: bool) -> None:
    """It is an answer, and says that there was more."""
    say(play, "[[ ## answer ## ]]\nonce upon a", "length")
    prediction = ask(play, "qa", fresh("q"), stream=stream).get(PATIENCE_S)
    assert prediction.answer == "once upon a"
    assert prediction.truncated
    assert dict(prediction.provenance.finish_reasons) == {"length": 1}
    whole = ask(play, "qa", fresh("q"), stream=stream).get(PATIENCE_S)
    assert (whole.truncated, dict(whole.provenance.finish_reasons)) == (False, {"stop": 1})


@pytest.mark.parametrize("stream", [False, True])
def test_a_truncated_answer_that_cannot_be_parsed_is_asked_for_once(play: Stage, stream: bool) -> None:
    """No second paid call, whose error would lose the text of the first."""
    question = fresh("q")
    say(play, "Let me think about what was asked", "length")
    with pytest.raises(LMAnswerTruncatedError, match="Let me think about what was asked") as failed:
        ask(play, "qa", question, stream=stream).get(PATIENCE_S)
    assert isinstance(failed.value, LMAnswerError)
    assert len(play.requests_with(question)) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "finish", "more", "code"),
    [
        ("I was about to", "content_filter", {}, "content_filter"),
        (None, "stop", {"refusal": "I was about to decline"}, "refusal"),
    ],
)
def test_a_refusal_is_an_error_of_its_own_with_its_text(
    play: Stage, stream: bool, text: Any, finish: str, more: dict[str, Any], code: str
) -> None:
    question = fresh("q")
    say(play, text, finish, **more)
    with pytest.raises(LMContentRefusedError, match="I was about to") as failed:
        ask(play, "qa", question, stream=stream).get(PATIENCE_S)
    assert failed.value.code == code
    assert len(play.requests_with(question)) == 1


# ---------------------------------------------------------------- streamed as unstreamed


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_in_no_form_is_asked_for_in_another(play: Stage, stream: bool) -> None:
    """The same answer either way."""
    question = fresh("q")
    say(play, "[[ ## response ## ]]\nnot the field", "stop")
    assert ask(play, "qa", question, stream=stream).get(PATIENCE_S).answer == f"answer of {question}"
    assert len(play.requests_with(question)) == 2


# ---------------------------------------------------------------- what a model takes


def test_a_temperature_never_reaches_a_model_that_takes_none(play: Stage) -> None:
    """A session that changes over to it goes on, and its provenance says what was left out."""
    session, question = fresh("s"), fresh("q")
    play.fleet.session(session).blocking.set_variables({"t": 0.7, "m": "reasoning"})
    prediction = ask(play, "warm", question, session=session).get(PATIENCE_S)
    [sent] = play.requests_with(question)
    assert "temperature" not in sent.body
    assert dict(prediction.provenance.dropped) == {"temperature": "openai/o3-mini"}
    token = play.fleet.session(session).blocking.set_variables({"m": "demo"})
    again = ask(play, "warm", question, session=session, at_least=token).get(PATIENCE_S)
    assert play.requests_with(question)[-1].temperature == 0.7
    assert dict(again.provenance.dropped) == {}


# ---------------------------------------------------------------- for how long


def failing_s(play: Stage, text: str) -> float:
    """How many seconds lie between the first and the latest request with a text; 0 if there is none."""
    times = [request.received_at for request in play.requests_with(text)]
    return max(times) - min(times) if times else 0.0


def test_an_lm_that_is_down_for_seconds_fails_nobody(play: Stage) -> None:
    """40 in flight, 2 s of failures."""
    name = fresh("q")
    with within(45):
        play.lm.fail(None, status=500, containing=name)
        handles = [ask(play, "on-patient", f"{name} {number}") for number in range(40)]
        wait_until(lambda: failing_s(play, name) > 2, "tries over two seconds, all of which failed")
        play.lm.faults.clear()
        answers = [handle.get(PATIENCE_S).answer for handle in handles]
    assert answers == [f"answer of {name} {number}" for number in range(40)]


def times_opened(play: Stage) -> int:
    return play.worker.container.logs().count("Circuit of LM profile 'returning' opened")


def test_an_lm_server_that_restarts_fails_nobody(play: Stage, port: int) -> None:
    """None of those in flight as it goes down."""
    name = fresh("q")
    first = RecordingLM(lambda ask: Raw("[[ ## answer ## ]]\none"), port=port, api_key=LM_KEY, latency_s=1.0).start()
    handles = [ask(play, "on-returning", f"{name} {number}") for number in range(20)]
    first.wait_for_requests(1, PATIENCE_S)
    first.stop()
    # Its circuit opens again after each probe that fails.
    opened = times_opened(play)
    wait_until(lambda: times_opened(play) >= opened + 3, "tries to fail, and two probes after them")
    with RecordingLM(lambda ask: Raw("[[ ## answer ## ]]\ntwo"), port=port, api_key=LM_KEY), within(40):
        answers = {handle.get(PATIENCE_S).answer for handle in handles}
    assert answers <= {"one", "two"}
