"""The embedded server: found, answering, durable where asked, and gone whichever way its parent ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from snakepit_bridge.exceptions import ConfigurationError
from tests.harness.servers import await_log_written
from tests.harness.waiting import PATIENCE_S, wait_until
from workers.dev import redis_server as embedded
from workers.dev.redis_server import EmbeddedRedis

PARENT = """
import json, os, time
from workers.dev.redis_server import EmbeddedRedis
with EmbeddedRedis.start() as server:
    told = {"pid": server.pid, "folder": server.cli("CONFIG", "GET", "dir")["dir"]}
    try:
        print(json.dumps(told), flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print(json.dumps({"after_ctrl_c": server.cli("PING")}), flush=True)
"""


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self").exists():
        return subprocess.run(["ps", "-p", str(pid)], stdout=subprocess.DEVNULL, check=False).returncode == 0
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@contextmanager
def parent_with_server() -> Generator[tuple[subprocess.Popen[str], dict[str, object]]]:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert parent.stdout is not None
        yield parent, json.loads(parent.stdout.readline())
    finally:
        parent.kill()
        parent.communicate()


def test_a_started_server_answers_at_its_url() -> None:
    with EmbeddedRedis.start() as server, Redis.from_url(server.url) as client:
        assert client.ping()
        assert server.cli("INFO", "server")["process_id"] == server.pid


def test_stop_leaves_neither_process_nor_folder_and_can_be_repeated() -> None:
    server = EmbeddedRedis.start()
    pid, folder = server.pid, Path(server.cli("CONFIG", "GET", "dir")["dir"])
    assert folder.is_dir()
    server.stop()
    server.stop()
    assert not alive(pid)
    assert not folder.exists()


def test_two_servers_share_nothing() -> None:
    with EmbeddedRedis.start() as first, EmbeddedRedis.start() as second:
        first.cli("SET", "name", "one")
        assert first.url != second.url
        assert second.cli("GET", "name") is None


def test_a_server_with_a_log_keeps_its_data_over_kill_and_restart() -> None:
    with EmbeddedRedis.start(aof=True) as server:
        url, first = server.url, server.pid
        server.cli("SET", "kept", "yes")
        await_log_written(server.url)
        server.kill()
        with pytest.raises(ConfigurationError, match="isn't running"):
            _ = server.pid
        server.restart()
        assert (server.url, server.cli("GET", "kept")) == (url, "yes")
        assert server.pid != first


def test_the_callers_directory_stays_and_feeds_the_next_server(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path / "data", aof=True) as server:
        server.cli("SET", "kept", "yes")
    with EmbeddedRedis.start(tmp_path / "data", aof=True) as server:
        assert server.cli("GET", "kept") == "yes"


def test_a_unix_socket_path_stays_under_the_kernels_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with EmbeddedRedis.start(unix=True) as server:
        path = server.url.removeprefix("unix://")
        assert len(os.fsencode(path)) < 107
        assert os.stat(path).st_mode & 0o077 == 0
        assert server.cli("PING")
    assert not Path(path).parent.exists()


def test_a_taken_port_is_an_error_with_the_servers_own_words() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(ConfigurationError, match="in use"):
            EmbeddedRedis.start(port=listener.getsockname()[1])


def test_a_paused_server_can_still_be_stopped() -> None:
    server = EmbeddedRedis.start()
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert not alive(pid)


def test_without_any_binary_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(embedded.BINARY_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(embedded, "bundled_server", lambda: None)
    with pytest.raises(ConfigurationError, match=r"dspex-fleet\[embedded\].*--redis-url"):
        embedded.find_server()


@pytest.mark.parametrize(("version", "accepted"), [("6.2.14", False), ("7.0.15", True)])
def test_a_server_on_path_is_taken_only_if_new_enough(
    version: str, accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "redis-server"
    fake.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0 malloc=libc bits=64'\n")
    fake.chmod(0o755)
    monkeypatch.delenv(embedded.BINARY_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "bundled_server", lambda: None)
    if accepted:
        assert embedded.find_server() == fake
    else:
        with pytest.raises(ConfigurationError, match="older than Redis 7"):
            embedded.find_server()


def test_the_variable_names_the_binary_before_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "another-server"
    fake.write_text("#!/bin/sh\necho 'Redis server v=7.4.1 sha=00000000:0 malloc=libc bits=64'\n")
    monkeypatch.setenv(embedded.BINARY_VARIABLE, str(fake))
    with pytest.raises(ConfigurationError, match=f"{embedded.BINARY_VARIABLE} names {fake}"):
        embedded.find_server()
    fake.chmod(0o755)
    assert embedded.find_server() == fake


def test_kill_9_of_the_parent_takes_server_and_folder_along() -> None:
    with parent_with_server() as (parent, server):
        pid, folder = int(str(server["pid"])), Path(str(server["folder"]))
        assert alive(pid)
        parent.kill()
        parent.wait()
        wait_until(lambda: not alive(pid), "the server to follow its parent")
        wait_until(lambda: not folder.exists(), "the server's folder to go")


def test_ctrl_c_in_the_terminal_leaves_the_server_to_its_parents_cleanup() -> None:
    with parent_with_server() as (parent, server):
        os.killpg(parent.pid, signal.SIGINT)
        output, _ = parent.communicate(timeout=PATIENCE_S)
        assert json.loads(output.splitlines()[-1]) == {"after_ctrl_c": True}
        assert not alive(int(str(server["pid"])))
        assert not Path(str(server["folder"])).exists()
