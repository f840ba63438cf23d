"""Each server that docs/how-to/brokers.md names does the fleet's work, and what isn't alike stands in its table."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import dspy
import pytest
from redis import Redis

from config.celery import PRIORITY_STEPS
from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.client.rabbitmq import MAX_PRIORITY
from snakepit_bridge.exceptions import (
    ConfigurationError,
    DeadlineExceededError,
    PredictionCancelledError,
    PredictionTimeoutError,
    PredictionUnknownError,
)
from tests.harness import servers
from tests.harness.containers import ROOT, local_redis
from tests.harness.rabbitmq import rabbit_node
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import wait_until

# Valkey's own tests are most of the others; here it is the one that Redis is compared with.
KINDS = (*servers.KINDS, *servers.MORE_KINDS, "rabbitmq")
SOON_S = 30
# Longer than a prediction that is to be parked stays in its slot.
_LEAVES_WITHIN_S = 8.0
CODE_QUEUE = "predictions.code"
_NIGHT = """
[profiles.night]
model = "openai/night"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
tier = "batch"
batch = {{ wait_s = 60 }}
"""


@pytest.fixture(scope="module", params=KINDS)
def server_kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def play(server_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    """A worker on asyncio, and a prefork worker for what executes code."""
    with ExitStack() as running:
        settings = {"DSPEX_LEASE_S": "1"}
        on_redis = servers.DEFAULT if server_kind == "rabbitmq" else server_kind
        url = running.enter_context(local_redis(kind=on_redis)).celeryconfig["host_url"]
        broker_url = None
        if server_kind == "rabbitmq":
            node = running.enter_context(rabbit_node())
            node.ready()
            broker_url = settings["DSPEX_BROKER_URL"] = node.url
        fleet = Fleet(url, broker_url=broker_url, wait_s=SOON_S)
        folder = tmp_path_factory.mktemp("stage")
        options: dict[str, Any] = {"url": url, "app": fleet.app, "more_profiles": _NIGHT, **settings}
        playing = running.enter_context(stage(folder, worker=False, **options))
        fleet.register("plain", dspy.Predict("question -> answer"))
        fleet.register("code", dspy.Predict("question -> answer"), executes_code=True)
        fleet.register("night", dspy.Predict("question -> answer"), lm="night")
        playing.start(pool="asyncio", concurrency=20, name="asyncio", wait=False)
        playing.start(pool="prefork", concurrency=1, queues=(CODE_QUEUE,), name="prefork", wait=False)
        for worker in playing.workers:
            worker.ready()
        yield playing


def submit(play: Stage, program: str = "plain", **options: Any) -> tuple[str, Handle]:
    question = fresh("q")
    return question, play.fleet.submit(program, {"question": question}, **options)


def is_answered(question: str, handle: Handle) -> bool:
    return handle.get(SOON_S).answer == f"answer of {question}"


def test_predictions_retries_batches_cancellation_and_deadlines(play: Stage) -> None:
    single = [submit(play) for _ in range(20)]
    inputs = [{"question": fresh("q")} for _ in range(20)]
    batch = zip(inputs, play.fleet.submit_batch("plain", inputs), strict=True)
    retried = fresh("q")
    play.lm.fail(1, status=503, containing=retried)
    tried_again = play.fleet.submit("plain", {"question": retried})
    stuck = fresh("q")
    play.lm.hang(None, containing=stuck)
    cancelled = play.fleet.submit("plain", {"question": stuck})
    play.await_asked(stuck)
    assert cancelled.cancel()
    late_question = fresh("q")
    play.lm.hang(None, containing=late_question)
    late = play.fleet.submit("plain", {"question": late_question}, deadline=0.5)

    assert all(is_answered(*each) for each in single)
    assert all(is_answered(value["question"], handle) for value, handle in batch)
    assert tried_again.get(SOON_S).provenance.failed_tries == 1
    with pytest.raises(PredictionCancelledError):
        cancelled.get(SOON_S)
    with pytest.raises(DeadlineExceededError):
        late.get(SOON_S)
    key = fresh("k")
    same = [play.fleet.submit("plain", {"question": retried}, idempotency_key=key) for _ in range(3)]
    assert len({handle.id for handle in same}) == 1
    assert is_answered(retried, same[0])


def test_a_worker_that_is_killed_loses_nothing(play: Stage) -> None:
    doomed = play.start(pool="asyncio", concurrency=20, name="doomed")
    play.lm.delay(1.0)
    handles = [submit(play) for _ in range(40)]
    wait_until(lambda: all(map(play.requests_with, (question for question, _ in handles))), "all to be under way")
    doomed.kill()
    play.workers.remove(doomed)
    play.lm.delay(0)
    assert all(is_answered(*each) for each in handles)
    assert {len(play.requests_with(question)) for question, _ in handles} <= {1, 2}


def stays_running(play: Stage, handle: Handle) -> bool:
    """Check whether workers go on saying that they run a prediction; one that was parked is soon gone from them."""
    options: dict[str, Any] = {"timeout": 2, "limit": len(play.workers)}
    until = time.monotonic() + _LEAVES_WITHIN_S
    while time.monotonic() < until:
        active: dict[str, list[dict[str, Any]]] = play.fleet.app.control.inspect(**options).active() or {}
        if all(task["id"] != handle.id for tasks in active.values() for task in tasks):
            return False
    return True


def observe_rate_limit(play: Stage) -> str:
    limits = play.fleet.session("dspex.fleet").blocking
    limits.set_variables({"dspex.limits.demo.concurrency": 0.0})
    seen: dict[str, Handle] = {}

    def held_up() -> str | None:
        """Until each process knows the limit, some are answered."""
        question, seen[question] = submit(play)
        with Redis.from_url(play.url) as client:
            wait_until(lambda: seen[question].ready() or client.hvals("dspex:{limits}:waiting"), "an answer, or none")
        if seen[question].ready():
            return None
        return "in its worker's slot" if stays_running(play, seen[question]) else "outside the workers"

    found = wait_until(held_up, "the limit to be in force")
    limits.set_variables({"dspex.limits.demo.concurrency": -1.0})
    assert all(is_answered(*each) for each in seen.items())
    return found


def observe_code(play: Stage) -> str:
    _, handle = submit(play, "code")
    on_prefork = handle.get(SOON_S).provenance.worker.startswith("prefork@")
    return "on a prefork worker" if on_prefork else "on the worker that received it"


def observe_batch_tier(play: Stage) -> str:
    _, handle = submit(play, "night")
    with Redis.from_url(play.url) as client:
        wait_until(lambda: handle.ready() or client.hlen("dspex:{lm-batches}:parked"), "it to be parked, or to fail")
    if not handle.ready():
        handle.cancel()
        return "parks the prediction"
    with pytest.raises(ConfigurationError):
        handle.get()
    return "is an error"


def observe_key(play: Stage) -> str:
    return "in one step" if play.fleet._publisher._can_enqueue_by_script else "in two steps"


def observe_unknown(play: Stage) -> str:
    try:
        play.fleet.handle(str(uuid4())).get(8)
    except PredictionUnknownError:
        return "is an error"
    except PredictionTimeoutError:
        return "waits until the timeout"
    raise AssertionError("a prediction that nobody submitted has an answer")


def observe_priorities(play: Stage) -> str:
    return str(MAX_PRIORITY + 1 if play.fleet.on_rabbitmq else len(PRIORITY_STEPS))


ROWS: Mapping[str, Callable[[Stage], str]] = {
    "a prediction that a rate limit holds up waits": observe_rate_limit,
    "a program that executes code, received by a worker that can't, runs": observe_code,
    "a profile of the [batch tier](batch-tiers.md)": observe_batch_tier,
    "an idempotency key and its message are stored": observe_key,
    "a task id that was never submitted": observe_unknown,
    "priorities that differ": observe_priorities,
}


def documented(column: int) -> dict[str, str]:
    """Return a column of the table in the documentation, by row."""
    page = (ROOT / "docs" / "how-to" / "brokers.md").read_text(encoding="utf-8")
    lines = page.partition("<!-- held by tests/integration/test_servers.py -->")[2].strip().splitlines()
    table = [line.strip("| ").split(" | ") for line in lines[2 : next(n for n, line in enumerate(lines) if not line)]]
    return {row[0]: row[column] for row in table}


def test_what_differs_between_brokers_stands_in_the_documentation(play: Stage, server_kind: str) -> None:
    observed = {row: observe(play) for row, observe in ROWS.items()}
    assert observed == documented(2 if server_kind == "rabbitmq" else 1)
