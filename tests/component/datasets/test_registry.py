"""The dataset registry on a real server: versions by content, bounded chunks, removal, and what can't be found."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.datasets.chunks import CHUNK_BYTES
from snakepit_bridge.datasets.dataset import Dataset
from snakepit_bridge.datasets.registry import DatasetRegistry
from snakepit_bridge.exceptions import DatasetError, DatasetNotFoundError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.scripts import ScriptPackage
from tests.harness.leaks import leaked_keys


@pytest.fixture
def registry(connection: RedisConnection) -> DatasetRegistry:
    return DatasetRegistry(connection)


def dataset(*answers: str, name: str = "golden") -> Dataset:
    rows = [{"question": f"What is {number}?", "answer": answer} for number, answer in enumerate(answers)]
    return Dataset.build(name, rows, inputs=["question"])


async def test_what_is_stored_is_loaded(registry: DatasetRegistry) -> None:
    version = await registry.add(dataset("a", "b"), author="ana", source="golden.jsonl")
    loaded = await registry.get("golden")
    assert (loaded.version, loaded.inputs, loaded.rows) == (1, ("question",), dataset("a", "b").rows)
    assert loaded.digest == version.digest == dataset("a", "b").digest
    assert (version.examples, version.author, version.source, version.chunks) == (2, "ana", "golden.jsonl", 1)
    assert await registry.find("golden:1") == version


async def test_equal_content_keeps_its_version_and_other_content_is_the_next(registry: DatasetRegistry) -> None:
    versions = [(await registry.add(dataset(answer))).version for answer in ("a", "b", "a")]
    assert versions == [1, 2, 1]
    assert (await registry.get("golden")).rows == dataset("b").rows
    assert (await registry.get("golden:1")).rows == dataset("a").rows
    assert (await registry.add(dataset("a", name="other"))).version == 1


async def test_adding_at_the_same_time_gives_each_content_its_version(registry: DatasetRegistry) -> None:
    added = await asyncio.gather(*(registry.add(dataset(str(number % 5))) for number in range(20)))
    assert {version.version for version in added} == {1, 2, 3, 4, 5}
    assert len({(version.version, version.digest) for version in added}) == 5


async def test_no_value_in_redis_is_larger_than_a_chunk(registry: DatasetRegistry, client: Redis) -> None:
    # Text that no compression makes smaller.
    rows = [{"question": "".join(chr(33 + (n * k * k) % 5_003) for k in range(9_000))} for n in range(1, 60)]
    stored = await registry.add(Dataset.build("large", rows, inputs=["question"]))
    assert stored.size_bytes > 4 * CHUNK_BYTES
    assert stored.chunks > 4
    chunks: Any = client.hvals(registry.keys.dataset_content("large", stored.digest))
    assert max(map(len, chunks)) <= CHUNK_BYTES + 1
    assert [dict(row) for row in (await registry.get("large")).rows] == rows


async def test_a_client_that_dies_while_it_stores_leaves_nothing(registry: DatasetRegistry, client: Redis) -> None:
    found = dataset("a")
    keys = registry.keys.dataset_versions("golden"), registry.keys.dataset_content("golden", found.digest)
    keep_chunk = ScriptPackage("snakepit_bridge.datasets")["keep_chunk"]
    await registry.connection.run(keep_chunk, keys, (found.digest, 0, b"pchunk", 60))
    assert 0 < int(client.ttl(keys[1])) <= 60  # type: ignore[arg-type]
    with pytest.raises(DatasetNotFoundError):
        await registry.get("golden")


async def test_content_of_a_version_never_expires(registry: DatasetRegistry, client: Redis) -> None:
    version = await registry.add(dataset("a"))
    await registry.add(dataset("a"))
    assert client.ttl(registry.keys.dataset_content("golden", version.digest)) == -1
    assert leaked_keys(client) == []


async def test_a_number_is_not_given_again_after_a_removal(registry: DatasetRegistry, client: Redis) -> None:
    for answer in "abc":
        await registry.add(dataset(answer))
    assert [each.version for each in await registry.remove("golden:3")] == [3]
    assert (await registry.get("golden")).version == 2
    assert [each.version for each in await registry.remove("golden")] == [1, 2]
    assert await registry.list() == []
    assert client.keys("*content*") == []
    with pytest.raises(DatasetNotFoundError, match="Dataset not found: golden"):
        await registry.remove("golden")
    assert (await registry.add(dataset("c"))).version == 4


async def test_datasets_are_listed_with_their_newest_version(registry: DatasetRegistry) -> None:
    for stored in (dataset("a"), dataset("b"), dataset("a", name="another")):
        await registry.add(stored)
    listed = [(str(listing.latest), listing.versions) for listing in await registry.list()]
    assert listed == [("another:1", 1), ("golden:2", 2)]


async def test_what_does_not_exist_is_answered_with_what_does(registry: DatasetRegistry) -> None:
    await registry.add(dataset("a"))
    with pytest.raises(DatasetNotFoundError, match=r"golden:7\..*Stored: golden:1"):
        await registry.get("golden:7")
    with pytest.raises(DatasetNotFoundError, match=r"goldn\. Did you mean 'golden'\?"):
        await registry.get("goldn")
    with pytest.raises(DatasetNotFoundError, match="not found: 'golden@prod': a reference reads NAME or NAME:VERSION"):
        await registry.get("golden@prod")


@pytest.mark.parametrize("chunk", [None, b"", b"x", b"z1234", b"p{}", b"pno json"])
async def test_content_that_redis_lost_or_changed_is_an_error(
    registry: DatasetRegistry, client: Redis, chunk: bytes | None
) -> None:
    version = await registry.add(dataset("a"))
    key = registry.keys.dataset_content("golden", version.digest)
    if chunk is None:
        client.delete(key)
    else:
        client.hset(key, "0", chunk)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match=r"dataset 'golden:1': .* add it again"):
        await registry.get("golden")


async def test_adding_again_mends_content_that_redis_lost(registry: DatasetRegistry, client: Redis) -> None:
    version = await registry.add(dataset("a"))
    client.delete(registry.keys.dataset_content("golden", version.digest))
    assert await registry.add(dataset("a")) == version
    assert (await registry.get("golden")).rows == dataset("a").rows
    assert client.ttl(registry.keys.dataset_content("golden", version.digest)) == -1


async def test_namespaces_do_not_see_each_other(registry: DatasetRegistry, connection: RedisConnection) -> None:
    await registry.add(dataset("a"))
    with pytest.raises(DatasetNotFoundError):
        await DatasetRegistry(connection, namespace="other").get("golden")
