"""pytest-celery's container classes over local processes, and what a worker under test is started with."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import kombu.exceptions
from celery import Celery
from pytest_celery import CeleryTestWorker, CeleryWorkerContainer, RedisContainer
from redis.exceptions import RedisError

from tests.harness import servers
from tests.harness.local import LocalServer, LocalWorker
from tests.harness.preloaded import LOADED_WITH, start_preloaded
from tests.harness.waiting import PATIENCE_S, wait_until
from workers.dev.redis_server import EmbeddedRedis
from workers.pools import Pool

ROOT = Path(__file__).parents[2]
READY_TIMEOUT_S = PATIENCE_S
PING_TIMEOUT_S = 1.0
_READY = b" ready."


@dataclass(frozen=True)
class WorkerSpec:
    """One worker process: ``python -m celery -A <app> worker`` with these options and this environment.

    ``open_files`` are the soft and the hard limit that it starts under. One that is ``preloaded`` is forked from a
    process that has loaded what it needs, where that makes no difference; see ``tests.harness.preloaded``.
    """

    app: str = "workers.app"
    pool: str = "threads"
    concurrency: int = 2
    queues: tuple[str, ...] = ("predictions",)
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    arguments: tuple[str, ...] = ("--without-mingle", "--without-gossip")
    name: str = "worker"
    open_files: tuple[int, int] | None = None
    preloaded: bool = False

    def node(self, identity: str) -> str:
        """Return the worker's name on the broker, made as pytest-celery makes it."""
        return f"{self.name}@{identity[:12]}"

    def command(self, identity: str) -> list[str]:
        """Return the command line of the worker with this identity."""
        options = {
            "--pool": Pool(self.pool).celery_name,
            "--concurrency": str(self.concurrency),
            "--queues": ",".join(self.queues),
            "--hostname": self.node(identity),
            "--loglevel": "INFO",
        }
        words = [word for option in options.items() for word in option]
        command = [sys.executable, "-m", "celery", "-A", self.app, "worker", *words, *self.arguments]
        return command if self.open_files is None else [*limited(*self.open_files), *command]

    def environment(self, redis_url: str) -> dict[str, str]:
        """Return the worker's whole environment: this process's, the server's URL, no caches, then ``env``."""
        return {**os.environ, **LOADED_WITH, "DSPEX_REDIS_URL": redis_url, **Pool(self.pool).environment, **self.env}


def limited(soft: int, hard: int) -> list[str]:
    """Return what runs a command, Python's with ``-m`` and a module, under limits of open files.

    It becomes the module itself, so that one which is forked has loaded what it needs.
    """
    code = (
        "import resource, runpy, sys; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); "
        "sys.argv = sys.argv[3:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", code]


class LocalRedisContainer(RedisContainer):
    """pytest-celery's Redis over the embedded server."""

    _container: LocalServer

    @property
    def server(self) -> EmbeddedRedis:
        """The embedded server itself."""
        return self._container.server

    @property
    def port(self) -> int:
        return self._container.port

    def ready(self) -> bool:
        """Wait until the server answers; an embedded server that was started does."""
        try:
            return bool(self.server.cli("PING"))
        except RedisError:
            return False


