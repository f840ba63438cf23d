"""The health server answers what it is told, whatever its clients and the process's event loop do."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Generator

import pytest

from snakepit_bridge.exceptions import ConfigurationError
from tests.harness.health import Answer, ask, await_problems
from tests.harness.waiting import PATIENCE_S, wait_until
from workers.health import loop_beat
from workers.health import server as module
from workers.health.checks import Problems
from workers.health.loop_beat import LoopBeat
from workers.health.server import HealthServer


class Probes:
    """Stands for a process: each test says what it lacks."""

    def __init__(self) -> None:
        self.beat = LoopBeat()
        self.lacking: Problems = {"store": ""}

    def live(self) -> Problems:
        return {"event_loop": self.beat.describe_stall()}

    def ready(self) -> Problems:
        return self.lacking

    def started(self) -> Problems:
        return {"startup": "not yet"}


@pytest.fixture
def probes() -> Probes:
    return Probes()


@pytest.fixture
def server(probes: Probes) -> Generator[HealthServer]:
    listening = HealthServer("127.0.0.1:0")
    listening.start(probes)
    yield listening
    listening.stop()


def test_each_endpoint_has_an_entry_for_each_of_its_checks(server: HealthServer, probes: Probes) -> None:
    assert ask(server.port, "livez") == Answer(200, frozenset({"event_loop"}), {})
    assert ask(server.port, "startupz") == Answer(503, frozenset({"startup"}), {"startup": "not yet"})
    probes.lacking = {"store": "it doesn't answer", "broker": ""}
    assert ask(server.port, "readyz?verbose") == Answer(503, frozenset(probes.lacking), {"store": "it doesn't answer"})


def request(port: int, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_it_serves_nothing_else(server: HealthServer) -> None:
    assert request(server.port, "GET", "/livez") == (
        200, json.dumps({"status": "ok", "checks": {"event_loop": {"status": "ok"}}}, separators=(",", ":")).encode()
    )  # fmt: skip
    assert request(server.port, "HEAD", "/startupz") == (503, b"")
    assert request(server.port, "GET", "/metrics")[0] == 404
    assert request(server.port, "POST", "/livez")[0] == 501


def test_a_client_that_says_nothing_holds_up_no_other(server: HealthServer) -> None:
    threads = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    assert ask(server.port, "livez").status == 200
    wait_until(lambda: threading.active_count() - threads <= module._MAX_CONNECTIONS, "most of them to be let go")
    for each in silent:
        each.close()


def test_a_request_has_to_be_whole_in_time_however_steadily_it_arrives(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REQUEST_TIMEOUT_S", 1.0)
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.settimeout(0.05)

        def is_disconnected() -> bool:
            try:
                slow.send(b"G")
                return slow.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(is_disconnected, "the slow client to be disconnected", timeout_s=10)
    assert ask(server.port, "livez").status == 200


@pytest.mark.parametrize("address", ["8063", ":8063", "127.0.0.1:x", "127.0.0.1:99999"])
def test_a_malformed_address_is_named(address: str) -> None:
    with pytest.raises(ConfigurationError, match="DSPEX_HEALTH_ADDRESS must be HOST:PORT"):
        HealthServer(address)


def test_an_address_that_is_taken_or_of_another_machine_is_named(server: HealthServer) -> None:
    for address in (f"127.0.0.1:{server.port}", "192.0.2.7:8063"):
        with pytest.raises(ConfigurationError, match=f"can't be served on {address}: "):
            HealthServer(address)


def test_a_blocked_event_loop_fails_at_once_and_recovers(
    server: HealthServer, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_beat, "_MAX_SILENCE_S", 0.7)
    loop, released = asyncio.new_event_loop(), threading.Event()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    # Blocked before the beat has begun, the loop would be taken for one that nobody looks after.
    asyncio.run_coroutine_threadsafe(_start(probes.beat), loop).result(PATIENCE_S)
    await_problems(server.port, "livez")
    loop.call_soon_threadsafe(released.wait)
    try:
        assert await_problems(server.port, "livez", "event_loop") == {"event_loop": "it has been blocked for 1 s"}
    finally:
        released.set()
    await_problems(server.port, "livez")
    loop.call_soon_threadsafe(probes.beat.stop)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def _start(beat: LoopBeat) -> None:
    beat.start()
