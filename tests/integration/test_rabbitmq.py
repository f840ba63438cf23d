"""What holds with RabbitMQ as the broker, row by row of docs/concepts/delivery.md, on a node of its own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Generator, Mapping
from decimal import Decimal
from typing import Any

import dspy
import pytest
from kombu.connection import Connection
from kombu.entity import Queue
from redis import Redis

from snakepit_bridge.cli import main
from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.client.backlog import read_fleet_backlog
from snakepit_bridge.client.rabbitmq import queue_length
from snakepit_bridge.encryption.keys import KeyRing, generate_key
from snakepit_bridge.exceptions import (
    BridgeError,
    ConfigurationError,
    DeadlineExceededError,
    PredictionCancelledError,
    PredictionFailedError,
    PredictionGivenUpError,
    StoreUnavailableError,
)
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.testing import AskedQuestion
from tests.harness.containers import local_redis
from tests.harness.leaks import leaked_keys
from tests.harness.poison import POISON, Poisonable
from tests.harness.rabbitmq import RabbitNode, rabbit_node
from tests.harness.stage import Stage, echo, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until, within

# Each pool's worker has a queue of its own, and so many places.
POOLS = {"asyncio": 80, "threads": 12, "prefork": 3}
SOON_S = 40
HEARD_S = 2.0
LEFT = 499

# Closed, no answer leaves the LM.
GATE = threading.Event()
GATE.set()
_ARRIVE_S = 3.0


def gated(ask: AskedQuestion) -> Mapping[str, Any]:
    """Answer as ``echo`` does, once the gate is open."""
    GATE.wait(PATIENCE_S)
    return echo(ask)


@pytest.fixture(scope="module")
def node() -> Generator[RabbitNode]:
    with rabbit_node() as node:
        yield node


@pytest.fixture(scope="module")
def play(node: RabbitNode, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    settings: dict[str, Any] = {"DSPEX_BROKER_URL": node.url, "DSPEX_LEASE_S": "1", "DSPEX_MAX_DELIVERIES": "2"}
    settings |= {"DSPEX_ALLOWED_PACKAGES": "tests"}
    with local_redis() as redis:
        url = redis.celeryconfig["host_url"]
        fleet = Fleet(url, broker_url=node.url, allowed_packages=("tests",))
        folder = tmp_path_factory.mktemp("stage")
        with stage(folder, worker=False, url=url, app=fleet.app, answer=gated, **settings) as play:
            fleet.register("plain", dspy.Predict("question -> answer"))
            fleet.register("poisonable", Poisonable())
            fleet.register("warm", dspy.Predict("question -> answer"), bindings={"temperature": "temp"})
            for pool, places in POOLS.items():
                play.start(wait=False, pool=pool, concurrency=places, queues=(pool,), env={"DSPEX_QUEUE": pool})
            node.ready()
            for worker in play.workers:
                worker.ready()
            yield play
        with Redis.from_url(url) as client:
            assert not leaked_keys(client)


@pytest.fixture(autouse=True)
def undisturbed(request: pytest.FixtureRequest) -> Generator[None]:
    yield
    if "play" in request.fixturenames:
        play: Stage = request.getfixturevalue("play")
        play.lm.faults.clear()
        play.lm.delay(0)
        GATE.set()


def fleet_of(play: Stage, queue: str = "asyncio") -> Fleet:
    """The client of one of the workers, or of a queue that nobody takes from."""
    return Fleet(play.url, app=play.app, queue=queue, wait_s=SOON_S)


def under_way(play: Stage, per_pool: Mapping[str, int] = POOLS) -> dict[str, Handle]:
    """Submit predictions that get no answer until the gate is opened, and return their handles by question."""
    play.lm.delay(_ARRIVE_S)
    handles = {
        (question := fresh(pool)): fleet_of(play, pool).submit("plain", {"question": question})
        for pool, count in per_pool.items()
        for _ in range(count)
    }
    wait_until(lambda: all(map(play.requests_with, handles)), f"{len(handles)} predictions to be under way")
    GATE.clear()
    return handles


def answered(handles: Mapping[str, Handle]) -> None:
    """Assert that each prediction has its own answer."""
    assert [handle.get().answer for handle in handles.values()] == [f"answer of {question}" for question in handles]


def counted(node: RabbitNode, queue: str) -> int:
    with Connection(node.url) as connection:
        return queue_length(connection, queue)


def run(play: Stage, node: RabbitNode, capsys: pytest.CaptureFixture[str], *arguments: str, queue: str) -> Any:
    """What a command prints as JSON, whatever its exit code is."""
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--redis-url", play.url, "--broker-url", node.url, "--queue", queue, *arguments])
    return json.loads(capsys.readouterr().out)


def test_a_killed_broker_costs_no_prediction_and_stops_no_worker(play: Stage, node: RabbitNode) -> None:
    """What runs is answered once, what waits is still there, and work goes on, on every pool."""
    idle = fleet_of(play, "nobody's")
    kept = [idle.submit("plain", {"question": fresh("q")}) for _ in range(20)]
    handles = under_way(play)
    node.kill()
    with within(10), pytest.raises(StoreUnavailableError):
        idle.submit("plain", {"question": fresh("q")})
    node.start()
    for worker in play.workers:
        worker.ready()
    GATE.set()
    play.lm.delay(0)
    answered(handles)
    assert counted(node, "nobody's") == len(kept)
    after = {
        (question := fresh(pool)): fleet_of(play, pool).submit("plain", {"question": question})
        for pool, places in POOLS.items()
        for _ in range(2 * places)
    }
    answered(after)
    # What came a second time waited until the first had ended.
    assert {len(play.requests_with(question)) for question in (*handles, *after)} == {1}


@pytest.mark.parametrize("pool", POOLS)
def test_what_a_client_asks_for(play: Stage, pool: str) -> None:
    """Singles, batches, idempotency keys, streams, sessions."""
    fleet, question = fleet_of(play, pool), fresh("q")
    handles = [fleet.submit("plain", {"question": question}, idempotency_key="k" + question) for _ in range(3)]
    assert {handle.id for handle in handles} == {handles[0].id}
    batch = fleet.submit_batch("plain", [{"question": f"{question} {number}"} for number in range(30)])
    assert [handle.get().answer for handle in batch] == [f"answer of {question} {number}" for number in range(30)]
    assert handles[0].get().answer == f"answer of {question}"
    assert len([request for request in play.requests_with(question) if request.inputs["question"] == question]) == 1
    streamed = fleet.submit("plain", {"question": f"streamed {question}"}, stream=True)

    async def pieces() -> list[Any]:
        return [piece async for piece in streamed.stream()]

    assert asyncio.run(pieces())
    assert streamed.get().answer == f"answer of streamed {question}"
    session, warm_question = fresh("s"), f"warm {question}"
    token = fleet.session(session).blocking.set_variable("temp", 0.25)
    assert (
        fleet.submit("warm", {"question": warm_question}, session=session, at_least=token).get().answer
        == f"answer of {warm_question}"
    )
    assert [request.temperature for request in play.requests_with(warm_question)] == [0.25]


@pytest.mark.parametrize("pool", ["asyncio", "threads"])
def test_cancelled_predictions_leave_the_lm(play: Stage, pool: str) -> None:
    """60 are cancelled; no LM request of them goes on, and none begins."""
    fleet, prefix = fleet_of(play, pool), fresh("q")
    play.lm.hang(None, containing=prefix)
    handles = [fleet.submit("plain", {"question": f"{prefix} {number}"}) for number in range(60)]
    play.await_asked(prefix, min(60, POOLS[pool]))
    assert all(handle.cancel() for handle in handles)
    cancelled_at = time.time()
    with pytest.raises(PredictionCancelledError):
        handles[-1].get()
    # The worker has gone through what waited once it answers what was sent after it.
    assert fleet.submit("plain", {"question": fresh("next")}).get().answer
    wait_until(
        lambda: {request.status for request in play.requests_with(prefix)} == {LEFT}, "the LM sees all of them leave"
    )
    # What was about to be sent as the word of it came isn't held back any more.
    assert max(request.received_at for request in play.requests_with(prefix)) < cancelled_at + HEARD_S


def test_costs_are_the_sum_of_the_provenances(play: Stage) -> None:
    program = fresh("priced")
    play.fleet.register(program, dspy.Predict("question -> answer"))
    handles = [fleet_of(play, pool).submit(program, {"question": fresh(pool)}) for pool in POOLS for _ in range(3)]
    handles += fleet_of(play, "asyncio").submit_batch(program, [{"question": fresh("batch")} for _ in range(3)])
    costs = [Decimal(handle.get().provenance.cost_usd or "NaN") for handle in handles]
    (row,) = [row for row in play.fleet.cost().rows if row.program == program]
    assert (row.predictions, row.cost_usd) == (len(handles), sum(costs))


def test_a_deadline_that_is_over(play: Stage) -> None:
    question = fresh("late")
    with pytest.raises(DeadlineExceededError):
        fleet_of(play).submit("plain", {"question": question}, deadline=0.0).get()
    assert not play.requests_with(question)


def test_a_broker_that_stands_still_holds_up_nothing_that_runs(play: Stage, node: RabbitNode) -> None:
    """A later try and the next step of a chain wait for the broker, and the loop doesn't."""
    fleet, tried, honest, chained = fleet_of(play), fresh("tried"), fresh("q"), fresh("chained")
    play.lm.fail(1, status=429, retry_after_s=3, containing=tried)
    play.lm.delay(1)
    again = fleet.submit("plain", {"question": tried})
    steps = fleet.signature("plain", {"question": chained}) | fleet.signature("plain", take={"question": "answer"})
    last = steps.apply_async()
    play.await_asked(tried)
    play.await_asked(chained)
    play.lm.delay(3)
    handle = fleet.submit("plain", {"question": honest})
    play.await_asked(honest)
    with node.standing_still():
        # By then the first two have ended their first try and step, and want to send.
        assert handle.get(PATIENCE_S).answer == f"answer of {honest}"
        assert again.status == "PENDING"
    play.lm.delay(0)
    assert again.get().answer == f"answer of {tried}"
    assert len(play.requests_with(tried)) == 2
    assert fleet.handle(last.id).get().answer == f"answer of answer of {chained}"


