"""Local processes that answer like Docker containers, so that pytest-celery's classes run over them unchanged.

pytest-celery asks a container for its attributes, status and logs, and kills, restarts and reloads it. These classes
answer the same questions for a process of this machine: no engine, no image, a start within milliseconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.harness.preloaded import PythonProcess, start_preloaded
from tests.harness.waiting import PATIENCE_S
from workers.dev.process import Child
from workers.dev.redis_server import EmbeddedRedis

LIVE: list[LocalProcess] = []
"""The processes whose logs a failing test shows."""


class LocalProcess(ABC):
    """What every local stand-in for a container has in common; ``close`` ends it for good."""

    def __init__(self, name: str, identity: str) -> None:
        self.name = name
        self.id = identity
        LIVE.append(self)

    @property
    @abstractmethod
    def running(self) -> bool:
        """Check whether the process runs now."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """The process id of the main process, for tests that signal it alone."""

    @property
    def status(self) -> str:
        """As Docker names it: ``running`` or ``exited``."""
        return "running" if self.running else "exited"

    @property
    def attrs(self) -> dict[str, Any]:
        """The part of ``docker inspect`` that pytest-celery reads."""
        return {
            "Config": {"Hostname": self.id[:12], "Env": []},
            "HostConfig": {"PortBindings": {}},
            "NetworkSettings": {"Networks": {}, "Ports": {}},
        }

    @abstractmethod
    def logs(self) -> bytes:
        """Everything that it has written, over all its restarts."""

    @abstractmethod
    def kill(self, signal: str | int | None = None) -> None:
        """As Docker does: SIGKILL, the default, ends all its processes at once, other signals go to the main one."""

    @abstractmethod
    def restart(self, timeout: float = 10) -> None:
        """End it by SIGTERM, after ``timeout`` seconds by SIGKILL, and start it again as it was."""

    @abstractmethod
    def close(self) -> None:
        """End it and all it started."""
        LIVE.remove(self)

    def reload(self) -> LocalProcess:
        """Return this process: every answer above is fresh."""
        return self

    def exec_run(self, cmd: str, **_: object) -> tuple[int, bytes]:
        """Return the exit code and the output of a shell command run beside it."""
        done = subprocess.run(["/bin/sh", "-c", cmd], capture_output=True, timeout=PATIENCE_S, check=False)
        return done.returncode, done.stdout + done.stderr


class LocalServer(LocalProcess):
    """The embedded server under test, which keeps its port and its log of changes over kills and restarts."""

    def __init__(self, server: EmbeddedRedis) -> None:
        super().__init__("broker", uuid.uuid4().hex)
        self.server = server

    @property
    def running(self) -> bool:
        return self.server.running

    @property
    def pid(self) -> int:
        return self.server.pid

    @property
    def port(self) -> int:
        return int(self.server.url.rsplit(":", 1)[1].split("/")[0])

    @property
    def attrs(self) -> dict[str, Any]:
        # RedisContainer makes its URL of this, for which a host name with a port is as good.
        return super().attrs | {"Config": {"Hostname": f"127.0.0.1:{self.port}", "Env": []}}

    def logs(self) -> bytes:
        return self.server.log.encode()

    def kill(self, signal: str | int | None = None) -> None:
        sign = as_signal(signal)
        if sign == _KILL:
            self.server.kill()
        else:
            os.kill(self.server.pid, sign)

    def restart(self, timeout: float = 10) -> None:
        self.server.restart()

    def close(self) -> None:
        self.server.stop()
        super().close()


class LocalWorker(LocalProcess):
    """A worker process under test, in a group of its own with whatever it forks."""

    def __init__(
        self,
        name: str,
        identity: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        preloaded: bool = False,
    ) -> None:
        super().__init__(name, identity)
        self._command, self._env, self._cwd, self._log = list(command), dict(env), cwd, log
        self._preloaded = preloaded
        self._child = self._start()

    @property
    def running(self) -> bool:
        return self._child.running

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        return self._child.returncode

    @property
    def attrs(self) -> dict[str, Any]:
        env = [f"{name}={value}" for name, value in self._env.items()]
        return super().attrs | {"Config": {"Hostname": self.id[:12], "Env": env}}

    def logs(self) -> bytes:
        # A worker whose start failed has taken its folder along.
        return self._log.read_bytes() if self._log.exists() else b""

    def has_logged(self, text: bytes) -> bool:
        """Check whether it has written this since its latest start."""
        return text in self.logs()[self._logged_before :]

    def kill(self, signal: str | int | None = None) -> None:
        sign = as_signal(signal)
        if sign == _KILL:
            self._child.end(sign)
        else:
            self._child.send_signal(sign)

    def restart(self, timeout: float = 10) -> None:
        self._child.end(timeout_s=timeout)
        self._child = self._start()

    def close(self) -> None:
        # What coverage has measured is written at a process's end, to which a kill doesn't lead.
        self._child.end(signal.SIGTERM if "COVERAGE_PROCESS_CONFIG" in os.environ else _KILL)
        super().close()

    def exec_run(self, cmd: str, **_: object) -> tuple[int, bytes]:
        done = subprocess.run(
            ["/bin/sh", "-c", cmd], capture_output=True, timeout=PATIENCE_S, check=False, env=self._env, cwd=self._cwd
        )
        return done.returncode, done.stdout + done.stderr

    def _start(self) -> PythonProcess:
        self._logged_before = len(self.logs())
        start = start_preloaded if self._preloaded else Child
        return start(self._command, self._log, env=self._env, cwd=self._cwd)


_KILL = signal.SIGKILL


def as_signal(name: str | int | None) -> signal.Signals:
    """Return the signal of a name or number, SIGKILL for none, as ``docker kill`` reads it."""
    if name is None:
        return _KILL
    return signal.Signals[name] if isinstance(name, str) else signal.Signals(name)
