"""What Celery promises of a pool, asked of each pool that the fleet runs on by the same tests.

Where one of Celery's own pools can't do it, the test is skipped for that pool with the reason.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Generator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from celery.result import AsyncResult
from redis import Redis

from config.settings import FleetSettings
from tests.harness.containers import LocalTestWorker, WorkerSpec, local_redis, local_worker
from tests.harness.stage import fresh
from tests.harness.waiting import PATIENCE_S, wait_until
from workers.app import FleetApp

WAIT_S = PATIENCE_S
POOLS = ("asyncio", "threads", "prefork")
SPEC = WorkerSpec(app="tests.harness.pool_app", concurrency=4, queues=("pools",), preloaded=True)

# What Celery's own pools leave out, by pool and by mark.
CANNOT = {
    ("threads", "time_limits"): "Celery's thread pool has no time limits: nothing can interrupt a thread",
    ("threads", "terminate"): "Celery's thread pool can't terminate a task: it raises NotImplementedError",
    ("threads", "resize"): "Celery's thread pool can't grow or shrink: it has neither method",
    ("threads", "hand_back"): "Celery's thread pool waits for running tasks however it is told to stop",
}


@dataclass(frozen=True)
class Ground:
    """A server, an app that sends to it, and what starts workers on it."""

    url: str
    app: FleetApp
    pool: str

    def send(self, name: str, *args: Any, **options: Any) -> AsyncResult:
        return self.app.send_task(f"pools.{name}", args, queue="pools", **options)

    def signature(self, name: str, *args: Any, **options: Any) -> Any:
        return self.app.signature(f"pools.{name}", args, queue="pools", **options)

    def notes(self, key: str) -> list[str]:
        with Redis.from_url(self.url, decode_responses=True) as client:
            notes: Any = client.lrange(key, 0, -1)
            return list(notes)

    def await_notes(self, key: str, *notes: str) -> None:
        wait_until(lambda: self.notes(key) == list(notes), f"{key} to hold {notes}", timeout_s=WAIT_S)

    def is_waited_at_gate(self) -> bool:
        with Redis.from_url(self.url, decode_responses=True) as client:
            clients: Any = client.client_list()
            return any(each["cmd"] == "blmove" for each in clients)

    def open(self, gate: str) -> None:
        with Redis.from_url(self.url) as client:
            client.rpush(gate, "open")
            client.expire(gate, 60)

    def depth(self) -> int:
        with Redis.from_url(self.url) as client:
            return int(str(client.llen("pools")))

    def stats(self, worker: LocalTestWorker) -> dict[str, Any]:
        stats: Any = wait_until(
            lambda: (self.app.control.inspect([node(worker)], timeout=2).stats() or {}).get(node(worker)), "stats"
        )
        return stats

    def running(self, worker: LocalTestWorker) -> list[dict[str, Any]]:
        return (self.app.control.inspect([node(worker)], timeout=2).active() or {}).get(node(worker), [])


def node(worker: LocalTestWorker) -> str:
    return worker.container.node


@pytest.fixture(scope="module", params=POOLS)
def ground(request: pytest.FixtureRequest) -> Generator[Ground]:
    with local_redis() as server:
        url = server.celeryconfig["host_url"]
        app = FleetApp(FleetSettings.model_validate({"redis_url": url, "queue": "pools"}))
        app.conf.imports = ()
        yield Ground(url, app, request.param)
        app.close()


@pytest.fixture(scope="module")
def worker(ground: Ground) -> Generator[LocalTestWorker]:
    """The worker that the tests share; one that stops or changes its worker starts its own."""
    spec = replace(SPEC, pool=ground.pool, env={"POOL_EVENTS": "yes"})
    with local_worker(spec, ground.url, ground.app) as worker:
        yield worker


@pytest.fixture(autouse=True)
def can(request: pytest.FixtureRequest, ground: Ground) -> None:
    for mark in request.node.iter_markers("needs"):
        if (ground.pool, mark.args[0]) in CANNOT:
            pytest.skip(CANNOT[ground.pool, mark.args[0]])


@pytest.fixture
def alone(ground: Ground) -> Generator[Any]:
    """Start a worker of the test's own, on a queue that the shared worker doesn't consume."""
    with local_redis() as server:
        url = server.celeryconfig["host_url"]
        app = FleetApp(FleetSettings.model_validate({"redis_url": url, "queue": "pools"}))
        app.conf.imports = ()
        mine, running = Ground(url, app, ground.pool), []

        def start(**changes: Any) -> tuple[Ground, LocalTestWorker]:
            using = local_worker(replace(SPEC, pool=ground.pool, **changes), url, app)
            running.append(using)
            return mine, using.__enter__()

        yield start
        for using in running:
            using.__exit__(None, None, None)
        app.close()


# ---------------------------------------------------------------- results, errors, retries


@pytest.mark.parametrize("name", ["add", "add_plainly"])
def test_a_task_returns_its_result(ground: Ground, worker: LocalTestWorker, name: str) -> None:
    assert ground.send(name, 1, 2).get(WAIT_S) == 3


def test_an_error_comes_back_with_its_name_and_text(ground: Ground, worker: LocalTestWorker) -> None:
    failed = ground.send("fail", "as told")
    with pytest.raises(LookupError, match="as told"):
        failed.get(WAIT_S)
    assert "raise LookupError(text)" in failed.traceback


def test_a_coroutine_can_catch_what_it_waits_for_raises(ground: Ground, worker: LocalTestWorker) -> None:
    assert ground.send("catch", "this").get(WAIT_S) == "caught this"


@pytest.mark.parametrize("name", ["retry", "autoretry"])
def test_a_task_is_tried_again(ground: Ground, worker: LocalTestWorker, name: str) -> None:
    assert ground.send(name, 2).get(WAIT_S) == 2


@pytest.mark.parametrize(("name", "says"), [("retry", "failed 4 times"), ("autoretry", "not yet")])
def test_tries_come_to_an_end(ground: Ground, worker: LocalTestWorker, name: str, says: str) -> None:
    with pytest.raises(LookupError, match=says):
        ground.send(name, 9).get(WAIT_S)


def test_a_wrong_argument_fails_the_task_alone(ground: Ground, worker: LocalTestWorker) -> None:
    with pytest.raises(TypeError):
        ground.send("add", 1).get(WAIT_S)


def test_an_ignored_task_is_acknowledged_without_a_result(ground: Ground, worker: LocalTestWorker) -> None:
    ignored = ground.send("ignore")
    assert ground.send("add", 1, 1).get(WAIT_S) == 2
    wait_until(lambda: not ground.running(worker), "nothing to run")
    assert ignored.state == "PENDING"


def test_a_cancellation_of_the_tasks_own_doing_is_its_failure(ground: Ground, worker: LocalTestWorker) -> None:
    with pytest.raises(CancelledError):
        ground.send("own_cancellation").get(WAIT_S)
    assert ground.send("add", 1, 1).get(WAIT_S) == 2


def test_a_coroutine_that_tries_to_end_its_worker_fails_alone(ground: Ground, worker: LocalTestWorker) -> None:
    with pytest.raises(RuntimeError, match="tried to end its worker"):
        ground.send("exit").get(WAIT_S)
    assert ground.send("add", 1, 1).get(WAIT_S) == 2


def test_a_coroutine_that_raises_what_ends_coroutines_fails_alone(ground: Ground, worker: LocalTestWorker) -> None:
    with pytest.raises(RuntimeError, match="raised GeneratorExit"):
        ground.send("raise_what_ends_coroutines").get(WAIT_S)
    assert ground.send("add", 1, 1).get(WAIT_S) == 2


# Each task that raises an error makes its traceback longer, so that twice as many take four times as long.
TOGETHER = 32


@pytest.mark.parametrize("pause_s", [0.0, 0.01])
def test_tasks_that_raise_one_and_the_same_error_fail_each_by_itself(
    ground: Ground, alone: Any, pause_s: float
) -> None:
    """Such as what a library raises in all who wait for one connection."""
    ground, worker = alone(concurrency=8 if ground.pool == "prefork" else TOGETHER)
    for _ in range(2):
        # An error of each round's own: its traceback grows with every task that raises it.
        shared = fresh("error")
        sent = [ground.send("fail_together", shared, pause_s) for _ in range(TOGETHER)]
        for task in sent:
            with pytest.raises(LookupError, match="shared"):
                task.get(WAIT_S)
        assert worker.container.returncode is None, worker.container.tail()
    assert "let through" not in worker.logs()
    assert "already executing" not in worker.logs()


def test_a_task_whose_coroutine_somebody_closes_ends_in_an_error(ground: Ground, worker: LocalTestWorker) -> None:
    """Such as by clearing its frame, which reaches into the greenlet that Celery's tracer waits in."""
    if ground.pool != "asyncio":
        pytest.skip("only there a task runs beside others on the loop")
    key, gate = fresh("key"), fresh("gate")
    held = ground.send("hold", key, gate)
    # A connect that is closed halfway stays registered with the loop, for the next file of its number.
    wait_until(ground.is_waited_at_gate, "the task to wait at its gate", timeout_s=WAIT_S)
    assert ground.send("close_others", held.id).get(WAIT_S) == 1
    with pytest.raises(RuntimeError, match="closed from outside"):
        held.get(WAIT_S)
    wait_until(lambda: not ground.running(worker), "nothing to run")
    assert [ground.send("add", 1, number).get(WAIT_S) for number in range(8)] == list(range(1, 9))


