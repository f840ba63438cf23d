"""A scrape of each kind of process, held against the table of metrics, and against what the fleet does at the time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.telemetry.metrics import (
    CATALOG,
    FOLLOWED_SESSIONS,
    HTTP_DURATION,
    LEASES_EXPIRED,
    LIMIT_ALLOWED,
    LIMIT_USED,
    LIVE_REFRESHERS,
    LIVE_WORKERS,
    MESSAGES_DEAD,
    MESSAGES_HELD,
    MESSAGES_PARKED,
    PREDICTIONS,
    QUEUE_AGE,
    QUEUE_DEMAND,
    QUEUE_DEPTH,
    REVISIONS_PUBLISHED,
    RPC_DURATION,
    SESSION_STALENESS,
    STALE_SESSIONS,
    Metric,
    Process,
)
from snakepit_bridge.telemetry.prometheus_meter import prometheus_labels, prometheus_name
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.harness.cluster import free_ports
from tests.harness.otlp import Collector, collector
from tests.harness.preloaded import PreloadedPopen
from tests.harness.programs import WithTool
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import wait_until
from tests.integration.gateway_clients import connected

ROOT = Path(__file__).parents[2]
# A new process takes seconds to load on a busy machine, and the state of sessions is read every 15 seconds.
START_S, READ_S = 60.0, 40.0
PORT = "OTEL_EXPORTER_PROMETHEUS_PORT"
SESSION, FOLLOWED, FORKED = "metrics", "followed", "forked"

LIMITED = """
[profiles.limited]
model = "openai/limited"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
limits = {{ concurrency = 1, requests_per_min = 6000 }}
"""

Samples = Mapping[tuple[str, ...], float]


@dataclass
class Observed:
    """A fleet of every kind of process, each of which is scraped.

    Attributes:
        play: the stage, with a worker of the asyncio pool.
        forked: a client of the queue that a prefork worker takes.
        elixir: the server that a refresher follows.
        gateway: the gateway's addresses.
        ports: where each process is scraped.
        exported: what all of them export over OTLP.
        client: of their Redis.
    """

    play: Stage
    forked: Fleet
    elixir: BridgeServer
    gateway: Mapping[str, str]
    ports: Mapping[str, int]
    exported: Collector
    client: Redis = field(repr=False)

    def scrape(self, process: str) -> dict[str, int]:
        """Return how many samples each metric of a process has."""
        return {family.name: len(family.samples) for family in self._fetch(process)}

    def _fetch(self, process: str) -> list[Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[process]}/metrics") as page:
            return list(text_string_to_metric_families(page.read().decode()))

    def read(self, process: str, metric: Metric) -> Samples:
        """Return the values of one metric, by the values of its labels in the order of the table."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[process]}/metrics") as page:
            families = text_string_to_metric_families(page.read().decode())
            samples = [
                sample for family in families if family.name == prometheus_name(metric) for sample in family.samples
            ]
        names = prometheus_labels((*metric.labels, *metric.optional))
        ends = (prometheus_name(metric), f"{prometheus_name(metric)}_total", f"{prometheus_name(metric)}_count")
        return {
            tuple(sample.labels[name] for name in names if name in sample.labels): sample.value
            for sample in samples
            if sample.name in ends
        }

    def ask(self, question: str = "", **options: Any) -> Handle:
        """Submit a prediction to the asyncio worker."""
        return self.play.fleet.submit("qa", {"question": question or fresh("q")}, session=SESSION, **options)

    @contextmanager
    def paused(self) -> Generator[None]:
        """Within it the asyncio worker takes no new predictions."""
        control, queue = self.play.fleet.app.control, self.play.fleet.queue
        node: dict[str, Any] = {"destination": [self.play.worker.container.node], "reply": True, "timeout": 5}
        assert control.cancel_consumer(queue, **node)
        # The reply comes before the queue is cancelled.
        wait_until(
            lambda: not any(each for reply in control.broadcast("active_queues", **node) for each in reply.values()),
            "the queue to be cancelled",
        )
        try:
            yield
        finally:
            assert control.add_consumer(queue, **node)

    def await_value(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Wait until both the gateway and the refresher export this value."""
        for process in ("gateway", "refresher"):
            wait_until(
                lambda process=process: self.read(process, metric).get(labels) == value,
                f"{metric.name}{labels} = {value} at the {process}",
                timeout_s=READ_S,
            )


def both_exits(exported: Collector) -> dict[str, Any]:
    """Return the settings by which a process is scraped and exports over OTLP."""
    return {
        "OTEL_METRICS_EXPORTER": "otlp,prometheus",
        "OTEL_EXPORTER_OTLP_ENDPOINT": exported.url,
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }


def start(running: ExitStack, command: list[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[str]:
    output = running.enter_context(log.open("ab"))
    process = PreloadedPopen(
        [sys.executable, "-m", *command], env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=output, text=True
    )
    running.callback(process.communicate)
    running.callback(process.kill)
    return process


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Generator[Observed]:
    folder = tmp_path_factory.mktemp("metrics")
    names: tuple[str, ...] = ("asyncio", "prefork", "gateway", "refresher")
    ports: dict[str, int] = dict(zip(names, free_ports(len(names)), strict=True))
    with ExitStack() as running:
        exported = running.enter_context(collector())
        elixir = running.enter_context(BridgeServer())
        elixir.begin(FOLLOWED)
        elixir.register(FOLLOWED, "temp", "float", 0.5)
        playing = running.enter_context(
            stage(
                folder, worker=False, more_profiles=LIMITED, DSPEX_ALLOWED_PACKAGES="tests", DSPEX_LEASE_S="1",
                DSPEX_BRIDGE=elixir.address, **both_exits(exported),
            )
        )  # fmt: skip
        for pool, queues in (("asyncio", ("predictions",)), ("prefork", (FORKED,))):
            port = {PORT: str(ports[pool])}
            playing.start(pool=pool, concurrency=2, queues=queues, name=pool, env=port, wait=False)
        gateway = ["snakepit_bridge.cli", "gateway", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        env = {**os.environ, "DSPEX_REDIS_URL": playing.url, **both_exits(exported)}
        served = start(running, gateway, {**env, PORT: str(ports["gateway"])}, folder / "gateway.log")
        refresher = ["workers.refresher", "--bridge", elixir.address, "--sessions", FOLLOWED]
        start(running, refresher, {**env, PORT: str(ports["refresher"])}, folder / "refresher.log")
        assert served.stdout is not None
        addresses = json.loads(served.stdout.readline())
        for worker in playing.workers:
            worker.ready()
        client = running.enter_context(Redis.from_url(playing.url))
        wait_until(lambda: client.zcard("dspex:refreshers") == 1, "the refresher", timeout_s=START_S)
        forked = Fleet(playing.url, queue=FORKED, wait_s=30)
        playing.fleet.register("qa", dspy.ChainOfThought("question -> answer"), bindings={"temperature": "temp"})
        playing.fleet.register("tooled", WithTool())
        playing.fleet.register("limited", dspy.Predict("question -> answer"), bindings={"model": "llm"})
        yield Observed(playing, forked, elixir, addresses, ports, exported, client)


def work(fleet: Fleet, session: str) -> None:
    """Ordinary traffic: predictions before and after a publish, streamed ones, with a tool and under a limit."""
    variables = fleet.session(session).blocking
    variables.set_variables({"temp": 0.2, "llm": "limited"})
    fleet.submit("qa", {"question": fresh("q")}, session=session).get()
    token = variables.set_variable("temp", 0.4)
    fleet.submit("qa", {"question": fresh("q")}, session=session, at_least=token).get()
    fleet.submit("qa", {"question": fresh("q")}, session=session, stream=True).get()
    fleet.submit("tooled", {"question": fresh("q")}).get()
    fleet.submit("limited", {"question": fresh("q")}, session=session).get()


async def use_gateway(addresses: Mapping[str, str]) -> None:
    async with httpx.AsyncClient(base_url=f"http://{addresses['http']}") as client:
        answer = await client.post("/v1/predictions", json={"program": "qa", "inputs": {"question": fresh("q")}})
        assert answer.status_code == 200, answer.text
        assert (await client.get("/v1/programs/unknown")).status_code == 404
    async with connected(addresses["grpc"], None) as client:
        await client.publish(SESSION, note=1)


def documented(process: Process, *, rare: bool) -> set[str]:
    metrics = [metric for metric in CATALOG.values() if process in metric.processes]
    return {prometheus_name(metric) for metric in metrics if rare or not metric.rare}


@pytest.fixture(scope="module")
def busy(fleet: Observed) -> Observed:
    """The fleet, once every process has had its ordinary traffic."""
    work(fleet.play.fleet, SESSION)
    work(fleet.forked, FORKED)
    run_blocking(use_gateway(fleet.gateway))
    fleet.elixir.set(FOLLOWED, "temp", 0.7)
    return fleet


@pytest.mark.parametrize(
    ("name", "process"),
    [("asyncio", "worker"), ("prefork", "worker"), ("gateway", "gateway"), ("refresher", "refresher")],
)
def test_a_scrape_of_each_process_has_the_metrics_of_the_table(busy: Observed, name: str, process: Process) -> None:
    wanted = documented(process, rare=False)

    def lacking() -> set[str]:
        return {metric for metric in wanted if not busy.scrape(name).get(metric)}

    try:
        wait_until(lambda: not lacking(), f"all metrics of the {name} process", timeout_s=READ_S)
    except AssertionError as exc:
        raise AssertionError(f"The {name} process lacks {sorted(lacking())}") from exc
    shown = {metric for metric, samples in busy.scrape(name).items() if samples}
    assert shown <= documented(process, rare=True), "what the table doesn't give this process"


def test_waiting_messages_count_by_queue_and_priority(busy: Observed) -> None:
    with busy.paused():
        waiting = [busy.ask(priority=priority) for priority in (2, 2, 2, 7)]
        busy.await_value(QUEUE_DEPTH, ("predictions", "0-2"), 3.0)
        busy.await_value(QUEUE_DEPTH, ("predictions", "6-8"), 1.0)
        busy.await_value(QUEUE_DEMAND, ("predictions",), 4.0)
        ages = busy.read("gateway", QUEUE_AGE)
        assert 0 < ages["predictions", "0-2"] < 60
        assert ages["predictions", "9"] == 0
    for handle in waiting:
        handle.get()
    busy.await_value(QUEUE_DEPTH, ("predictions", "0-2"), 0.0)


def test_limits_and_those_that_wait_for_them_are_exported(busy: Observed) -> None:
    question = fresh("held")
    busy.play.lm.hang(1, containing=question)
    running = busy.play.fleet.submit("limited", {"question": question}, session=SESSION)
    busy.play.await_asked(question)
    parked = [busy.play.fleet.submit("limited", {"question": fresh("q")}, session=SESSION) for _ in range(2)]
    busy.await_value(MESSAGES_PARKED, ("limited",), 2.0)
    busy.await_value(LIMIT_USED, ("limited", "concurrency"), 1.0)
    assert busy.read("refresher", LIMIT_ALLOWED)["limited", "concurrency"] == 1.0
    assert busy.read("refresher", LIMIT_ALLOWED)["limited", "requests_per_min"] == 6000.0
    busy.await_value(MESSAGES_HELD, (), 1.0)
    busy.await_value(QUEUE_DEMAND, ("predictions",), 1.0)
    assert running.cancel()
    for handle in parked:
        handle.get()
    busy.await_value(MESSAGES_PARKED, ("limited",), 0.0)
    busy.await_value(MESSAGES_HELD, (), 0.0)


def test_dead_messages_are_counted(busy: Observed) -> None:
    busy.play.fleet.app.send_task("nobody.knows", queue=busy.play.fleet.queue)
    busy.await_value(MESSAGES_DEAD, (), 1.0)
    busy.client.delete("dspex:delivery:dead", "dspex:delivery:dead:entries")


def test_a_refresher_tells_of_its_sessions_and_how_fresh_they_are(busy: Observed) -> None:
    wait_until(lambda: busy.read("refresher", REVISIONS_PUBLISHED)[("",)] >= 2, "two publishes", timeout_s=READ_S)
    assert busy.read("refresher", FOLLOWED_SESSIONS)[("followed",)] == 1.0
    busy.await_value(LIVE_REFRESHERS, (), 1.0)
    busy.await_value(STALE_SESSIONS, (), 0.0)
    assert busy.read("gateway", SESSION_STALENESS)[()] < READ_S
    wait_until(lambda: busy.read("gateway", LIVE_WORKERS)[()] >= 2, "the worker processes", timeout_s=READ_S)


def test_a_gateway_counts_its_requests_by_route_method_and_status(busy: Observed) -> None:
    requests = busy.read("gateway", HTTP_DURATION)
    assert requests["POST", "/v1/predictions", "200", ""] >= 1
    assert requests["GET", "/v1/programs/{reference}", "404", ""] >= 1
    calls = busy.read("gateway", RPC_DURATION)
    assert calls["grpc", "dspex.fleet.v1.Variables/Publish", "OK", ""] >= 1


def test_predictions_of_a_prefork_workers_children_are_counted_at_its_port(busy: Observed) -> None:
    before = busy.read("prefork", PREDICTIONS)["qa", "ok", ""]
    busy.forked.submit("qa", {"question": fresh("q")}, session=FORKED).get()
    wait_until(lambda: busy.read("prefork", PREDICTIONS)["qa", "ok", ""] == before + 1, "one more prediction")


def test_the_state_of_the_fleet_is_exported_over_otlp_as_well(busy: Observed) -> None:
    def instances() -> set[str]:
        return {instance for name, instance, _ in list(busy.exported.metrics) if name == QUEUE_DEPTH.name}

    wait_until(lambda: len(instances()) == 2, "the gateway's and the refresher's exports", timeout_s=READ_S)


def test_a_child_that_replaces_another_exports_as_that_did(busy: Observed) -> None:
    program, inspected = fresh("replaced"), busy.forked.app.control.inspect([busy.play.workers[1].container.node])

    def children() -> set[int]:
        return set(next(iter((inspected.stats() or {"": {"pool": {"processes": []}}}).values()))["pool"]["processes"])

    before = children()
    for child in before:
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: len(children() - before) == 2, "new children", timeout_s=START_S)
    busy.forked.register(program, dspy.Predict("question -> answer"))
    for _ in range(4):
        busy.forked.submit(program, {"question": fresh("q")}).get()
    wait_until(lambda: busy.exported.total(PREDICTIONS.name, program, "ok") == 4, "their exports", timeout_s=READ_S)
    assert busy.read("prefork", PREDICTIONS)[program, "ok", ""] == 4


def test_a_killed_workers_messages_count_as_expired_leases(busy: Observed) -> None:
    """It comes last: it kills the worker."""
    question = fresh("held")
    busy.play.lm.hang(1, containing=question)
    handle = busy.ask(question)
    busy.play.await_asked(question)
    busy.play.worker.container.kill()
    busy.await_value(LEASES_EXPIRED, (), 1.0)
    busy.play.worker.container.restart()
    handle.get()
