"""A primary and a replica behind three Sentinels, on loopback: what a failover is tried on."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from tests.harness.cluster import free_ports
from tests.harness.waiting import wait_until
from workers.dev.process import Child
from workers.dev.redis_server import find_server

SERVICE = "fleet"
SENTINELS = 3
_QUORUM = 2
_DOWN_AFTER_MS = 1_000
# Sentinel's own periods of seconds are for networks; on loopback a failover takes as long as its detection.
_PERIODS = {"INFO-PERIOD": 200, "PUBLISH-PERIOD": 200, "ASK-PERIOD": 200}


class ServerProcess:
    """One server, which keeps its port and its data over a kill and a restart.

    Args:
        folder: for its data and its log.
        port: on loopback.
        arguments: of its command line.
    """

    def __init__(self, folder: Path, port: int, *arguments: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self._folder = folder
        self._arguments = arguments
        self._child: Child | None = None
        self.start()

    def start(self, *more: str) -> None:
        """Start it with these further arguments, and wait until it answers."""
        command = [str(find_server()), *self._arguments, *more, "--bind", "127.0.0.1", "--dir", str(self._folder)]
        self._child = Child(command, self._folder / "server.log", cwd=self._folder)
        wait_until(self.answers, f"the server on port {self.port} to answer")

    def kill(self) -> None:
        """Kill it by -9."""
        if self._child is not None:
            self._child.end(signal.SIGKILL)

    @contextmanager
    def standing_still(self) -> Generator[None]:
        """Within it, it answers nobody, and its connections stay."""
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._child.pid, signal.SIGCONT)

    def execute(self, *command: str | int) -> Any:
        """Return the reply to a command, texts decoded."""
        with Redis(port=self.port, decode_responses=True, socket_timeout=2) as client:
            return client.execute_command(*command)

    def info(self, section: str) -> Mapping[str, Any]:
        """Return a section of its state."""
        return self.execute("INFO", section)

    @property
    def role(self) -> str:
        """``master`` or ``slave``, as the server calls itself."""
        return str(self.info("replication")["role"])

    def answers(self) -> bool:
        """Check whether it takes commands."""
        with suppress(RedisError, OSError):
            return bool(self.execute("PING"))
        return False

    @property
    def log(self) -> str:
        """What it has written."""
        return (self._folder / "server.log").read_text(errors="replace")


class SentinelDeployment:
    """A primary, its replica and three Sentinels.

    Args:
        folder: where all that they write stands.
        running: ends them.
    """

    def __init__(self, folder: Path, running: ExitStack) -> None:
        first, second, *watching = free_ports(2 + SENTINELS)
        self.servers = [
            ServerProcess(folder / "a", first, *_server(first)),
            ServerProcess(folder / "b", second, *_server(second), "--replicaof", "127.0.0.1", str(first)),
        ]
        for server in self.servers:
            running.callback(server.kill)
        wait_until(
            lambda: self.servers[1].info("replication")["master_link_status"] == "up", "the replica to be in step"
        )
        self.sentinels: list[ServerProcess] = []
        for port in watching:
            config = folder / f"{port}.conf"
            config.write_text(
                f"port {port}\nsentinel monitor {SERVICE} 127.0.0.1 {first} {_QUORUM}\n"
                f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}\n"
                f"sentinel failover-timeout {SERVICE} 3000\n"
            )
            sentinel = ServerProcess(folder / str(port), port, str(config), "--sentinel")
            running.callback(sentinel.kill)
            sentinel.execute("SENTINEL", "DEBUG", *(word for period in _PERIODS.items() for word in period))
            self.sentinels.append(sentinel)
        wait_until(self._is_known, "each Sentinel to know the others and the replica")

    @property
    def url(self) -> str:
        """The URL of the primary, whichever server that is."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    @property
    def primary(self) -> ServerProcess:
        """The server that Sentinel names as the primary."""
        _, port = self.sentinels[0].execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(port))

    @property
    def other(self) -> ServerProcess:
        """The server that isn't the primary."""
        primary = self.primary
        return next(server for server in self.servers if server is not primary)

    def await_failover(self, old: ServerProcess) -> ServerProcess:
        """Wait until another server is the primary and says so, and return it."""

        def failed_over() -> ServerProcess | None:
            new = self.primary
            return new if new is not old and new.role == "master" else None

        return wait_until(failed_over, "Sentinel to promote the replica")

    def await_replica(self, server: ServerProcess) -> None:
        """Wait until a server is a replica in step with the primary."""
        wait_until(lambda: _is_in_step(server), f"the server on port {server.port} to follow the primary", timeout_s=30)

    def _is_known(self) -> bool:
        for sentinel in self.sentinels:
            state = sentinel.execute("SENTINEL", "MASTER", SERVICE)
            state = state if isinstance(state, dict) else dict(zip(state[::2], state[1::2], strict=True))
            if int(state["num-slaves"]) != 1 or int(state["num-other-sentinels"]) != SENTINELS - 1:
                return False
        return True


@contextmanager
def sentinel_deployment() -> Generator[SentinelDeployment]:
    """Run a primary, its replica and three Sentinels."""
    with tempfile.TemporaryDirectory(prefix="dspex-sentinel-") as folder, ExitStack() as running:
        yield SentinelDeployment(Path(folder), running)


def _server(port: int) -> list[str]:
    durable = ["--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
    return ["--port", str(port), *durable, "--repl-diskless-sync-delay", "0"]


def _is_in_step(server: ServerProcess) -> bool:
    with suppress(RedisError, OSError):
        return server.info("replication").get("master_link_status") == "up"
    return False