# ---------------------------------------------------------------- whose request


def test_each_task_sees_its_own_request_and_context(ground: Ground, worker: LocalTestWorker) -> None:
    key, gate = fresh("key"), fresh("gate")
    sent = [
        ground.send("whoami", kwargs={"mine": str(number), "key": key, "gate": gate})
        for number in range(SPEC.concurrency)
    ]
    ground.await_notes(key, *["began"] * SPEC.concurrency)
    ground.open(gate)
    for number, task in enumerate(sent):
        result: Any = task.get(WAIT_S)
        ids, current, said_mine, context = result
        assert set(ids) == {task.id}
        assert current == task.id
        assert said_mine == str(number)
        assert context == ["nothing", str(number)]


def test_plain_tasks_see_their_own_request_too(ground: Ground, worker: LocalTestWorker) -> None:
    sent = [ground.send("whoami_plainly") for _ in range(20)]
    assert [task.get(WAIT_S) for task in sent] == [task.id for task in sent]


# ---------------------------------------------------------------- canvas


def test_a_chain_hands_results_on(ground: Ground, worker: LocalTestWorker) -> None:
    steps = chain(ground.signature("add", 1, 1), ground.signature("add", 2), ground.signature("add_plainly", 3))
    assert steps.apply_async().get(WAIT_S) == 7


