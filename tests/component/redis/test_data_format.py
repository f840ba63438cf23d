"""The number of the format of a fleet's data: an older process says by name that it would misread what is there."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.connection import Connection
from pydantic import SecretStr
from redis import Redis

from config.settings import FleetSettings
from snakepit_bridge.exceptions import DataFormatError
from snakepit_bridge.redis import data_format
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.data_format import DATA_FORMAT, mark_data_format
from snakepit_bridge.redis.scripts import Script
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.telemetry.metrics import REDIS_COMMANDS, REDIS_DURATION
from snakepit_bridge.variables import Variable
from tests.harness import golden
from tests.harness.meter import recorded_meter
from tests.harness.waiting import eventually, wait_until
from workers.gateway.service import Gateway
from workers.gateway.settings import GatewaySettings
from workers.health.worker_probes import WorkerProbes
from workers.health.worker_report import WorkerReport
from workers.refresher import RefresherSettings
from workers.refresher.service import run_refresher
from workers.server_checks import check_servers
from workers.watchdog.beats import MAX_REPORT_BYTES, SharedStatus

KEY = "dspex:format"
NEWER = DATA_FORMAT + 1


@pytest.fixture
def server(redis_url: str) -> Redis:
    return Redis.from_url(redis_url)


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[RedisConnection]:
    opened = RedisConnection(redis_url, namespace="dspex")
    yield opened
    await opened.aclose()


async def test_data_without_a_number_is_that_of_the_first_releases(connection: RedisConnection, server: Redis) -> None:
    golden.restore_session(server, golden.load("0.2.0", "server"))
    assert await connection.execute("SET", "key", "value", "EX", 60)
    assert server.get(KEY) is None, "who only uses a fleet leaves no number"


@pytest.mark.parametrize("number", [str(NEWER), "1.5", "x" * 10_000])
async def test_nothing_is_sent_to_a_fleet_of_a_newer_format(
    connection: RedisConnection, server: Redis, number: str
) -> None:
    server.set(KEY, number)
    for _ in range(2):
        with pytest.raises(DataFormatError, match=f"^The data of fleet 'dspex' in Redis has format '{number[:20]}'"):
            await connection.execute("SET", "key", "value")
        with pytest.raises(DataFormatError, match="Upgrade this process; see docs/how-to/upgrade.md"):
            await connection.wait_bounded(connection.client.ping())
    assert server.get("key") is None


async def test_another_fleet_of_the_server_has_a_format_of_its_own(redis_url: str, server: Redis) -> None:
    server.set("other:format", NEWER)
    store, others = RedisStore(redis_url), RedisStore(redis_url, namespace="other")
    assert await store.publish("s", {"a": Variable.declare("a", 1, "integer")})
    with pytest.raises(DataFormatError, match="'other'"):
        await others.publish("s", {"a": Variable.declare("a", 1, "integer")})
    await store.aclose()
    await others.aclose()


def test_a_worker_is_not_ready_for_data_of_a_newer_release(
    redis_url: str, server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_format, "RECHECK_S", 0.0)
    settings, status = FleetSettings.model_validate({"redis_url": redis_url}), SharedStatus()
    monitor: Any = SimpleNamespace(pid=1, is_stopping=False, describe_stall=lambda _: "")
    probes = WorkerProbes(settings, monitor, status, Connection)
    status.set_report(WorkerReport(time.monotonic()).encode(MAX_REPORT_BYTES))

    def problems() -> dict[str, str]:
        probes._ask()
        return {name: problem for name, problem in probes.ready().items() if problem}

    for number, failing in ((DATA_FORMAT, set[str]()), (NEWER, {"release"}), (DATA_FORMAT, set[str]())):
        server.set(KEY, number)
        # The number is read beside the command of a round.
        wait_until(lambda failing=failing: problems().keys() == failing, f"format {number} to be seen")
        if failing:
            assert "has format '2', and this process reads formats up to 1" in problems()["release"]


async def test_who_serves_a_fleet_writes_the_number_once(connection: RedisConnection, server: Redis) -> None:
    for _ in range(2):
        await mark_data_format(connection.execute, "dspex")
    assert server.get(KEY) == str(DATA_FORMAT).encode()
    server.set(KEY, NEWER)
    with pytest.raises(DataFormatError):
        await mark_data_format(RedisConnection(connection.url).execute, "dspex")
    assert server.get(KEY) == str(NEWER).encode()


async def test_an_unreachable_server_keeps_nobody_from_starting() -> None:
    unreachable = RedisConnection("redis://127.0.0.1:1", timeout_s=0.5)
    await mark_data_format(unreachable.execute, "dspex")
    assert not unreachable.reached


async def test_a_process_reads_the_number_once_and_then_now_and_then(connection: RedisConnection) -> None:
    with recorded_meter(own_thread=True) as meter:
        for _ in range(3):
            await connection.send_each([("PING",), ("PING",)])
    assert sum(count for count, _ in meter.of(REDIS_COMMANDS)) == 6
    assert len(meter.of(REDIS_DURATION)) == 3, "nothing but the first waits for it"


@pytest.mark.parametrize("sends", ["by itself", "with others", "a script"])
async def test_a_running_process_learns_of_it(
    connection: RedisConnection, server: Redis, monkeypatch: pytest.MonkeyPatch, sends: str
) -> None:
    async def send() -> None:
        if sends == "by itself":
            await connection.wait_bounded(connection.client.ping())
        elif sends == "with others":
            await connection.execute("PING")
        else:
            await connection.run(Script("return 1"), (), ())

    async def fails() -> bool:
        try:
            await send()
        except DataFormatError:
            return True
        return False

    async def works() -> bool:
        return not await fails()

    monkeypatch.setattr(data_format, "RECHECK_S", 0.0)
    await send()
    server.set(KEY, NEWER)
    await eventually(fails, "the newer number to be read")
    server.set(KEY, DATA_FORMAT)
    await eventually(works, "a number that is taken back to be read")


async def test_what_serves_a_fleet_does_not_start_on_a_newer_one(redis_url: str, server: Redis) -> None:
    server.set(KEY, NEWER)
    with pytest.raises(DataFormatError):
        await check_servers(FleetSettings(redis_url=SecretStr(redis_url)))
    gateway = Gateway(GatewaySettings(redis_url, grpc="127.0.0.1:0", http=None))
    try:
        with pytest.raises(DataFormatError):
            await gateway.start()
        assert (await gateway.health.ask_servers())["store"].startswith("The data of fleet 'dspex'")
    finally:
        await gateway.stop()


def test_a_refresher_does_not_start_on_a_newer_one(redis_url: str, server: Redis) -> None:
    server.set(KEY, NEWER)
    with pytest.raises(DataFormatError):
        run_refresher(RefresherSettings("127.0.0.1:9", redis_url))
