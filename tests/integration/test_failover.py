"""Sentinel fails a fleet's Redis over under load: clients, workers, refresher and gateway follow; all is counted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy
import grpc.aio
import pytest

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.exceptions import (
    NotReplicatedError,
    PredictionTimeoutError,
    PredictionUnknownError,
    StoreUnavailableError,
    VariableNotFoundError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.harness import servers
from tests.harness.sentinel import SentinelDeployment, ServerProcess, sentinel_deployment
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, Stopwatch, eventually, wait_until
from tests.integration.gateway_clients import connected, gateway
from tests.integration.test_refresher import QUICK
from workers.refresher import Refresher, RefresherSettings

FOLLOWED_WITHIN_S = 15.0
TIMEOUT_S = 2.0
# What the old primary alone knew has no answer after this long.
LOST_AFTER_S = 20.0
SESSION = "shop"


@dataclass
class Traffic:
    """Predictions and publishes without a pause, and what became of each."""

    play: Stage
    handles: dict[str, tuple[Handle, float]] = field(default_factory=dict[str, tuple[Handle, float]])
    tokens: list[tuple[Token, float]] = field(default_factory=list[tuple[Token, float]])
    refused: Counter[str] = field(default_factory=Counter[str])
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def flowing(self) -> Generator[None]:
        """Within it, two threads submit and publish."""
        with ThreadPoolExecutor(2) as threads:
            running = [threads.submit(self._submit), threads.submit(self._publish)]
            try:
                yield
            finally:
                self._stop.set()
            for each in running:
                each.result()

    def acknowledged_since(self, moment: float) -> tuple[int, int]:
        """Return how many submits and how many publishes were acknowledged after a moment."""
        submits = sum(at > moment for _, at in list(self.handles.values()))
        return submits, sum(at > moment for _, at in list(self.tokens))

    def _submit(self) -> None:
        while not self._stop.wait(0.01):
            question = fresh("q")
            handle = self.repeat("submits refused meanwhile", lambda: self._send(question))  # noqa: B023
            if handle is not None:
                self.handles[question] = handle, time.monotonic()

    def _send(self, question: str) -> Handle:
        return self.play.fleet.submit("plain", {"question": question}, idempotency_key=question)

    def _publish(self) -> None:
        session = self.play.fleet.session(SESSION).blocking
        while not self._stop.wait(0.01):
            token = self.repeat("publishes refused meanwhile", lambda: session.set_variable("n", time.monotonic()))
            if token is not None:
                self.tokens.append((token, time.monotonic()))

    def repeat(self, what: str, call: Callable[[], Any]) -> Any:
        """Return what a call returns once the store is there; None if the traffic has ended before."""
        while not self._stop.is_set():
            try:
                return call()
            except StoreUnavailableError:
                self.refused[what] += 1
                self._stop.wait(0.1)
        return None


@pytest.fixture(scope="module")
def deployment() -> Generator[SentinelDeployment]:
    with servers.running_on("redis"), sentinel_deployment() as running:
        yield running


@pytest.fixture(scope="module")
def play(deployment: SentinelDeployment, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    fleet = Fleet(deployment.url, timeout_s=TIMEOUT_S)
    fleet.register("plain", dspy.Predict("question -> answer"))
    env: dict[str, Any] = {"DSPEX_LEASE_S": "2", "DSPEX_REDIS_TIMEOUT_S": str(TIMEOUT_S)}
    folder: Path = tmp_path_factory.mktemp("stage")
    with stage(folder, worker=False, url=deployment.url, app=fleet.app, **env) as playing:
        for _ in range(2):
            playing.start(wait=False, pool="asyncio", concurrency=50)
        for worker in playing.workers:
            worker.ready()
        yield playing


def collect(traffic: Traffic, since: float) -> dict[str, int]:
    """Wait for every prediction, submit again what only the old primary knew, and return the counts."""
    again: list[str] = []
    for question, (handle, at) in traffic.handles.items():
        try:
            answer = handle.get(PATIENCE_S if at >= since else LOST_AFTER_S).answer
        except (PredictionTimeoutError, PredictionUnknownError):
            assert at < since, "a prediction that the new primary acknowledged has no answer"
            again.append(question)
        else:
            assert answer == f"answer of {question}"
    for question in again:
        handle = traffic.play.fleet.submit("plain", {"question": question}, idempotency_key=question)
        assert handle.get(PATIENCE_S).answer == f"answer of {question}"
    requests = Counter(value for request in traffic.play.lm.requests for value in request.inputs.values())
    repeated = sum(requests[question] > 1 for question in traffic.handles)
    return {"submitted": len(traffic.handles), "lost with the old primary": len(again), "asked again": repeated}


def count_tokens(traffic: Traffic, since: float) -> dict[str, int]:
    """Return how many revisions were published and are kept; the new primary has all that it acknowledged."""
    history = {change.token for change in traffic.play.fleet.session(SESSION).blocking.history(10_000)}
    lost = [at for token, at in traffic.tokens if token not in history]
    assert all(at < since for at in lost), "a revision that the new primary acknowledged is gone"
    return {"published": len(traffic.tokens), "revisions lost with the old primary": len(lost)}


@pytest.mark.parametrize("how", ["killed", "standing still"])
def test_a_failover_under_load_loses_nothing_that_the_new_primary_acknowledged(
    deployment: SentinelDeployment, play: Stage, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    traffic, old = Traffic(play), deployment.primary
    hanging = nullcontext() if how == "killed" else old.standing_still()
    with traffic.flowing():
        wait_until(lambda: len(traffic.handles) > 50 and len(traffic.tokens) > 20, "some traffic")
        watch = Stopwatch()
        with hanging:
            if how == "killed":
                old.kill()
            deployment.await_failover(old)
            promoted_s = watch.elapsed_s
            since = time.monotonic()
            wait_until(lambda: all(traffic.acknowledged_since(since)), "client and publisher to follow")
            followed_s = watch.elapsed_s
            handle = traffic.repeat(
                "submits refused meanwhile", lambda: play.fleet.submit("plain", {"question": "after"})
            )
            assert handle.get(PATIENCE_S).answer == "answer of after"
            answered_s = watch.elapsed_s
        if how == "killed":
            old.start()  # as it was: a primary, until Sentinel demotes it
        deployment.await_replica(old)
        back = time.monotonic()
        wait_until(lambda: all(traffic.acknowledged_since(back)), "traffic after the old primary is back")
    counts = {**collect(traffic, since), **count_tokens(traffic, since), **traffic.refused}
    assert max(followed_s, answered_s) < FOLLOWED_WITHIN_S
    assert deployment.primary is not old
    with capsys.disabled():
        print(
            f"\nfailover, primary {how}: promoted after {promoted_s:.1f} s, followed after {followed_s:.1f} s, "
            f"answered after {answered_s:.1f} s; " + ", ".join(f"{count} {name}" for name, count in counts.items())
        )


def test_a_message_stays_held_until_a_replica_has_its_result(deployment: SentinelDeployment, play: Stage) -> None:
    fleet = Fleet(deployment.url, timeout_s=TIMEOUT_S, durability="replicated(1, 0.3)")
    wait_until(lambda: not held_messages(deployment), "what was sent before to be acknowledged")
    with deployment.other.standing_still():
        question, batched = fresh("q"), [{"question": fresh("q")} for _ in range(3)]
        with pytest.raises(NotReplicatedError):
            fleet.submit("plain", {"question": question}, idempotency_key=question)
        with pytest.raises(NotReplicatedError):
            fleet.submit_batch("plain", batched, idempotency_keys=[each["question"] for each in batched])
        alone = play.fleet.submit("plain", {"question": question}, idempotency_key=question)
        assert alone.get(PATIENCE_S).answer == f"answer of {question}"  # as soon as the primary has it
        play.await_asked(batched[-1]["question"])
        # Predictions that don't ask for it end meanwhile.
        assert play.fleet.submit("plain", {"question": question}).get(PATIENCE_S).answer == f"answer of {question}"
        wait_until(lambda: held_messages(deployment) == 2, "the others' messages alone to be held")
    wait_until(lambda: not held_messages(deployment), "both to be acknowledged")
    assert len(play.requests_with(batched[0]["question"])) == 1


def held_messages(deployment: SentinelDeployment) -> int:
    """Return how many messages workers hold."""
    primary = deployment.primary
    return sum(primary.execute("HLEN", key) for key in primary.execute("KEYS", "dspex:delivery:held:*"))


async def test_refresher_and_gateway_follow_a_failover(deployment: SentinelDeployment, play: Stage) -> None:
    fleet = play.fleet
    with BridgeServer() as elixir:
        elixir.begin("followed")
        elixir.register("followed", "temperature", "float", 0.5, min=0, max=2)
        settings: dict[str, Any] = {"sessions": ("followed",), **QUICK, "redis_timeout_s": TIMEOUT_S}
        refresher, stop = Refresher(RefresherSettings(elixir.address, deployment.url, **settings)), asyncio.Event()
        running = asyncio.create_task(refresher.run(stop))
        try:
            async with gateway(deployment.url) as served, connected(served.grpc_address, None) as client:
                await eventually(lambda: shows(fleet, 0.5), "the first value")
                before = await client.publish("gated", n=1)
                old = deployment.primary
                old.kill()
                elixir.set("followed", "temperature", 0.9)
                await asyncio.to_thread(deployment.await_failover, old)

                async def published() -> str | None:
                    try:
                        return await client.publish("gated", n=2)
                    except grpc.aio.AioRpcError as exc:
                        if exc.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        return None

                after = await eventually(published, "the gateway to follow", timeout_s=FOLLOWED_WITHIN_S)
                assert Token.parse(after) > Token.parse(before)
                await eventually(lambda: shows(fleet, 0.9), "the refresher to follow", timeout_s=FOLLOWED_WITHIN_S)
        finally:
            stop.set()
            await running
    await asyncio.to_thread(restart, deployment, old)


async def shows(fleet: Fleet, temperature: float) -> bool:
    try:
        return await fleet.session("followed").get_variable("temperature") == temperature
    except (StoreUnavailableError, VariableNotFoundError):
        return False  # the new primary may have to be told of the session anew


def restart(deployment: SentinelDeployment, server: ServerProcess) -> None:
    server.start()
    deployment.await_replica(server)