def test_a_group_and_a_chord_bring_all_results_together(ground: Ground, worker: LocalTestWorker) -> None:
    header = [ground.signature("add", number, 1) for number in range(20)]
    assert group(header).apply_async().get(WAIT_S) == list(range(1, 21))
    assert chord(header)(ground.signature("total")).get(WAIT_S) == sum(range(1, 21))


def test_a_failed_header_fails_the_chord(ground: Ground, worker: LocalTestWorker) -> None:
    header = [ground.signature("add", 1, 1), ground.signature("fail", "broken")]
    with pytest.raises(Exception, match="broken"):
        chord(header)(ground.signature("total")).get(WAIT_S)


# ---------------------------------------------------------------- time


def test_a_task_with_an_eta_does_not_run_before_it(ground: Ground, worker: LocalTestWorker) -> None:
    sent_at = time.monotonic()
    later, now = ground.send("add", 1, 1, countdown=1), ground.send("add", 2, 2)
    assert now.get(WAIT_S) == 4
    assert later.get(WAIT_S) == 2
    assert time.monotonic() - sent_at >= 0.9


def test_an_expired_task_does_not_run(ground: Ground, worker: LocalTestWorker) -> None:
    with pytest.raises(TaskRevokedError):
        ground.send("add", 1, 1, expires=-1).get(WAIT_S)


@pytest.mark.needs("time_limits")
def test_at_its_soft_limit_a_task_can_clean_up(ground: Ground, worker: LocalTestWorker) -> None:
    assert ground.send("clean_up", fresh("gate")).get(WAIT_S) == "cleaned up"


@pytest.mark.needs("time_limits")
def test_at_its_soft_limit_a_task_fails_if_it_lets_it(ground: Ground, worker: LocalTestWorker) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        ground.send("softly_limited", fresh("gate")).get(WAIT_S)


@pytest.mark.needs("time_limits")
def test_a_soft_limit_can_come_with_the_message(ground: Ground, worker: LocalTestWorker) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        ground.send("hold", fresh("key"), fresh("gate"), soft_time_limit=0.3).get(WAIT_S)


