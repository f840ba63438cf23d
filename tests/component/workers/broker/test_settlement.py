"""Settlements: how claims end, and that ending one twice does nothing more."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.delivery.keys import DeliveryKeys
from tests.harness.broker import dead, held
from workers.broker import settlement
from workers.broker.lease_settings import LeaseSettings
from workers.broker.leases import LeaseTable
from workers.broker.scripts import KeeperScripts
from workers.broker.settlement import Settlement

LIST = "predictions"
PAYLOAD: dict[str, Any] = {"body": "", "headers": {"id": "7", "task": "t"}, "properties": {"delivery_info": {}}}
RAW = json.dumps(PAYLOAD).encode()


@pytest.fixture
def scripts(redis_url: str) -> Generator[KeeperScripts]:
    with Redis.from_url(redis_url) as client:
        yield KeeperScripts(client, LeaseTable(DeliveryKeys(), LeaseSettings()))


@pytest.fixture
def tag(scripts: KeeperScripts) -> str:
    worker = scripts._leases.worker
    scripts.client.hset(DeliveryKeys().held(worker), f"{worker}.1", LIST.encode() + b"\n" + RAW)
    scripts.client.rpush(LIST, "other")
    return f"{worker}.1"


def waiting(scripts: KeeperScripts) -> list[bytes]:
    found: Any = scripts.client.lrange(LIST, 0, -1)
    return found


@pytest.mark.parametrize(
    ("verb", "place", "data", "after"),
    [
        ("ack", "", b"", [b"other"]),
        ("back", LIST, b"", [RAW, b"other"]),
        ("front", LIST, b"", [b"other", RAW]),
        ("front", LIST, b"changed", [b"other", b"changed"]),
        ("delay", "12345", b"", [b"other"]),
        ("dead", "12345", b"{}", [b"other"]),
    ],
)
def test_an_end_happens_once(
    verb: Any, place: str, data: bytes, after: list[bytes], scripts: KeeperScripts, tag: str
) -> None:
    end = Settlement(tag, verb, place, data)
    scripts.settle([end, end])
    scripts.settle([end])
    assert waiting(scripts) == after
    assert held(scripts.client) == {}
    assert scripts.client.zcard(DeliveryKeys().delayed) == (verb == "delay")
    assert scripts.client.hget(DeliveryKeys().dead_entries, tag) == (b"{}\n" + RAW if verb == "dead" else None)


def test_an_end_of_what_is_not_held_changes_nothing(scripts: KeeperScripts, tag: str) -> None:
    scripts.settle([Settlement("other.1", "back", LIST, b"ghost"), Settlement("other.2", "dead", "1", b"{}")])
    assert waiting(scripts) == [b"other"]
    assert dead(scripts.client) == []
    assert held(scripts.client).keys() == {tag}


def test_many_ends_are_told_in_pieces(scripts: KeeperScripts) -> None:
    worker = scripts._leases.worker
    tags = [f"{worker}.{n}" for n in range(350)]
    scripts.client.hset(DeliveryKeys().held(worker), mapping=dict.fromkeys(tags, f"{LIST}\nx"))
    scripts.settle([settlement.ack(tag) for tag in tags])
    assert held(scripts.client) == {}


def test_losing_a_message_counts_it_or_gives_it_up() -> None:
    raw = json.dumps(PAYLOAD | {"properties": {"delivery_info": {}, "deliveries": 2}}).encode()
    again = settlement.worker_lost("w.1", LIST, raw, "it died", 3)
    assert (again.verb, json.loads(again.data)["properties"]["deliveries"]) == ("front", 3)
    given_up = settlement.worker_lost("w.1", LIST, raw, "it died", 2)
    assert given_up.verb == "dead"
    letter = json.loads(given_up.data)
    assert (letter["reason"], letter["error"], letter["task_id"], letter["deliveries"]) == ("lost", "it died", "7", 2)
    assert json.loads(settlement.worker_lost("w.1", LIST, b"\xff", "it died", 3).data)["reason"] == "unreadable"
