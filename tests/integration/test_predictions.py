"""The main job on real worker processes, prefork and threads: submit, publish, wait, and what the LM was sent."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import psutil
import pytest
from celery import Celery
from redis import Redis

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.client.fleet_prediction import FleetPrediction
from snakepit_bridge.exceptions import (
    DeadlineExceededError,
    IdempotencyConflictError,
    InputError,
    PredictionCancelledError,
    PredictionTimeoutError,
    RevisionNotReachedError,
)
from snakepit_bridge.protocol.provenance import Provenance
from snakepit_bridge.protocol.token import Token
from tests.conftest import wait_until
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, within

BINDINGS = {"temperature": "temp", "max_tokens": "limit", "top_p": "nucleus", "model": "llm", "instructions": "style"}
VALUES: dict[str, Any] = {
    "temp": 0.25,
    "limit": 77,
    "nucleus": 0.5,
    "llm": "openai/other",
    "style": "Answer in one word.",
}


# The wait is long enough for a publish on a busy machine to come within it.
SETTINGS: dict[str, Any] = {"DSPEX_RESULT_EXPIRES_S": "4000", "DSPEX_REQUIREMENT_WAIT_S": "2"}


@pytest.fixture(scope="module", params=["threads", "prefork"])
def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), pool=request.param, **SETTINGS) as play:
        play.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "temp"})
        play.fleet.register("plain", dspy.Predict("question -> answer"))
        play.fleet.register("full", dspy.Predict("question -> answer"), bindings=BINDINGS)
        strategy = {"variable": "strategy", "allowed": ["Predict", "ChainOfThought"]}
        play.fleet.register("chosen", {"module": strategy, "signature": "question -> answer"})
        yield play


@pytest.fixture(autouse=True)
def undisturbed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "play" in request.fixturenames:
        request.getfixturevalue("play").lm.faults.clear()


def ask(play: Stage, program: str = "plain", **options: Any) -> tuple[str, Handle]:
    question = fresh("q")
    return question, play.fleet.submit(program, {"question": question}, **options)


def publish(play: Stage, session: str, **values: Any) -> Token:
    return play.fleet.session(session).blocking.set_variables(values)


# ---------------------------------------------------------------- one prediction


def test_a_prediction_comes_back_as_dspys_own(play: Stage) -> None:
    question, handle = ask(play)
    prediction = handle.get(PATIENCE_S)
    assert isinstance(prediction, dspy.Prediction)
    assert prediction.answer == f"answer of {question}"
    assert prediction.toDict() == {"answer": f"answer of {question}"}
    assert prediction.get_lm_usage() == prediction.provenance.usage
    assert handle.ready()
    assert handle.status == "SUCCESS"
    assert handle.get(1).answer == prediction.answer


def test_a_handle_tells_pending_until_there_is_a_result(play: Stage) -> None:
    with play.held():
        _, handle = ask(play)
        assert not handle.ready()
        assert handle.status == "PENDING"
        with within(2), pytest.raises(PredictionTimeoutError, match=rf"{handle.id} had no result after 0\.1 s"):
            handle.get(0.1)
    assert handle.get(20)
    assert handle.ready()


def test_a_handle_is_reattached_by_its_id_from_another_fleet(play: Stage) -> None:
    question, handle = ask(play)
    other = Fleet(play.url).handle(handle.id)
    assert other.get(PATIENCE_S).answer == f"answer of {question}"
    assert other.status == "SUCCESS"


async def test_handles_are_awaited_many_at_a_time(play: Stage) -> None:
    sent = [ask(play) for _ in range(20)]

    async def answer(handle: Handle) -> FleetPrediction:
        return await handle

    answers = await asyncio.wait_for(asyncio.gather(*(answer(handle) for _, handle in sent)), 30)
    assert [prediction.answer for prediction in answers] == [f"answer of {question}" for question, _ in sent]


def test_the_provenance_is_complete_and_is_what_the_lm_received(play: Stage) -> None:
    session = fresh("s")
    token = publish(play, session, **VALUES)
    program = play.fleet.register("full", dspy.Predict("question -> answer"), bindings=BINDINGS)
    before = time.time()
    question, handle = ask(play, "full", session=session, at_least=token)
    prediction = handle.get(PATIENCE_S)
    provenance = prediction.provenance

    [sent] = play.requests_with(question)
    assert sent.authorised
    assert provenance.variables == VALUES
    assert (sent.temperature, sent.max_tokens, sent.top_p) == (0.25, 77, 0.5)
    assert (provenance.model, provenance.profile, sent.model) == ("openai/other", "demo", "other")
    assert sent.instructions == VALUES["style"]

    assert provenance == Provenance.decode(provenance.encode())
    assert (provenance.task_id, provenance.session, provenance.token) == (handle.id, session, str(token))
    assert provenance.requirement == f"at_least={token}"
    assert (provenance.program, provenance.version, provenance.digest) == ("full", program.version, program.digest)
    assert (provenance.module, provenance.attempt) == ("Predict", 1)
    assert provenance.usage["openai/other"]["total_tokens"] > 0
    assert provenance.worker == play.worker.container.node
    processes = psutil.Process(play.worker.container.pid)
    assert provenance.pid in {processes.pid, *(child.pid for child in processes.children(recursive=True))}
    # The worker's times are of its own clock: here the same one.
    assert before <= provenance.started_at <= sent.received_at <= time.time()
    assert provenance.timings.run_ms >= (sent.answered_at - sent.received_at) * 1000
    assert min(provenance.timings.queued_ms, provenance.timings.snapshot_ms, provenance.timings.bind_ms) > 0


def test_the_same_question_twice_reaches_the_lm_twice(play: Stage) -> None:
    question = fresh("q")
    for _ in range(2):
        assert play.fleet.submit("plain", {"question": question}).get(PATIENCE_S)
    assert len(play.requests_with(question)) == 2


def test_a_result_expires_and_so_does_everything_of_a_prediction(play: Stage) -> None:
    _, handle = ask(play, idempotency_key=fresh("key"))
    handle.get(PATIENCE_S)
    with Redis.from_url(play.url) as client:
        assert 3900 < client.ttl(f"celery-task-meta-{handle.id}") <= 4000


def test_a_prediction_without_a_published_session_runs_as_registered(play: Stage) -> None:
    question, handle = ask(play)
    assert handle.get(PATIENCE_S).provenance.variables == {}
    assert play.requests_with(question)[0].temperature is None


# ---------------------------------------------------------------- revisions


def test_every_submit_reads_at_least_what_was_published_before_it(play: Stage) -> None:
    session, published, submitted = fresh("s"), dict[str, float](), list[tuple[str, Handle, Token]]()
    for step in range(50):
        token = publish(play, session, temp=step / 50)
        published[str(token)] = step / 50
        submitted.append((*ask(play, "qa", session=session, at_least=token), token))
    for question, handle, token in submitted:
        provenance = handle.get(PATIENCE_S).provenance
        assert Token.parse(provenance.token) >= token
        [sent] = play.requests_with(question)
        assert sent.temperature == provenance.variables["temp"] == published[provenance.token]


def test_latest_comes_to_each_publish_by_itself_and_never_goes_back(play: Stage) -> None:
    session, seen = fresh("s"), dict[int, list[Token]]()

    def latest() -> Token:
        question, handle = ask(play, "qa", session=session)
        provenance = handle.get(PATIENCE_S).provenance
        [sent] = play.requests_with(question)
        assert sent.temperature == provenance.variables["temp"]
        seen.setdefault(provenance.pid, []).append(Token.parse(provenance.token))
        return seen[provenance.pid][-1]

    for step in range(10):
        token = publish(play, session, temp=step / 10)
        wait_until(lambda token=token: latest() == token, f"latest to be {token}", timeout_s=5)
    assert seen
    assert all(tokens == sorted(tokens) for tokens in seen.values()), "a process went back to an older revision"


def test_an_exact_revision_is_pinned_while_newer_ones_exist(play: Stage) -> None:
    session = fresh("s")
    tokens = [publish(play, session, temp=step / 10) for step in range(5)]
    for step in (1, 4, 0):
        question, handle = ask(play, "qa", session=session, exactly=tokens[step])
        assert handle.get(PATIENCE_S).provenance.token == str(tokens[step])
        assert play.requests_with(question)[0].temperature == step / 10
    # A pin is no step back for the process that served it.
    assert ask(play, "qa", session=session)[1].get(PATIENCE_S).provenance.token == str(tokens[-1])


def test_a_revision_that_comes_while_the_prediction_waits_for_it_is_met(play: Stage) -> None:
    session = fresh("s")
    first = publish(play, session, temp=0.0)
    with play.held():
        _, handle = ask(play, "qa", session=session, at_least=Token(first.epoch, first.revision + 1))
        second = publish(play, session, temp=0.9)
    assert handle.get(PATIENCE_S).provenance.token == str(second)
    _, handle = ask(play, "qa", session=session, at_least=Token(first.epoch, first.revision + 99))
    with within(5), pytest.raises(RevisionNotReachedError):
        handle.get(PATIENCE_S)


def test_the_module_type_switches_while_predictions_run(play: Stage) -> None:
    session = fresh("s")
    plain = publish(play, session, strategy="Predict")
    play.lm.delay(0.03)
    before = [ask(play, "chosen", session=session, at_least=plain) for _ in range(20)]
    play.await_asked(before[0][0])
    stepwise = publish(play, session, strategy="ChainOfThought")
    after = [ask(play, "chosen", session=session, at_least=stepwise) for _ in range(10)]
    modules = {str(plain): "Predict", str(stepwise): "ChainOfThought"}
    for question, handle in before + after:
        prediction = handle.get(PATIENCE_S)
        provenance = prediction.provenance
        assert provenance.module == modules[provenance.token]
        assert [("reasoning" in sent.outputs) for sent in play.requests_with(question)] == [
            provenance.module == "ChainOfThought"
        ]
        assert ("reasoning" in prediction) == (provenance.module == "ChainOfThought")
    assert before[0][1].get().provenance.module == "Predict"
    assert {handle.get().provenance.module for _, handle in after} == {"ChainOfThought"}


# ---------------------------------------------------------------- the queue


def test_a_priority_is_the_list_that_the_message_waits_in(play: Stage) -> None:
    fleet = Fleet(play.url, queue=fresh("nobody"))
    for priority in (9, 5, 0):
        fleet.submit("plain", {"question": "never asked"}, priority=priority)
    with Redis.from_url(play.url) as client:
        # kombu's separators; 9 is served first, and a priority is rounded down to a step of three.
        lists = [fleet.queue, f"{fleet.queue}\x06\x163", f"{fleet.queue}\x06\x169"]
        assert [client.llen(name) for name in lists] == [1, 1, 1]
        client.delete(*lists)


def test_the_most_urgent_is_served_first(play: Stage) -> None:
    # So long that none of the first four has ended before the last of them asks, however busy the machine is.
    play.lm.delay(0.5)
    with play.held():
        patient = [ask(play, priority=1) for _ in range(12)]
        urgent = ask(play, priority=9)
    urgent[1].get(PATIENCE_S)
    place = play.requests_with(urgent[0])[0].index
    # Four run at a time, and which of those asks first is chance.
    assert sum(sent.index < place for question, _ in patient for sent in play.requests_with(question)) < 4
    for _, handle in patient:
        handle.get(PATIENCE_S)


def test_a_priority_means_the_same_by_whatever_it_was_sent(play: Stage) -> None:
    """9 is the most urgent for ``submit``, for a signature and for a stock Celery client."""
    fleet = Fleet(play.url, queue=fresh("nobody"))
    lists = {9: f"{fleet.queue}\x06\x169", 5: f"{fleet.queue}\x06\x163", 0: fleet.queue}
    inputs = {"question": "never asked"}
    with Redis.from_url(play.url) as client:
        for priority, name in lists.items():
            fleet.submit("plain", inputs, priority=priority)
            fleet.signature("plain", inputs, priority=priority).apply_async()
            fleet.signature("plain", inputs).set(priority=priority).apply_async()
            fleet.app.send_task("tasks.predict", [inputs, "plain"], queue=fleet.queue, priority=priority)
            assert client.llen(name) == 4, priority
        fleet.signature("plain", inputs).apply_async()
        assert client.llen(lists[5]) == 5, "one that names no priority is as urgent as a submit that names none"
        client.delete(*lists.values())
    with pytest.raises(ValueError, match="A priority is 0 to 9"):
        fleet.signature("plain", inputs, priority=10)


def test_an_urgent_signature_overtakes_patient_ones(play: Stage) -> None:
    play.lm.delay(0.05)
    questions = [fresh("q") for _ in range(13)]
    with play.held():
        sent = [play.fleet.signature("plain", {"question": question}).set(priority=1) for question in questions[:-1]]
        patient = [play.fleet.handle(signature.apply_async().id) for signature in sent]
        urgent = play.fleet.signature("plain", {"question": questions[-1]}).set(priority=9).apply_async()
    play.fleet.handle(urgent.id).get(PATIENCE_S)
    place = play.requests_with(questions[-1])[0].index
    # Four run at a time, and which of those asks first is chance.
    assert sum(sent.index < place for question in questions[:-1] for sent in play.requests_with(question)) < 4
    for handle in patient:
        handle.get(PATIENCE_S)


def test_a_deadline_ends_a_prediction_whose_lm_is_slow(play: Stage) -> None:
    question = fresh("q")
    play.lm.hang(containing=question)
    with within(8):
        error = play.expire_at_lm("plain", question, 1.0)
    assert re.search(r"missed its deadline by .* Add workers or a later deadline", str(error))
    assert len(play.requests_with(question)) == 1


def test_a_prediction_past_its_deadline_never_reaches_the_lm(play: Stage) -> None:
    question, handle = ask(play, deadline=1e-6)
    late, _ = ask(play)
    with pytest.raises(DeadlineExceededError):
        handle.get(PATIENCE_S)
    play.await_asked(late)
    assert play.requests_with(question) == []


def test_a_prediction_cancelled_before_it_starts_never_reaches_the_lm(play: Stage) -> None:
    with play.held():
        question, handle = ask(play)
        assert handle.cancel()
        assert handle.cancel(), "cancelling twice says the same"
        assert handle.status == "REVOKED"
        with pytest.raises(PredictionCancelledError, match=handle.id):
            handle.get(1)
        _, next_one = ask(play)
    next_one.get(PATIENCE_S)
    # All of the queue has passed the workers once the later ones are done.
    for _ in range(4):
        ask(play)[1].get(PATIENCE_S)
    assert play.requests_with(question) == []
    with pytest.raises(PredictionCancelledError):
        handle.get(1)


def test_one_that_has_ended_is_not_cancelled(play: Stage) -> None:
    question, handle = ask(play)
    handle.get(PATIENCE_S)
    assert not handle.cancel()
    assert handle.get(1).answer == f"answer of {question}"


# ---------------------------------------------------------------- idempotency


def test_one_key_is_one_prediction_however_often_it_is_submitted(play: Stage) -> None:
    key, question = fresh("key"), fresh("q")
    start = threading.Barrier(8)

    def submit(_: int) -> Handle:
        fleet = Fleet(play.url)
        start.wait(PATIENCE_S)
        return fleet.submit("plain", {"question": question}, idempotency_key=key)

    with ThreadPoolExecutor(8) as pool:
        handles = list(pool.map(submit, range(8)))
    assert {handle.get(PATIENCE_S).answer for handle in handles} == {f"answer of {question}"}
    handles.append(play.fleet.submit("plain", {"question": question}, idempotency_key=key))
    assert len({handle.id for handle in handles}) == 1
    ask(play)[1].get(PATIENCE_S)
    assert len(play.requests_with(question)) == 1


def test_one_key_for_two_requests_is_a_conflict(play: Stage) -> None:
    key = fresh("key")
    first = play.fleet.submit("plain", {"question": "one"}, idempotency_key=key)
    for changed in (
        {"inputs": {"question": "two"}},
        {"session": "another"},
        {"program": "qa"},
    ):
        request: dict[str, Any] = {"program": "plain", "inputs": {"question": "one"}, **changed}
        with pytest.raises(IdempotencyConflictError, match=rf"'{key}' belongs to prediction {first.id}.*Use a new key"):
            play.fleet.submit(**request, idempotency_key=key)
    assert first.get(PATIENCE_S).answer == "answer of one"


# ---------------------------------------------------------------- many


def test_a_map_yields_in_order_with_a_bounded_number_in_flight(play: Stage) -> None:
    play.lm.delay(0.0, 0.05)
    read, yielded, ahead, questions = 0, 0, 0, [fresh("q") for _ in range(30)]

    def source() -> Iterator[dict[str, str]]:
        nonlocal read, ahead
        for question in questions:
            read += 1
            ahead = max(ahead, read - yielded)
            yield {"question": question}

    answers = []
    for prediction in play.fleet.map("plain", source(), in_flight=6, timeout=PATIENCE_S):
        yielded += 1
        answers.append(prediction.answer)
    assert answers == [f"answer of {question}" for question in questions]
    assert ahead <= 7


def test_a_map_returns_errors_in_their_place_or_raises_the_first(play: Stage) -> None:
    inputs: list[dict[str, Any]] = [{"question": "a"}, {"quesion": "b"}, {"question": "c"}]
    first, second, third = play.fleet.map("plain", inputs, errors="return", timeout=PATIENCE_S)
    assert isinstance(second, InputError)
    assert isinstance(first, FleetPrediction)
    assert isinstance(third, FleetPrediction)
    assert (first.answer, third.answer) == ("answer of a", "answer of c")
    with pytest.raises(InputError):
        list(play.fleet.map("plain", inputs, timeout=PATIENCE_S))


# ---------------------------------------------------------------- where a client lives


def test_a_fleet_sends_with_an_app_that_is_there_already(play: Stage) -> None:
    app = Celery("shop", broker=play.url, backend=play.url, set_as_current=False)
    app.conf.update(task_default_queue="shop", result_expires=123)
    question = fresh("q")
    fleet = Fleet(app=app)
    assert fleet.app is app
    assert fleet.submit("plain", {"question": question}).get(PATIENCE_S).answer == f"answer of {question}"
    assert (app.conf.task_default_queue, app.conf.result_expires) == ("shop", 123)


def test_a_fleet_goes_on_in_both_processes_after_a_fork(play: Stage) -> None:
    question, _ = ask(play)
    assert play.fleet.submit("plain", {"question": question}).get(PATIENCE_S)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # a child that hangs must not outlive the test
        try:
            answer = play.fleet.submit("plain", {"question": question}).get(PATIENCE_S).answer
            os.write(writing, answer.encode())
        finally:
            os._exit(0)
    os.close(writing)
    in_parent = [ask(play) for _ in range(5)]
    # Told of their results, and not only at the next look, which is seconds away.
    with within(3):
        assert [handle.get(PATIENCE_S).answer for _, handle in in_parent] == [
            f"answer of {text}" for text, _ in in_parent
        ]
        with os.fdopen(reading) as from_child:
            assert from_child.read() == f"answer of {question}"
    os.waitpid(child, 0)


def test_a_fleet_is_shared_by_sixteen_threads(play: Stage) -> None:
    fleet, start = Fleet(play.url, wait_s=30), threading.Barrier(16)

    def work(_: int) -> bool:
        start.wait(PATIENCE_S)
        questions = [fresh("q") for _ in range(3)]
        handles = [fleet.submit("plain", {"question": question}) for question in questions]
        return [handle.get().answer for handle in handles] == [f"answer of {question}" for question in questions]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


def test_a_fleets_program_is_a_module_of_dspy(play: Stage) -> None:
    session = fresh("s")
    token = publish(play, session, temp=0.75)
    program = play.fleet.program("qa", session=session, at_least=token)
    assert isinstance(program, dspy.Module)

    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = program

        def forward(self, question: str) -> dspy.Prediction:
            return self.ask(question=self.ask(question=question).answer)

    question = fresh("q")
    prediction = Twice()(question=question)
    assert prediction.answer == f"answer of answer of {question}"
    assert [sent.temperature for sent in play.requests_with(question)] == [0.75, 0.75]


async def test_a_fleets_program_is_awaited(play: Stage) -> None:
    question = fresh("q")
    prediction = await play.fleet.program("plain").acall(question=question)
    assert prediction.answer == f"answer of {question}"


# ---------------------------------------------------------------- workers that come and go


@pytest.fixture
def empty_stage(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    settings: dict[str, Any] = {"DSPEX_LEASE_S": "1"}
    with stage(tmp_path_factory.mktemp("stage"), worker=False, **settings) as play:
        play.fleet.register("plain", dspy.Predict("question -> answer"))
        yield play


@pytest.mark.chaos
def test_a_killed_workers_prediction_is_answered_and_a_stored_cancellation_holds(empty_stage: Stage) -> None:
    play = empty_stage
    cancelled, never = ask(play)
    # No worker is there to hear of it: what is stored has to be enough.
    assert never.cancel()
    worker = play.start(concurrency=1)
    question, handle = fresh("q"), None
    play.lm.hang(containing=question)
    handle = play.fleet.submit("plain", {"question": question})
    play.await_asked(question)
    worker.kill()
    assert handle.status == "PENDING"
    worker.restart()
    prediction = handle.get(PATIENCE_S)
    assert prediction.answer == f"answer of {question}"
    assert len(play.requests_with(question)) == 2
    wait_until(lambda: play.worker.container.status == "running", "the worker to run")
    with pytest.raises(PredictionCancelledError):
        never.get(1)
    assert play.requests_with(cancelled) == []