@pytest.mark.needs("time_limits")
def test_at_its_hard_limit_a_task_is_ended(ground: Ground, worker: LocalTestWorker) -> None:
    with pytest.raises(TimeLimitExceeded):
        ground.send("hard_limited", fresh("gate")).get(WAIT_S)
    wait_until(lambda: not ground.running(worker), "nothing to run")
    assert [ground.send("add", 1, number).get(WAIT_S) for number in range(8)] == list(range(1, 9))


# ---------------------------------------------------------------- revocation


@pytest.mark.needs("terminate")
def test_a_running_task_can_be_terminated(ground: Ground, worker: LocalTestWorker) -> None:
    key, gate = fresh("key"), fresh("gate")
    held = ground.send("hold", key, gate)
    ground.await_notes(key, "began")
    held.revoke(terminate=True, signal="SIGTERM")
    with pytest.raises(TaskRevokedError):
        held.get(WAIT_S)
    wait_until(lambda: not ground.running(worker), "nothing to run")
    ground.open(gate)
    assert [ground.send("add", 1, number).get(WAIT_S) for number in range(8)] == list(range(1, 9))
    assert "ended" not in ground.notes(key)


def test_a_task_revoked_while_it_waits_never_runs(ground: Ground, worker: LocalTestWorker) -> None:
    keys, gate = [fresh("key") for _ in range(SPEC.concurrency)], fresh("gate")
    held = [ground.send("hold", key, gate) for key in keys]
    for key in keys:
        ground.await_notes(key, "began")
    late = fresh("key")
    waiting = ground.send("hold", late, gate)
    waiting.revoke()
    # Broadcasts are handled in order: once the worker answers, it has taken note.
    assert ground.stats(worker)
    ground.open(gate)
    assert [task.get(WAIT_S) for task in held] == ["held"] * len(held)
    with pytest.raises(TaskRevokedError):
        waiting.get(WAIT_S)
    assert ground.notes(late) == []


# ---------------------------------------------------------------- acknowledgement


def unacknowledged(ground: Ground) -> int:
    """How many messages workers hold, as status reads it too."""
    from snakepit_bridge.delivery.backlog import read_backlog
    from snakepit_bridge.process.home_loop import run_blocking
    from snakepit_bridge.redis.connection import RedisConnection

    backlog = run_blocking(read_backlog(RedisConnection(ground.url), namespace=ground.app.settings.namespace))
    assert backlog.held is not None
    return backlog.held


def test_a_message_is_acknowledged_once_its_task_is_done(ground: Ground, worker: LocalTestWorker) -> None:
    wait_until(lambda: unacknowledged(ground) == 0, "all to be acknowledged")
    key, gate = fresh("key"), fresh("gate")
    held = ground.send("hold", key, gate)
    ground.await_notes(key, "began")
    assert unacknowledged(ground) == 1
    ground.open(gate)
    assert held.get(WAIT_S) == "held"
    wait_until(lambda: unacknowledged(ground) == 0, "the message to be acknowledged")


def test_a_task_that_wants_it_is_acknowledged_as_it_begins(ground: Ground, worker: LocalTestWorker) -> None:
    wait_until(lambda: unacknowledged(ground) == 0, "all to be acknowledged")
    key, gate = fresh("key"), fresh("gate")
    held = ground.send("hold_early", key, gate)
    ground.await_notes(key, "began")
    wait_until(lambda: unacknowledged(ground) == 0, "the message to be acknowledged")
    ground.open(gate)
    assert held.get(WAIT_S) == "held"


def test_a_rejected_message_comes_again_if_it_should(ground: Ground, worker: LocalTestWorker) -> None:
    key = fresh("key")
    assert ground.send("reject", key, True).get(WAIT_S) == "taken"
    assert ground.notes(key) == ["delivered", "delivered"]


def test_a_rejected_message_ends_its_task_otherwise(ground: Ground, worker: LocalTestWorker) -> None:
    key = fresh("key")
    with pytest.raises(Exception, match="not for me"):
        ground.send("reject", key, False).get(WAIT_S)
    assert ground.notes(key) == ["delivered"]


# ---------------------------------------------------------------- concurrency


