"""The journal of a prediction: what an LM has answered it isn't asked again, whatever becomes of the delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import dspy
import pytest
from redis import Redis

from config.settings import FleetSettings
from snakepit_bridge.client import Fleet
from snakepit_bridge.process.home_loop import get_home_loop, run_blocking
from snakepit_bridge.protocol.messages import PredictionRequest
from snakepit_bridge.protocol.provenance import Provenance
from snakepit_bridge.testing import RecordingLM
from tasks.predict import predict as task
from tasks.prediction import run_prediction
from tasks.requests import Delivery
from tasks.runtime import Runtime
from tasks.spending import track_spending
from tests.harness import paying_tools
from tests.harness.programs import Chains, Dated, Twice
from tests.harness.waiting import wait_until
from workers.app import FleetApp
from workers.runtime import build_runtime

PACKAGES = ("tests.harness.programs", "tests.harness.paying_tools")
FIRST, AGAIN = Delivery("task", "w@h", 1, 0.0), Delivery("task", "w@h", 1, 0.0, deliveries=2, is_repeated=True)


@pytest.fixture
def settings(redis_url: str, worker_settings: FleetSettings) -> FleetSettings:
    fleet = Fleet(redis_url, allowed_packages=PACKAGES)
    profiles = worker_settings.lm_profiles
    assert profiles is not None
    with profiles.open("a") as file:
        file.write("retry = { in_place_s = 0, backoff_s = 0.01, attempts = 2 }\n")
    programs = {"twice": Twice(), "dated": Dated(), "chains": Chains()}
    payers = {"payer": paying_tools.Payer(), "threaded-payer": paying_tools.ThreadedPayer()}
    for name, module in {**programs, **payers}.items():
        fleet.register(name, module, trial=False)
    fleet.register("once", dspy.Predict("question -> answer"))
    fleet.register("silent", Twice(), journal=False, trial=False)
    return worker_settings.model_copy(update={"allowed_packages": PACKAGES})


@pytest.fixture
def runtime(settings: FleetSettings) -> Generator[Runtime]:
    runtime = build_runtime(settings)
    yield runtime
    run_blocking(runtime.aclose())


@pytest.fixture
def app(settings: FleetSettings) -> Generator[FleetApp]:
    app = FleetApp(settings)
    yield app
    run_blocking(app.runtime.aclose())


def journals(redis_url: str) -> list[Any]:
    with Redis.from_url(redis_url) as client:
        return list(client.scan_iter("*:journal"))


def questions(lm: RecordingLM) -> list[str]:
    return [request.inputs["question"] for request in lm.requests]


def run(runtime: Runtime, program: str, delivery: Delivery = FIRST) -> Provenance:
    return run_blocking(predict(runtime, program, delivery))


async def predict(runtime: Runtime, program: str, delivery: Delivery, question: str = "why?") -> Provenance:
    with track_spending(delivery.task_id):
        result = await run_prediction(runtime, PredictionRequest(program, {"question": question}), delivery)
    return Provenance.decode(result.provenance)


def entries(redis_url: str) -> int:
    with Redis.from_url(redis_url) as client:
        return sum(client.hlen(name) for name in client.scan_iter("*:journal"))


def always() -> bool:
    return True


def crash(runtime: Runtime, lm: RecordingLM, program: str, requests: int, until: Callable[[], bool] = always) -> None:
    """Run a prediction until it has sent so many requests, and end it there as a lost worker does."""
    running = asyncio.run_coroutine_threadsafe(predict(runtime, program, FIRST), get_home_loop())
    wait_until(lambda: len(lm.requests) == requests and until(), "the requests")
    running.cancel()
    wait_until(running.done, "the end of the prediction")


def test_a_lost_workers_answers_are_not_asked_for_again(runtime: Runtime, lm: RecordingLM, redis_url: str) -> None:
    lm.hang(containing="answer of why?")
    crash(runtime, lm, "twice", 2)
    assert len(journals(redis_url)) == 1
    with Redis.from_url(redis_url) as client:
        assert 0 < client.ttl(journals(redis_url)[0]) <= 86_400
    provenance = run(runtime, "twice", AGAIN)
    assert questions(lm) == ["why?", "answer of why?", "answer of why?"]
    assert (provenance.replayed, provenance.unused) == (1, 0)
    assert provenance.answered == {"demo": 2}
    assert provenance.lm_usage["demo"]["calls"] == 2, "the answer that the lost worker paid for counts once"
    assert (
        provenance.usage["openai/demo"]["total_tokens"]
        == provenance.lm_usage["demo"]["input_tokens"] + (provenance.lm_usage["demo"]["output_tokens"])
    )


def test_a_program_without_a_journal_asks_again(runtime: Runtime, lm: RecordingLM, redis_url: str) -> None:
    lm.hang(containing="answer of why?")
    crash(runtime, lm, "silent", 2)
    assert journals(redis_url) == []
    assert run(runtime, "silent", AGAIN).replayed == 0
    assert questions(lm).count("why?") == 2


def test_a_program_that_asks_something_else_goes_on_for_real(runtime: Runtime, lm: RecordingLM) -> None:
    lm.hang(containing="why?")
    crash(runtime, lm, "dated", 2)
    provenance = run(runtime, "dated", AGAIN)
    assert (provenance.replayed, provenance.unused) == (0, 1)
    assert len(lm.requests) == 4
    assert provenance.lm_usage["demo"]["calls"] == 3, "the answer that wasn't needed is paid for as well"


def test_concurrent_calls_find_their_answers_in_any_order(runtime: Runtime, lm: RecordingLM, redis_url: str) -> None:
    lm.hang(containing="answer of why? right")
    crash(runtime, lm, "chains", 4, until=lambda: entries(redis_url) == 3)
    provenance = run(runtime, "chains", AGAIN)
    assert sorted(questions(lm)) == sorted(
        ["why? left", "answer of why? left", "why? right", *["answer of why? right"] * 2]
    )
    assert (provenance.replayed, provenance.unused) == (3, 0)


def test_a_retried_task_asks_only_what_failed(app: FleetApp, lm: RecordingLM) -> None:
    lm.fail(1, status=503, containing="answer of why?")
    done = app.tasks[task.name].apply(args=({"question": "why?"}, "twice"), task_id="task")
    assert done.state == "SUCCESS"
    assert questions(lm) == ["why?", "answer of why?", "answer of why?"]
    provenance = Provenance.decode(done.result["provenance"])
    assert (provenance.attempt, provenance.replayed) == (2, 1)


@pytest.mark.parametrize(
    ("program", "once", "lasting"),
    [("payer", ["once 1", "once 1", "awaited 2", "once 3"], ["looked 4"]), ("threaded-payer", ["once 5"], [])],
)
def test_a_tool_that_is_not_idempotent_has_its_effect_once(
    runtime: Runtime,
    lm: RecordingLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    once: list[str],
    lasting: list[str],
) -> None:
    ledger = tmp_path / "ledger"
    monkeypatch.setenv(paying_tools.LEDGER, str(ledger))
    lm.hang(containing="why?")
    crash(runtime, lm, program, 1)
    provenance = run(runtime, program, AGAIN)
    lines = [line.rpartition(" ") for line in ledger.read_text().splitlines()]
    assert [what for what, _, _ in lines] == once + lasting + lasting
    ids = [call_id for what, _, call_id in lines if what in once]
    assert len(set(ids)) == len(once), "each call has an id of its own"
    assert all(call_id.startswith("task:") for call_id in ids)
    assert (provenance.replayed, provenance.replayed_tools, provenance.unused) == (0, len(once), 0)