def asked_at_once(play: Stage) -> int:
    """Return how many of ten predictions in two workers have called the LM at a time."""
    prefix = fresh("q")
    handles = {
        (question := f"{prefix} {pool} {number}"): fleet_of(play, pool).submit("plain", {"question": question})
        for pool in ("asyncio", "threads")
        for number in range(5)
    }
    answered(handles)
    spans = [(request.received_at, request.answered_at or 0.0) for request in play.requests_with(prefix)]
    assert len(spans) == len(handles)
    return max(sum(begun <= at < ended for begun, ended in spans) for at, _ in spans)


def test_a_limit_of_the_fleet(play: Stage) -> None:
    """Whoever waits for it keeps its place in its worker."""
    limits = play.fleet.session("dspex.fleet").blocking
    play.lm.delay(0.1)
    assert asked_at_once(play) > 2
    limits.set_variables({"dspex.limits.demo.concurrency": 2.0})
    wait_until(lambda: asked_at_once(play) == 2, "the limit to be in force in both workers", timeout_s=5)
    assert asked_at_once(play) == 2
    limits.set_variables({"dspex.limits.demo.concurrency": -1.0})


def test_the_most_urgent_comes_first(play: Stage, node: RabbitNode) -> None:
    fleet = fleet_of(play, fresh("urgent"))
    sent = {priority: fleet.submit("plain", {"question": "q"}, priority=priority).id for priority in (1, 9, 5, 0)}
    with Connection(node.url) as connection:
        channel: Any = connection.channel()
        queue = Queue(fleet.queue)(channel)
        given = [queue.get(no_ack=True).headers["id"] for _ in sent]
    assert given == [sent[priority] for priority in (9, 5, 1, 0)]


