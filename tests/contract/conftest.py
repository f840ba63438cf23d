"""One fixture runs each test of the contract on every store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.stores import MemoryStore, RedisStore, SnapshotStore
from tests.harness import cluster
from tests.harness.leaks import permanent

OpenStore = Callable[..., SnapshotStore]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A session stays until it is dropped; everything else that a store writes has to expire.
    keeps = pytest.mark.keeps_keys(*RedisStore("redis://").permanent)
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(keeps)


@pytest.fixture(scope="session")
def cluster_server() -> Generator[str]:
    """The URL of the cluster that all tests share."""
    with cluster.local_cluster() as url:
        yield url


@pytest.fixture
def cluster_url(cluster_server: str) -> Generator[str]:
    """The URL of an empty cluster; at its end, keys that would stay for ever fail the test."""
    cluster.flush(cluster_server)
    yield cluster_server
    kept = permanent(RedisStore("redis://").permanent)
    leaked = [name for name, left in cluster.cluster_keys(cluster_server).items() if left < 0 and not kept(name)]
    assert not leaked, f"Keys without an expiry that are not listed as permanent: {leaked}"


@pytest.fixture(params=["memory", "redis", "cluster"])
async def open_one(request: pytest.FixtureRequest) -> AsyncGenerator[OpenStore]:
    """Opens stores on empty data; all stores of one test see the same sessions, but for those in memory."""
    opened: list[SnapshotStore] = []
    url = "" if request.param == "memory" else request.getfixturevalue(f"{request.param}_url")

    def opener(**options: Any) -> SnapshotStore:
        opened.append(RedisStore(url, **options) if url else MemoryStore(**options))
        return opened[-1]

    yield opener
    for store in opened:
        await store.aclose()


@pytest.fixture
def store(open_one: OpenStore) -> SnapshotStore:
    """An empty store with the defaults."""
    return open_one()
