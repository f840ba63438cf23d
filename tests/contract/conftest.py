"""One fixture runs each test of the contract on every store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.stores import MemoryStore, RedisStore, SnapshotStore

OpenStore = Callable[..., SnapshotStore]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A session stays until it is dropped; everything else that a store writes has to expire.
    keeps = pytest.mark.keeps_keys(*RedisStore("redis://").permanent)
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(keeps)


@pytest.fixture(params=["memory", "redis"])
async def open_one(request: pytest.FixtureRequest) -> AsyncGenerator[OpenStore]:
    """Opens stores on empty data; all stores of one test see the same sessions only on Redis."""
    opened: list[SnapshotStore] = []

    def opener(**options: Any) -> SnapshotStore:
        if request.param == "memory":
            store: SnapshotStore = MemoryStore(**options)
        else:
            store = RedisStore(request.getfixturevalue("redis_url"), **options)
        opened.append(store)
        return store

    if request.param == "redis":
        request.getfixturevalue("redis_url")
    yield opener
    for store in opened:
        await store.aclose()


@pytest.fixture
def store(open_one: OpenStore) -> SnapshotStore:
    """An empty store with the defaults."""
    return open_one()