def test_as_many_run_at_a_time_as_the_worker_was_told(ground: Ground, worker: LocalTestWorker) -> None:
    key, gate = fresh("key"), fresh("gate")
    held = [ground.send("hold", key, gate) for _ in range(2 * SPEC.concurrency)]
    ground.await_notes(key, *["began"] * SPEC.concurrency)
    assert len(ground.running(worker)) == SPEC.concurrency
    ground.open(gate)
    assert [task.get(WAIT_S) for task in held] == ["held"] * len(held)


@pytest.mark.needs("resize")
def test_a_pool_grows_and_shrinks_as_it_is_told(ground: Ground, alone: Any) -> None:
    ground, worker = alone(concurrency=1)
    ground.app.control.pool_grow(2, destination=[node(worker)], reply=True)
    key, gate = fresh("key"), fresh("gate")
    held = [ground.send("hold", key, gate) for _ in range(3)]
    ground.await_notes(key, "began", "began", "began")
    ground.open(gate)
    assert [task.get(WAIT_S) for task in held] == ["held"] * 3
    wait_until(lambda: not ground.running(worker), "nothing to run")
    ground.app.control.pool_shrink(2, destination=[node(worker)], reply=True)
    wait_until(lambda: ground.stats(worker)["pool"]["max-concurrency"] == 1, "the pool to shrink")
    key, gate = fresh("key"), fresh("gate")
    held = [ground.send("hold", key, gate) for _ in range(3)]
    ground.await_notes(key, "began")
    ground.open(gate)
    assert [task.get(WAIT_S) for task in held] == ["held"] * 3


@pytest.mark.needs("resize")
def test_autoscale_adds_places_for_what_waits(ground: Ground, alone: Any) -> None:
    ground, worker = alone(arguments=(*SPEC.arguments, "--autoscale", "4,1"), env={"AUTOSCALE_KEEPALIVE": "1"})
    assert ground.stats(worker)["autoscaler"]["max"] == 4
    assert ground.stats(worker)["pool"]["max-concurrency"] == 1
    key, gate = fresh("key"), fresh("gate")
    held = [ground.send("hold", key, gate) for _ in range(4)]
    ground.await_notes(key, *["began"] * 4)
    ground.open(gate)
    assert [task.get(WAIT_S) for task in held] == ["held"] * 4
    wait_until(lambda: ground.stats(worker)["autoscaler"]["current"] == 1, "the pool to shrink again")


# ---------------------------------------------------------------- control and events


def test_the_worker_answers_while_all_its_places_are_taken(ground: Ground, worker: LocalTestWorker) -> None:
    key, gate = fresh("key"), fresh("gate")
    held = [ground.send("hold", key, gate) for _ in range(SPEC.concurrency)]
    ground.await_notes(key, *["began"] * SPEC.concurrency)
    assert ground.app.control.ping(destination=[node(worker)], timeout=2)
    assert ground.stats(worker)["pool"]["max-concurrency"] == SPEC.concurrency
    assert {result["id"] for result in ground.running(worker)} == {task.id for task in held}
    replies = ground.app.control.inspect([node(worker)], timeout=2).query_task(held[0].id)
    assert replies[node(worker)][held[0].id][0] == "active"
    ground.open(gate)
    assert [task.get(WAIT_S) for task in held] == ["held"] * len(held)


def test_its_events_tell_of_each_task(ground: Ground, worker: LocalTestWorker) -> None:
    seen: list[tuple[str, str]] = []
    with ground.app.connection_for_read() as connection:
        receiver = ground.app.events.Receiver(
            connection, handlers={"*": lambda event: seen.append((event.get("uuid", ""), event["type"]))}
        )
        with receiver.consumer_context(wakeup=False) as (listening, _, _):

            def complete(events: set[tuple[Any, str]]) -> bool:
                with suppress(TimeoutError):
                    listening.drain_events(timeout=1)
                return events <= set(seen)

            wait_until(lambda: complete({("", "worker-heartbeat")}), "a sign of the worker", timeout_s=WAIT_S)
            good, bad = ground.send("add", 1, 1), ground.send("fail", "no")
            of_good = {(good.id, f"task-{what}") for what in ("received", "started", "succeeded")}
            of_bad = {(bad.id, f"task-{what}") for what in ("received", "started", "failed")}
            wait_until(lambda: complete(of_good | of_bad), f"all events of both tasks among {seen}", timeout_s=WAIT_S)


