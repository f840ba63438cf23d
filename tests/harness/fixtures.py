"""The one harness of all integration, chaos and smoke tests, as fixtures; pytest-celery's names where it has one.

A test says which worker it wants by overriding ``worker_spec`` and asks for ``celery_setup``; one that wants several
asks for ``start_worker``. A module that shares its processes uses ``local_redis`` and ``local_worker`` directly.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Protocol

import docker
import docker.errors
import pytest
from celery import Celery
from pytest_celery import (
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryWorkerContainer,
    RedisContainer,
    RedisTestBackend,
    RedisTestBroker,
)
from pytest_docker_tools import container

from tests.harness import servers
from tests.harness.containers import LocalTestWorker, WorkerSpec, local_redis, local_worker
from tests.harness.local import LIVE


class StartWorker(Protocol):
    """Starts one more worker on the test's broker; keywords change fields of the spec."""

    def __call__(self, spec: WorkerSpec | None = None, *, wait: bool = True, **changes: Any) -> LocalTestWorker: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--containers", action="store_true", help="run the broker of the process tests in a Docker container"
    )
    parser.addoption("--server-kind", choices=servers.KINDS, help="leave out the tests on the other kind of server")


def pytest_configure(config: pytest.Config) -> None:
    # Docker's client being installed says nothing: a daemon has to answer.
    if config.getoption("--containers") and not daemon_answers():
        raise pytest.UsageError("--containers needs a Docker daemon, and none answers. Start one, or leave it out.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if kind := config.getoption("--server-kind"):
        kept: list[pytest.Item] = []
        others: list[pytest.Item] = []
        for item in items:
            (kept if _server_kind_of(item) in (None, kind) else others).append(item)
        config.hook.pytest_deselected(items=others)
        items[:] = kept


def _server_kind_of(item: pytest.Item) -> str | None:
    """Return the kind of server that a test is parametrized with, or None if it isn't."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("server_kind") if callspec else None


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any]:
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for process in LIVE:
            tail = "\n".join(process.logs().decode(errors="replace").splitlines()[-80:])
            report.sections.append((f"{process.name} {process.id[:12]}, {process.status}", tail))


def daemon_answers() -> bool:
    """Check whether a Docker daemon answers a ping."""
    try:
        client = docker.from_env(timeout=2)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except (docker.errors.DockerException, OSError):
        return False


docker_redis: Any = container(  # pyright: ignore[reportCallIssue]
    image="{default_redis_broker_image}",
    ports={"6379/tcp": None},
    wrapper_class=RedisContainer,
    command=["redis-server", "--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"],
)


@pytest.fixture
def server_kind(request: pytest.FixtureRequest) -> Generator[str]:
    """The kind of server that this test runs on; see ``tests.harness.servers``."""
    kind: str = getattr(request, "param", servers.DEFAULT)
    with servers.running_on(kind):
        yield kind


@pytest.fixture
def default_redis_broker(request: pytest.FixtureRequest, server_kind: str) -> Generator[RedisContainer]:
    """A server of this test's own, which it may kill and restart; its log of changes survives that."""
    if request.config.getoption("--containers"):
        yield request.getfixturevalue("docker_redis")
    else:
        with local_redis() as server:
            yield server


@pytest.fixture
def default_redis_backend(default_redis_broker: RedisContainer) -> RedisContainer:
    """The same server: the fleet has one."""
    return default_redis_broker


@pytest.fixture
def broker_url(default_redis_broker: RedisContainer) -> str:
    """The URL of the test's own server."""
    return default_redis_broker.celeryconfig["host_url"]


@pytest.fixture
def worker_spec() -> WorkerSpec:
    """What ``celery_setup`` starts; override it in a module or parametrise it."""
    return WorkerSpec()


@pytest.fixture
def start_worker(broker_url: str, celery_setup_app: Celery, worker_spec: WorkerSpec) -> Generator[StartWorker]:
    """Start workers on the test's broker, which are all killed at its end."""
    with ExitStack() as workers:

        def start(spec: WorkerSpec | None = None, *, wait: bool = True, **changes: Any) -> LocalTestWorker:
            wanted = replace(spec or worker_spec, **changes)
            return workers.enter_context(local_worker(wanted, broker_url, celery_setup_app, wait=wait))

        yield start


@pytest.fixture
def default_worker_container(start_worker: Callable[[], LocalTestWorker]) -> CeleryWorkerContainer:
    """The worker of ``celery_setup``, as a process."""
    return start_worker().container


@pytest.fixture
def celery_broker(celery_redis_broker: RedisTestBroker) -> CeleryTestBroker:
    """Redis alone, where pytest-celery's own runs each test once per vendor."""
    return celery_redis_broker


@pytest.fixture
def celery_backend(celery_redis_backend: RedisTestBackend) -> CeleryTestBackend:
    """Redis alone, see ``celery_broker``."""
    return celery_redis_backend


@pytest.fixture
def celery_worker(celery_setup_worker: LocalTestWorker) -> LocalTestWorker:
    """The one worker of ``celery_setup``; it shadows Celery's in-process fixture of that name."""
    return celery_setup_worker