class LocalWorkerContainer(CeleryWorkerContainer):
    """pytest-celery's worker over a local process; ready when the process answers a ping."""

    _container: LocalWorker

    def __init__(self, container: LocalWorker, spec: WorkerSpec, app: Celery) -> None:
        super().__init__(container)
        self.spec = spec
        self._app = app

    @property
    def node(self) -> str:
        """The worker's name on the broker: what remote control calls it."""
        return self.spec.node(self.id)

    @property
    def pid(self) -> int:
        """The main process's id."""
        return self._container.pid

    @property
    def returncode(self) -> int | None:
        """The main process's exit code, None while it runs."""
        return self._container.returncode

    def worker_name(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Per process here, where a container's is built into its image."""
        return self.spec.name

    def worker_queue(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The first of its queues."""
        return self.spec.queues[0]

    def ready(self) -> bool:
        """Wait until the worker answers a ping.

        Raises:
            AssertionError: it ended, or did not answer within ``READY_TIMEOUT_S``; the text holds the end of its log.
        """
        try:
            return wait_until(self._answers, f"{self.node} to answer a ping", timeout_s=READY_TIMEOUT_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from error

    def tail(self, lines: int = 60) -> str:
        """Return the end of its log."""
        return "\n".join(self.logs().splitlines()[-lines:])

    def _answers(self) -> bool:
        if not self._container.running:
            raise AssertionError(f"{self.node} has ended with exit code {self.returncode}")
        # A ping that comes too early is lost, and its answer waited for in vain.
        if not self._container.has_logged(_READY):
            return False
        try:
            replies: list[dict[str, Any]] = self._app.control.ping(destination=[self.node], timeout=PING_TIMEOUT_S)
        except (kombu.exceptions.OperationalError, RedisError, OSError):
            return False  # the broker of a test that restarts it may be away for a moment
        return any(self.node in reply for reply in replies)


class LocalTestWorker(CeleryTestWorker):
    """pytest-celery's worker whose container is a local process."""

    @property
    def container(self) -> LocalWorkerContainer:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The process."""
        return cast("LocalWorkerContainer", self._container)


@contextmanager
def local_redis(*, aof: bool = True, kind: str | None = None) -> Generator[LocalRedisContainer]:
    """Give a server of its own to a test or a module of tests; it keeps its data over a kill and a restart.

    Args:
        aof: whether it logs every change.
        kind: ``valkey`` or ``redis``; without it, the kind that the test runs on.
    """
    with nullcontext() if kind is None else servers.running_on(kind):
        process = LocalServer(EmbeddedRedis.start(aof=aof))
    try:
        yield LocalRedisContainer(process)
    finally:
        process.close()


@dataclass(frozen=True)
class Ended:
    """How a worker has ended by itself: its exit code, and all that it wrote."""

    returncode: int
    output: str


def run_worker(spec: WorkerSpec, redis_url: str) -> Ended:
    """Run the fleet's worker command, which is to end by itself, and return how it did; it is forked if it can be.

    Raises:
        AssertionError: it hasn't ended within ``READY_TIMEOUT_S``.
    """
    command = [sys.executable, "-m", "workers.worker_command", *spec.command("x")[6:]]
    with tempfile.TemporaryDirectory(prefix="dspex-worker-") as folder:
        log = Path(folder) / "worker.log"
        process = start_preloaded(command, log, env=spec.environment(redis_url), cwd=ROOT)
        try:
            wait_until(lambda: not process.running, "the worker to end", timeout_s=READY_TIMEOUT_S)
            assert process.returncode is not None
            return Ended(process.returncode, log.read_text(encoding="utf-8"))
        finally:
            process.end(signal.SIGKILL)


@contextmanager
def local_worker(
    spec: WorkerSpec, redis_url: str, app: Celery | None = None, *, wait: bool = True
) -> Generator[LocalTestWorker]:
    """Give a worker process that answers; all its processes are killed at the end.

    Args:
        spec: what to start.
        redis_url: the server that it uses, as ``DSPEX_REDIS_URL``.
        app: the app to ping it with; without it, a plain one on that server.
        wait: False returns at once, for workers that are to start side by side: ``worker.ready()`` waits then.
    """
    app = app or Celery("harness", broker=redis_url, backend=redis_url, set_as_current=False)
    with tempfile.TemporaryDirectory(prefix="dspex-worker-") as folder:
        identity, log = uuid.uuid4().hex, Path(folder) / "worker.log"
        env = spec.environment(redis_url)
        process = LocalWorker(
            spec.name, identity, spec.command(identity), env=env, cwd=ROOT, log=log, preloaded=spec.preloaded
        )
        try:
            container = LocalWorkerContainer(process, spec, app)
            if wait:
                container.ready()
            yield LocalTestWorker(container, app)
        finally:
            process.close()