# ---------------------------------------------------------------- shutdown


def await_end(worker: LocalTestWorker, within_s: float) -> None:
    wait_until(lambda: worker.container.returncode is not None, "the worker to end", timeout_s=within_s)


def test_a_warm_shutdown_finishes_what_runs(alone: Any) -> None:
    ground, worker = alone()
    keys, gate = [fresh("key") for _ in range(3)], fresh("gate")
    held = [ground.send("hold", key, gate) for key in keys]
    for key in keys:
        ground.await_notes(key, "began")
    worker.container.kill("SIGTERM")
    wait_until(lambda: "Warm shutdown" in worker.container.logs(), "the shutdown to begin")
    late = ground.send("add", 1, 1)
    ground.open(gate)
    await_end(worker, WAIT_S)
    assert worker.container.returncode == 0
    assert [task.get(WAIT_S) for task in held] == ["held"] * 3
    assert [ground.notes(key) for key in keys] == [["began", "ended"]] * 3
    # It came while the worker was closing: run or left where it was, but not lost.
    assert (late.state == "SUCCESS") + ground.depth() == 1
    assert unacknowledged(ground) == 0


@pytest.mark.needs("hand_back")
def test_a_cold_shutdown_hands_back_what_runs(alone: Any) -> None:
    ground, worker = alone()
    key, gate = fresh("key"), fresh("gate")
    held = [ground.send("hold", key, gate) for _ in range(4)]
    ground.await_notes(key, *["began"] * 4)
    worker.container.kill("SIGQUIT")
    await_end(worker, WAIT_S)
    assert "ended" not in ground.notes(key)
    assert [task.state for task in held] == ["PENDING"] * 4
    assert (ground.depth(), unacknowledged(ground)) == (4, 0)
    _, other = alone()
    ground.open(gate)
    assert [task.get(WAIT_S) for task in held] == ["held"] * 4
    assert other.container.returncode is None


@pytest.mark.needs("hand_back")
def test_a_soft_shutdown_gives_running_tasks_a_while(alone: Any) -> None:
    ground, worker = alone(env={"POOL_SOFT_SHUTDOWN_S": "2"})
    short, long, gates = fresh("key"), fresh("key"), [fresh("gate"), fresh("gate")]
    ends, stays = ground.send("hold", short, gates[0]), ground.send("hold", long, gates[1])
    ground.await_notes(short, "began")
    ground.await_notes(long, "began")
    worker.container.kill("SIGQUIT")
    wait_until(lambda: "Initiating Soft Shutdown" in worker.container.logs(), "the shutdown to begin")
    ground.open(gates[0])
    await_end(worker, WAIT_S)
    assert ends.get(WAIT_S) == "held"
    assert stays.state == "PENDING"
    assert (ground.depth(), unacknowledged(ground)) == (1, 0)


@pytest.mark.needs("hand_back")
def test_a_task_that_suppresses_its_end_does_not_hold_up_a_shutdown(alone: Any) -> None:
    ground, worker = alone()
    key = fresh("key")
    ground.send("stubborn", key, fresh("gate"))
    ground.await_notes(key, "began")
    worker.container.kill("SIGQUIT")
    await_end(worker, WAIT_S)
    assert (ground.depth(), unacknowledged(ground)) == (1, 0)


@pytest.mark.needs("terminate")
def test_a_task_that_suppresses_its_end_gives_up_its_place(alone: Any) -> None:
    ground, _ = alone(concurrency=1)
    key = fresh("key")
    stubborn = ground.send("stubborn", key, fresh("gate"))
    ground.await_notes(key, "began")
    stubborn.revoke(terminate=True)
    assert ground.send("add", 1, 1).get(WAIT_S) == 2
    assert stubborn.state == "REVOKED"


def test_after_a_kill_the_tasks_that_ran_are_still_in_the_broker(alone: Any) -> None:
    ground, worker = alone()
    key = fresh("key")
    for _ in range(3):
        ground.send("hold", key, fresh("gate"))
    ground.await_notes(key, "began", "began", "began")
    worker.container.kill(signal.SIGKILL.name)
    await_end(worker, WAIT_S)
    assert ground.depth() + unacknowledged(ground) == 3
