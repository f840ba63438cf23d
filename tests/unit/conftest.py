"""Unit tests start no server and no worker: whatever needs one stands in tests/component, and fails here by name."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NoReturn

import pytest

from tests.harness.local import LocalWorker
from workers.dev.redis_server import EmbeddedRedis


def _refuse(*_: Any, **__: Any) -> NoReturn:
    pytest.fail("A unit test started a server or a worker process. Tests that need one belong in tests/component.")


@pytest.fixture(autouse=True, scope="module")
def _no_servers() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
    """Refuse to start a server or a worker, by whatever fixture or call of the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmbeddedRedis, "_launch", _refuse)
        patch.setattr(LocalWorker, "_start", _refuse)
        yield


@pytest.fixture(scope="session")
def redis_servers() -> NoReturn:
    """Stand in for the shared servers, which start before a module's own fixtures refuse them."""
    _refuse()
