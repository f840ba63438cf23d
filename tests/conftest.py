"""Fixtures for all tests: a real server, a fresh database per test, and a look for keys that it left behind."""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis.utils
from hypothesis import HealthCheck, settings
from kombu import pools
from redis import Redis

from snakepit_bridge import redaction
from tests.harness import servers
from tests.harness.leaks import leaked_keys
from tests.harness.waiting import eventually, wait_until
from workers.dev.redis_server import BINARY_VARIABLE, EmbeddedRedis

__all__ = ["eventually", "wait_until"]

pytest_plugins = ["tests.harness.fixtures"]

# These tests end servers and workers on purpose. What Celery's and redis-py's objects say of it comes when they are
# freed, in whichever test runs by then: warnings are shown, and fail none. An unawaited coroutine fails everywhere.
PROCESS_TESTS = {"abuse", "chaos", "integration", "project", "smoke"}
SHOWN_IN_PROCESS_TESTS = (
    "default",
    "error:.*was never awaited:RuntimeWarning",
    "error:Exception ignored in. <coroutine object:pytest.PytestUnraisableExceptionWarning",
)

# Redis has 16 databases. One is long done with by the time it comes round again.
_databases = itertools.cycle(range(1, 16))


# A busy machine fails no test: how long an example takes says nothing of the code.
settings.register_profile("untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    # A shell that runs this in the background has it ignore Ctrl-C, and every process of ours would inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The same server on every machine, whatever is on its PATH; `server_kind` is how a test asks for another one.
    os.environ[BINARY_VARIABLE] = str(servers.binary(servers.DEFAULT))
    # redis-py reads it from its package's files for every client that a test opens.
    redis.utils.get_lib_version = functools.cache(redis.utils.get_lib_version)
    config.addinivalue_line(
        "markers", "keeps_keys(*patterns): keys of these names may stay without an expiry after this test"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    for item in items:
        if label := getattr(item, "operation_label", None):
            _name_apart(item, label)
        if item.path.is_relative_to(folder) and item.path.relative_to(folder).parts[0] in PROCESS_TESTS:
            for shown in SHOWN_IN_PROCESS_TESTS:
                item.add_marker(pytest.mark.filterwarnings(shown))


def _name_apart(item: pytest.Item, label: str) -> None:
    """Give a test that schemathesis has made for an operation an id of its own.

    pytest 9 leaves the operation out of it; of tests with one id, processes that share the tests run a single one.
    """
    assert item.parent is not None
    item._id = item.parent.id.child(f"{item.name.partition('[')[0]}[{label}]")  # pyright: ignore[reportPrivateUsage]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Keep what collecting has loaded, DSPy and five thousand tests, out of every later look for garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(autouse=True)
def _forgotten_secrets(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """What a test's clients and profiles had masked in texts is a word like others to the next test."""
    monkeypatch.setattr(redaction, "_spellings", redaction._spellings)
    monkeypatch.setattr(redaction, "_known", redaction._known)


@pytest.fixture(autouse=True)
def _free_lms() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
    """End the policy for LMs of programs' own, which a worker's runtime sets for its process, with the test."""
    yield
    if module := sys.modules.get("snakepit_bridge.dspy_integration.own_lms"):
        module.unguard_lms()


@pytest.fixture(autouse=True)
def _telemetry_off() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
    """End with a test what it has switched on of this process's telemetry, such as a page's call of `instrument`."""
    yield
    if module := sys.modules.get("snakepit_bridge.telemetry.setup"):
        module.stop(0.1)


@pytest.fixture(autouse=True, scope="module")
def _dspy_defaults() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
    """End with a module what its imports, such as a stranger's package, configure DSPy to for the whole process."""
    yield
    if settings := sys.modules.get("dspy.dsp.utils.settings"):
        defaults = copy.deepcopy(settings.DEFAULT_CONFIG)
        # A worker's settings can't be written by their own methods.
        dict.clear(settings.main_thread_config)
        dict.update(settings.main_thread_config, defaults)


@pytest.fixture(autouse=True, scope="module")
def _closed_connections() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
    """What a module's fleets have opened ends with it; Celery's pools would keep connections to servers long gone."""
    yield
    pools.reset()
    gc.collect()
    # What is left stays: LiteLLM, for one, which would make each later look take long.
    gc.freeze()


@pytest.fixture(scope="session")
def redis_servers() -> Generator[Callable[[str], EmbeddedRedis]]:
    """The server of each kind that all tests share, started when the first one asks for it."""
    started: dict[str, EmbeddedRedis] = {}
    with ExitStack() as running:

        def of_kind(kind: str) -> EmbeddedRedis:
            if kind not in started:
                with servers.running_on(kind):
                    started[kind] = running.enter_context(EmbeddedRedis.start())
            return started[kind]

        yield of_kind


@pytest.fixture
def redis_server(redis_servers: Callable[[str], EmbeddedRedis], server_kind: str) -> EmbeddedRedis:
    """The server that all tests of its kind share; a test that kills or reconfigures one starts its own."""
    return redis_servers(server_kind)


@pytest.fixture(scope="session")
def client_of() -> Generator[Callable[[str], Redis]]:
    """The client of each database that tests share; to connect anew would take most of ``redis_url``'s time."""
    with ExitStack() as open_clients:
        yield functools.cache(lambda url: open_clients.enter_context(Redis.from_url(url)))


@pytest.fixture
def redis_url(
    redis_server: EmbeddedRedis, client_of: Callable[[str], Redis], request: pytest.FixtureRequest
) -> Generator[str]:
    """The URL of an empty database of this test's own; at its end, keys that would stay for ever fail the test."""
    url = f"{redis_server.url.rsplit('/', 1)[0]}/{next(_databases)}"
    mark = request.node.get_closest_marker("keeps_keys")
    client = client_of(url)
    client.flushdb()
    yield url
    leaked = leaked_keys(client, mark.args if mark else ())
    client.flushdb()
    assert not leaked, f"Keys without an expiry that tests/harness/leaks.py doesn't list as permanent: {leaked}"