def test_a_prediction_that_kills_its_worker_takes_no_more_along_than_it_may(
    play: Stage, node: RabbitNode, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is on the dead list after DSPEX_MAX_DELIVERIES deaths."""
    fleet = fleet_of(play, "prefork")
    honest = {(question := fresh("q")): fleet.submit("poisonable", {"question": question}) for _ in range(6)}
    poison = fleet.submit("poisonable", {"question": fresh(POISON)})
    honest |= {(question := fresh("q")): fleet.submit("poisonable", {"question": question}) for _ in range(6)}
    batch = fleet.submit_batch("poisonable", [{"question": fresh(POISON)}, {"question": fresh("q")}])
    answered(honest)
    with pytest.raises(PredictionGivenUpError, match=r"lost.*died, 2 times"):
        poison.get()
    assert isinstance(end_of(batch[0]), PredictionGivenUpError)
    listed = run(play, node, capsys, "dead", "list", "--json", queue="prefork")
    [entry] = [message for message in listed["messages"] if message["task_id"] == poison.id]
    assert (entry["reason"], entry["queue"], entry["deliveries"]) == ("lost", "prefork", 2)


def end_of(handle: Handle) -> BridgeError | None:
    try:
        handle.get()
    except BridgeError as exc:
        return exc
    return None


def test_a_worker_that_dies_loses_nothing(play: Stage) -> None:
    doomed = play.start(pool="asyncio", concurrency=20, queues=("asyncio",), env={"DSPEX_QUEUE": "asyncio"})
    handles = under_way(play, {"asyncio": 40})
    doomed.kill()
    play.workers.remove(doomed)
    GATE.set()
    play.lm.delay(0)
    answered(handles)
    assert {len(play.requests_with(question)) for question in handles} <= {1, 2}


def unknown_task(message: Any) -> None:
    message["headers"]["task"] = "tasks.nothing"


def broken_body(message: Any) -> None:
    message["body"] = b"{"


@pytest.mark.parametrize("change", [unknown_task, broken_body])
def test_a_message_that_no_worker_can_take_ends_its_prediction(
    play: Stage, node: RabbitNode, change: Callable[[Any], None]
) -> None:
    aside = fleet_of(play, fresh("aside"))
    handle = aside.submit("plain", {"question": fresh("q")})
    with Connection(node.url, transport_options={"confirm_publish": True}) as connection:
        channel: Any = connection.channel()
        waiting = Queue(aside.queue)(channel).get(no_ack=True)
        message = {"body": waiting.body, "headers": dict(waiting.headers)}
        change(message)
        connection.Producer(channel).publish(
            message["body"], routing_key="asyncio", headers=message["headers"], content_type=waiting.content_type,
            content_encoding=waiting.content_encoding,
        )  # fmt: skip
    assert isinstance(end_of(handle), PredictionGivenUpError | PredictionFailedError)
    dead = wait_until(lambda: dead_of(play, handle), "it is on the dead list")
    with pytest.raises(SystemExit):
        main(["--redis-url", play.url, "--broker-url", node.url, "dead", "retry", str(dead)])
    # It comes the same way again, as another entry.
    wait_until(lambda: dead_of(play, handle) not in (None, dead), "it is on the dead list again")


def dead_of(play: Stage, handle: Handle) -> str | None:
    with Redis.from_url(play.url, decode_responses=True) as client:
        names: Any = client.hkeys("dspex:delivery:dead:entries")
    return next((name for name in names if name.startswith(handle.id)), None)


def test_status_and_doctor_see_what_is_there(
    play: Stage, node: RabbitNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers, what waits and what they have taken."""
    # What workers report of themselves takes seconds, and is the same on every broker.
    monkeypatch.setattr("snakepit_bridge.cli.doctor.collect_reports", lambda *_: {})
    idle = fleet_of(play, fresh("idle"))
    for _ in range(3):
        idle.submit("plain", {"question": "q"})
    handles = under_way(play, {"threads": 5})
    found = run(play, node, capsys, "status", "--json", queue=idle.queue)
    backlog = run_blocking(read_fleet_backlog(idle, [idle.queue, fresh("none")]))
    GATE.set()
    play.lm.delay(0)
    answered(handles)
    assert {worker["pool"] for worker in found["workers"]} == set(POOLS)
    assert (found["queue"]["waiting"], found["queue"]["taken"]) == (3, 5)
    assert [(depth.priorities, depth.waiting, depth.oldest_s) for depth in backlog.queues] == [
        ("0 to 9", 3, None), ("0 to 9", 0, None)
    ]  # fmt: skip
    assert (backlog.held, backlog.expired) == (None, None)
    checks = {check["what"]: check for check in run(play, node, capsys, "doctor", "--json", queue="asyncio")}
    assert [checks[what]["level"] for what in ("RabbitMQ", "workers", "code queue")] == ["ok"] * 3


def test_what_the_fleet_has_not_signed_is_refused(play: Stage, node: RabbitNode) -> None:
    key, question = generate_key("k"), fresh("forged")
    play.start(
        pool="asyncio", concurrency=2, queues=("signed",), env={"DSPEX_QUEUE": "signed", "DSPEX_SIGNING_KEYS": key}
    )
    options: dict[str, Any] = {"broker_url": node.url, "queue": "signed", "wait_s": SOON_S}
    own = Fleet(play.url, signing_keys=KeyRing.parse(key), **options)
    assert own.submit("plain", {"question": "signed"}, idempotency_key="once").get().answer == "answer of signed"
    step = own.signature("plain", {"question": "x"}) | own.signature("plain", take={"question": "answer"})
    assert own.handle(step.apply_async().id).get().answer == "answer of answer of x"
    stranger = Fleet(play.url, **options).submit("plain", {"question": question})

    def is_refused() -> bool:
        letters = {letter.task_id: letter for letter in play.fleet.dead_letters.latest()}
        return stranger.id in letters and letters[stranger.id].reason == "forged"

    wait_until(is_refused, "the message to be refused")
    assert not stranger.ready()
    assert play.requests_with(question) == []
    [letter] = [each for each in play.fleet.dead_letters.latest() if each.task_id == stranger.id]
    play.fleet.dead_letters.drop(letter.id)


def test_a_queue_that_was_declared_otherwise_is_named(play: Stage, node: RabbitNode) -> None:
    other = fresh("odd")
    with Connection(node.url) as connection:
        Queue(other, channel=connection.channel()).declare()
    with pytest.raises(ConfigurationError, match="x-max-priority=9"):
        fleet_of(play, other).submit("plain", {"question": "q"})
    worker = play.start(wait=False, queues=(other,), env={"DSPEX_QUEUE": other})
    play.workers.remove(worker)
    assert wait_until(lambda: worker.container.returncode, "the worker to end", timeout_s=SOON_S) == 1
    assert "This worker can't run predictions: RabbitMQ at amqp://" in worker.logs()
    # It is no worse off for it.
    assert fleet_of(play).submit("plain", {"question": fresh("q")}).get().answer


@pytest.mark.parametrize("url", ["amqp://guest:canary@{at}//", "amqp://guest:guest@{at}/none", "amqp://127.0.0.1:9//"])
def test_a_broker_that_refuses_or_is_away_is_named(
    play: Stage, node: RabbitNode, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    broker = url.format(at=node.url.partition("@")[2].strip("/"))
    with within(10), pytest.raises((ConfigurationError, StoreUnavailableError)) as refused:
        Fleet(play.url, broker_url=broker).submit("plain", {"question": "q"})
    capsys.readouterr()
    with within(10), pytest.raises(SystemExit) as ended:
        main(["--redis-url", play.url, "--broker-url", broker, "status"])
    output = capsys.readouterr()
    assert (ended.value.code, output.err.count("\n")) == (1, 1)
    assert "amqp://" in output.err
    assert "canary" not in output.err + str(refused.value)
