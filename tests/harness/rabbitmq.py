"""A RabbitMQ node of the tests' own: Debian's server on loopback, with its own folders, cookie and port mapper."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from kombu.connection import Connection

from tests.harness import servers
from tests.harness.waiting import wait_until

# The script itself: the one on the path drops to another user, who can't read a test's folder.
_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_START_S = 60.0
_SMALL = "vm_memory_high_watermark.absolute = 256MB\ndisk_free_limit.absolute = 1MB\n"
_END_S = 10.0
# Two schedulers, which sleep when they have nothing to do: they would spin for a while, on cores that others need.
_ERLANG = "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"


class RabbitNode:
    """One node, which keeps its port and its data over a kill and a restart.

    Args:
        folder: where all that it writes stands.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, self._distribution, self._mapper = free_ports(3)
        self._name = f"dspex-{secrets.token_hex(4)}@localhost"
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / ".erlang.cookie").write_text(secrets.token_hex(16))
        (folder / ".erlang.cookie").chmod(0o400)
        (folder / "rabbitmq.conf").write_text(f"listeners.tcp.default = 127.0.0.1:{self._port}\n{_SMALL}")
        (folder / "enabled_plugins").write_text("[].\n")

    @property
    def url(self) -> str:
        """The URL of its only virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self._port}//"

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it takes connections, now or by ``ready``."""
        env = self._environment()
        # In the foreground, so that no daemon outlives the test.
        mapper = ["epmd", "-port", str(self._mapper), "-address", "127.0.0.1"]
        with (self._folder / "output.log").open("ab") as log:
            for command in (mapper, [str(_SERVER)]):
                self._processes.append(
                    subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     start_new_session=True)
                )  # fmt: skip
        if wait:
            self.ready()

    def ready(self) -> None:
        """Wait until it takes connections."""
        try:
            wait_until(self._answers, "RabbitMQ to take connections", timeout_s=_START_S, poll_s=0.2)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{(self._folder / 'output.log').read_text()[-2000:]}") from exc

    def kill(self) -> None:
        """Kill it by -9, with its port mapper."""
        for process in reversed(self._processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(_END_S)
        self._processes.clear()

    @contextmanager
    def standing_still(self) -> Generator[None]:
        """Within it, it answers nobody, and its connections stay."""
        os.killpg(self._processes[-1].pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._processes[-1].pid, signal.SIGCONT)

    def _answers(self) -> bool:
        if self._processes[-1].poll() is not None:
            raise AssertionError(f"RabbitMQ has ended with exit code {self._processes[-1].returncode}")
        try:
            with Connection(self.url, connect_timeout=2) as connection:
                connection.connect()
        except OSError:
            return False
        return True

    def _environment(self) -> dict[str, str]:
        folder = self._folder
        return {
            **os.environ,
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self._mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "node.pid"),
        }


def free_ports(count: int) -> list[int]:
    """Return ports of loopback on which nobody listens."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


@contextmanager
def rabbit_node() -> Generator[RabbitNode]:
    """Give a node that is starting; where RabbitMQ isn't installed the test is skipped, and fails in CI."""
    if not _SERVER.exists() or shutil.which("epmd") is None:
        servers.missing("RabbitMQ", "rabbitmq-server")
    with tempfile.TemporaryDirectory(prefix="dspex-rabbitmq-") as folder:
        node = RabbitNode(Path(folder))
        try:
            node.start(wait=False)
            yield node
        finally:
            node.kill()
