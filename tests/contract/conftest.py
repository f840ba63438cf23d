"""One fixture runs each test of the contract on every store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.snapshots import MemoryStore, RedisStore, SnapshotStore
from tests.harness import cluster, servers
from tests.harness.leaks import permanent

OpenStore = Callable[..., SnapshotStore]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A session stays until it is dropped; everything else that a store writes has to expire.
    keeps = pytest.mark.keeps_keys(*RedisStore("redis://").permanent)
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(keeps)


# The stores, each with the server below it. One in memory needs none.
STORES = {
    "memory": (servers.DEFAULT, "memory"),
    "valkey": ("valkey", "redis"),
    "redis": ("redis", "redis"),
    "valkey-cluster": ("valkey", "cluster"),
    "redis-cluster": ("redis", "cluster"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "open_one" in metafunc.fixturenames:
        metafunc.parametrize(("server_kind", "open_one"), STORES.values(), ids=STORES.keys(), indirect=True)
    else:
        servers.on_each_server(metafunc)


@pytest.fixture(autouse=True)
def on_server_kind(server_kind: str) -> str:
    """Every server that a test of the contract starts is of its kind."""
    return server_kind


@pytest.fixture(scope="session")
def cluster_servers() -> Generator[Callable[[str], str]]:
    """The URL of the cluster of each kind that all tests share."""
    started: dict[str, str] = {}
    with ExitStack() as running:

        def of_kind(kind: str) -> str:
            if kind not in started:
                with servers.running_on(kind):
                    started[kind] = running.enter_context(cluster.local_cluster())
            return started[kind]

        yield of_kind


@pytest.fixture
def cluster_url(cluster_servers: Callable[[str], str], server_kind: str) -> Generator[str]:
    """The URL of an empty cluster; at its end, keys that would stay for ever fail the test."""
    cluster_server = cluster_servers(server_kind)
    cluster.flush(cluster_server)
    yield cluster_server
    kept = permanent(RedisStore("redis://").permanent)
    leaked = [name for name, left in cluster.cluster_keys(cluster_server).items() if left < 0 and not kept(name)]
    assert not leaked, f"Keys without an expiry that are not listed as permanent: {leaked}"


@pytest.fixture
async def open_one(request: pytest.FixtureRequest) -> AsyncGenerator[OpenStore]:
    """Open stores on empty data; all stores of one test see the same sessions, but for those in memory."""
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
