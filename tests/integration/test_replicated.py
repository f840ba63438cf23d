"""Publishes, submits and results that wait for a replica or for disks: what if these have it, and if not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import dspy
import pytest

from config.settings import FleetSettings
from snakepit_bridge.cli import main
from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import ConfigurationError, NotReplicatedError, StoreUnavailableError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import DURABILITY, PREDICT
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.replication import Replication
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots import MemoryStore
from tasks.durability import confirm_stored
from tests.harness import servers
from tests.harness.cluster import free_ports, local_server
from tests.harness.sentinel import SentinelDeployment, sentinel_deployment
from tests.harness.stage import fresh
from tests.harness.waiting import PATIENCE_S, wait_until, within
from workers.app import FleetApp
from workers.rabbitmq_dead_letters import dead_letter_on_reject
from workers.server_checks import check_servers

WAIT_S = 0.3
REPLICATED = f"replicated(1, {WAIT_S})"
# Of what a replica that runs is to have.
PATIENT = "replicated(1, 60)"


@pytest.fixture(scope="module")
def deployment() -> Generator[SentinelDeployment]:
    with sentinel_deployment() as running:
        yield running


@pytest.fixture(scope="module")
def fleet(deployment: SentinelDeployment) -> Fleet:
    fleet = Fleet(deployment.url, timeout_s=2, durability=REPLICATED)
    fleet.register("plain", dspy.Predict("question -> answer"))
    return fleet


@contextmanager
def paused_replica(deployment: SentinelDeployment) -> Generator[None]:
    with deployment.other.standing_still():
        yield


def test_what_no_replica_has_in_time_is_an_error_that_says_what_was_found(
    deployment: SentinelDeployment, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    session, name = fleet.session(fresh("s")), "n"
    before = session.blocking.set_variables({name: 1}, durability=PATIENT)
    with paused_replica(deployment):
        with (
            within(WAIT_S + 2),
            pytest.raises(NotReplicatedError, match="0 of 1 replicas have it after 0.3 s") as error,
        ):
            session.blocking.set_variable(name, 2)
        # The revision that the error names is in force, on the primary.
        assert Token.parse(error.value.token) == session.blocking.snapshot().token > before
        assert (error.value.confirmed, error.value.wanted) == (0, 1)
        with pytest.raises(NotReplicatedError):  # an equal publish is no new revision, and waits all the same
            session.blocking.set_variable(name, 2)
        with pytest.raises(NotReplicatedError):
            session.blocking.rollback(before)
        with pytest.raises(NotReplicatedError, match="The prediction's message"):
            fleet.submit("plain", {"question": fresh("q")})
        plain = session.blocking.set_variables({name: 3}, durability="primary")
        with pytest.raises(SystemExit):
            main(["--redis-url", deployment.url, "--durability", REPLICATED, "publish", "shop", "n=1"])
        assert "0 of 1 replicas" in capsys.readouterr().err
    assert session.blocking.set_variables({name: 3}, durability=PATIENT) == plain


def doctor(url: str, capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """Return what doctor says of each thing: its level, and what was found."""
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--redis-url", url, "doctor", "--json"])
    return {check["what"]: (check["level"], check["found"]) for check in json.loads(capsys.readouterr().out)}


async def test_doctor_and_workers_say_what_is_wrong_with_sentinel_and_replicas(
    deployment: SentinelDeployment, capsys: pytest.CaptureFixture[str]
) -> None:
    found = await asyncio.to_thread(doctor, deployment.url, capsys)
    assert found["Sentinel"] == ("ok", f"3 name 127.0.0.1:{deployment.primary.port} as the primary of 'fleet'")
    assert found["replicas"][0] == "warn"
    assert "goes on accepting writes" in found["replicas"][1]
    unknown = deployment.url.replace("/fleet/", "/other/")
    level, problem = (await asyncio.to_thread(doctor, unknown, capsys))["Sentinel"]
    assert level == "fail"
    assert "doesn't know the service 'other', but fleet" in problem
    with pytest.raises(ConfigurationError, match="knows the service 'other'; they know: fleet"):
        await check_servers(FleetSettings.model_validate({"redis_url": unknown}))
    replica = f"redis://127.0.0.1:{deployment.other.port}/0"
    level, problem = (await asyncio.to_thread(doctor, replica, capsys))["replicas"]
    assert (level, problem) == (
        "fail",
        f"this server is a replica of 127.0.0.1:{deployment.primary.port}, and accepts no writes",
    )


def committed(app: FleetApp, task_id: str, durability: str) -> bytes | None:
    """Commit a result as a worker does."""
    replication = Replication.parse(durability)
    return run_blocking(app.backend.acommit(task_id, {"v": 1}, "SUCCESS", durability=replication))


def test_a_result_that_no_replica_has_in_time_is_an_outage_for_its_prediction_alone(
    deployment: SentinelDeployment, caplog: pytest.LogCaptureFixture
) -> None:
    app = FleetApp(FleetSettings.model_validate({"redis_url": deployment.url}))
    with ThreadPoolExecutor(2) as threads:
        with paused_replica(deployment):
            with pytest.raises(StoreUnavailableError, match="0 of 1 replicas have it"):
                committed(app, "early", REPLICATED)
            assert deployment.primary.execute("EXISTS", "celery-task-meta-early") == 1
            # Its message is delivered once more, and finds the result.
            with pytest.raises(StoreUnavailableError, match="0 of 1 replicas have it"):
                run_blocking(confirm_once(app, REPLICATED))
            waiting = [
                threads.submit(committed, app, "late", PATIENT),
                threads.submit(run_blocking, confirm_once(app, PATIENT)),
            ]
            wait_until(lambda: blocked_clients(deployment), "a commit to wait for the replica")
            assert committed(app, "plain", "primary") is None
            assert not any(each.done() for each in waiting)
        assert [each.result(PATIENCE_S) for each in waiting] == [None, None]
    assert committed(app, "early", PATIENT) is not None  # the first one counts
    assert sum("stay unacknowledged" in record.message for record in caplog.records) == 2  # begun, and over


def test_a_message_given_up_is_acknowledged_once_a_replica_has_its_error(deployment: SentinelDeployment) -> None:
    """Another broker than Redis keeps the message until then."""
    app, settled = FleetApp(FleetSettings.model_validate({"redis_url": deployment.url})), list[str]()
    with paused_replica(deployment):
        for task_id, headers in (("durable", {DURABILITY: REPLICATED}), ("undemanding", {})):
            message = SimpleNamespace(
                body=b"", headers={"id": task_id, "task": PREDICT, **headers}, properties={}, content_type="json",
                content_encoding="utf-8", delivery_info={"routing_key": "q"}, reject=None,
                ack=partial(settled.append, task_id),
            )  # fmt: skip
            dead_letter_on_reject(app, message, lambda settle: settle())
            message.reject()
        wait_until(lambda: blocked_clients(deployment), "the wait for the replica")
        wait_until(lambda: settled, "what isn't held up by it")
        assert settled == ["undemanding"]
        assert deployment.primary.execute("EXISTS", "celery-task-meta-durable") == 1
    wait_until(lambda: settled == ["undemanding", "durable"], "the acknowledgement")


async def confirm_once(app: FleetApp, durability: str) -> None:
    await confirm_stored(app.runtime, Replication.parse(durability), patience_s=0)


def blocked_clients(deployment: SentinelDeployment) -> bool:
    return int(deployment.primary.info("clients")["blocked_clients"]) > 0


def test_what_waits_for_disks_has_them_or_says_what_the_server_lacks(
    deployment: SentinelDeployment, tmp_path: Path
) -> None:
    fleet = Fleet(deployment.url, timeout_s=2, durability="fsynced(1, 60)")
    app = FleetApp(FleetSettings.model_validate({"redis_url": deployment.url}))
    fleet.register("plain", dspy.Predict("question -> answer"))
    session = fleet.session(fresh("s")).blocking
    before = session.set_variable("n", 1)
    fleet.submit("plain", {"question": fresh("q")})
    fleet.submit_batch("plain", [{"question": fresh("q")}])
    assert committed(app, fresh("t"), "fsynced(1, 60)") is None
    message = deployment.primary.execute("LINDEX", "predictions\x06\x163", 0)
    assert json.loads(message)["headers"]["durability"] == "fsynced(1, 60)"
    with paused_replica(deployment), pytest.raises(NotReplicatedError, match="1 of 2 servers have it on disk"):
        session.set_variables({"n": 2}, durability=f"fsynced(1, {WAIT_S})")
    deployment.primary.execute("CONFIG", "SET", "appendonly", "no")
    try:
        with pytest.raises(NotReplicatedError, match="0 of 2"):  # as it turns out with the write
            session.set_variable("n", 3)
        with pytest.raises(ConfigurationError, match="Set appendonly yes there"):
            session.set_variable("n", 4)
        with pytest.raises(ConfigurationError, match="has none"):
            Fleet(deployment.url, durability="fsynced").submit("plain", {"question": fresh("q")})
        assert session.get_variable("n") == 3
    finally:
        deployment.primary.execute("CONFIG", "SET", "appendonly", "yes")
    assert session.set_variable("n", 4) > before
    [port] = free_ports(1)
    with servers.running_on("redis"), local_server(tmp_path, "--port", str(port), port=port):
        old = Fleet(f"redis://127.0.0.1:{port}/0", durability="fsynced")
        with pytest.raises(ConfigurationError, match="doesn't know: it is older than Redis 7.2"):
            old.session("s").blocking.set_variable("n", 1)


def test_what_a_replica_has_is_kept_over_a_failover(deployment: SentinelDeployment) -> None:
    fleet = Fleet(deployment.url, timeout_s=2, durability=PATIENT)
    fleet.register("plain", dspy.Predict("question -> answer"))
    session, old = fleet.session(fresh("s")), deployment.primary
    tokens = [session.blocking.set_variable("n", number) for number in range(20)]
    for key in [*(fresh("k") for _ in range(5)), *[None] * 5]:
        fleet.submit("plain", {"question": fresh("q")}, idempotency_key=key)
    old.kill()
    deployment.await_failover(old)

    def kept() -> list[Token] | None:
        try:
            return [change.token for change in session.blocking.history(100)]
        except StoreUnavailableError:
            return None

    assert wait_until(kept, "the client to follow") == tokens[::-1]
    new = deployment.primary
    assert new.execute("LLEN", "predictions\x06\x166") + new.execute("LLEN", "predictions\x06\x163") >= 10


def test_a_store_without_replicas_and_a_word_that_is_no_durability_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="has no replicas"):
        SessionContext("s", MemoryStore()).blocking.set_variables({"n": 1}, durability="replicated")
    with pytest.raises(ValueError, match="A durability is primary, replicated"):
        Fleet(durability="forever")
    elsewhere = Fleet("redis://127.0.0.1:1/0", broker_url="redis://127.0.0.1:1/1", durability="replicated")
    with pytest.raises(ConfigurationError, match="it is another Redis than that of results"):
        elsewhere.submit("plain", {"question": "why"})
    with pytest.raises(ConfigurationError, match="a cluster"):
        Fleet("redis+cluster://127.0.0.1:1", durability="replicated").session("s").blocking.set_variable("n", 1)
