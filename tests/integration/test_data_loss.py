"""A server that comes back without what it had: no process takes a new token for an old one, and none waits in vain."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.variables import Variable
from tests.harness.lines import LineProcess
from tests.harness.servers import await_log_written
from tests.harness.waiting import Stopwatch
from workers.dev.redis_server import EmbeddedRedis

KEPT, LOST = 30, 20


@pytest.fixture
def server(tmp_path: Path) -> Generator[EmbeddedRedis]:
    with EmbeddedRedis.start(tmp_path, aof=True) as server:
        yield server


@pytest.fixture
async def store(server: EmbeddedRedis) -> AsyncGenerator[RedisStore]:
    store = RedisStore(server.url)
    yield store
    await store.aclose()


@pytest.fixture
def reader(server: EmbeddedRedis) -> Generator[LineProcess]:
    with LineProcess("tests.integration.replica_process", "serve", server.url, 0.0) as reader:
        assert reader.hear() == {"ready": True}
        yield reader


async def publish(store: RedisStore, numbers: range) -> list[Token]:
    return [await store.publish("s", {"n": Variable.declare("n", n)}) for n in numbers]


def ask(reader: LineProcess, requirement: str) -> dict[str, Any]:
    """The reader's answer; while it notices that the server was away it says so, and is asked again."""
    while True:
        reader.tell(f"s {requirement}")
        answer = reader.hear()
        if answer.get("error") != "StoreUnavailableError":
            return answer


async def test_a_restart_with_the_whole_log_goes_on_with_the_revisions(
    server: EmbeddedRedis, store: RedisStore, reader: LineProcess
) -> None:
    tokens = await publish(store, range(KEPT))
    assert ask(reader, "latest")["value"] == KEPT - 1
    await_log_written(server.url)
    server.kill()
    server.restart()
    [new] = await publish(store, range(KEPT, KEPT + 1))
    assert (new.revision, new > tokens[-1]) == (KEPT + 1, True)
    assert ask(reader, f"at_least={new}") == {"value": KEPT, "token": str(new)}
    for n, token in enumerate(tokens):
        assert ask(reader, f"exactly={token}") == {"value": n, "token": str(token)}
        assert ask(reader, f"at_least={token}")["value"] == KEPT


async def test_what_the_tail_of_the_log_held_is_lost_in_every_process(
    server: EmbeddedRedis, store: RedisStore, reader: LineProcess, tmp_path: Path
) -> None:
    kept = await publish(store, range(KEPT))
    log = next((tmp_path / "appendonlydir").glob("*.incr.aof"))
    size = log.stat().st_size
    lost = await publish(store, range(KEPT, KEPT + LOST))
    assert ask(reader, "latest") == {"value": KEPT + LOST - 1, "token": str(lost[-1])}
    server.kill()
    os.truncate(log, size)
    server.restart()
    # As many as were lost: the same revisions, of another epoch.
    new = await publish(store, range(1_000, 1_000 + LOST))
    assert [token.revision for token in new] == [token.revision for token in lost]
    assert ask(reader, f"at_least={new[-1]}") == {"value": 1_000 + LOST - 1, "token": str(new[-1])}
    started = Stopwatch()
    for token in lost[:-1]:
        assert ask(reader, f"at_least={token}") == {"error": "RevisionLostError"}
        assert ask(reader, f"exactly={token}") == {"error": "RevisionLostError"}
    assert started.elapsed_s < 0.1 * 2 * LOST
    for n, token in enumerate(kept):
        assert ask(reader, f"exactly={token}") == {"value": n, "token": str(token)}


async def test_an_empty_server_has_lost_everything_and_begins_a_larger_epoch(
    server: EmbeddedRedis, store: RedisStore, reader: LineProcess, tmp_path: Path
) -> None:
    old = await publish(store, range(KEPT))
    assert ask(reader, "latest")["value"] == KEPT - 1
    server.kill()
    for file in (tmp_path / "appendonlydir").iterdir():
        file.unlink()
    server.restart()
    assert ask(reader, f"at_least={old[-1]}") == {"error": "SessionNotFoundError"}
    new = await publish(store, range(1_000, 1_001))
    assert new[0] > old[-1]
    assert ask(reader, f"at_least={new[0]}") == {"value": 1_000, "token": str(new[0])}
    for token in old:
        assert ask(reader, f"at_least={token}") == {"error": "RevisionLostError"}
