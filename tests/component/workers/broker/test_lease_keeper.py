"""The keeper: who is alive keeps what it holds, who is dead loses it within seconds, and neither depends on clocks."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.delivery.keys import DeliveryKeys
from tests.harness.broker import LEASE_S, QUEUE, Consumer, channel, dead, held, put, take
from tests.harness.preloaded import start_preloaded
from tests.harness.waiting import Stopwatch, wait_until
from workers.broker import dead_lettering as given_up
from workers.broker.lease_keeper import LeaseKeeper
from workers.broker.lease_settings import HEARTBEATS_PER_LEASE, LeaseSettings
from workers.broker.leases import LeaseTable
from workers.broker.scripts import KeeperScripts
from workers.broker.settlement import Settlement
from workers.dev.redis_server import EmbeddedRedis

ROOT = Path(__file__).parents[4]

TAKER = """\
import signal, sys
from tests.harness.broker import channel, take
with channel(sys.argv[1], lease=0.5) as ours:
    tags = [take(ours).delivery_tag for _ in range(int(sys.argv[2]))]
    print(*tags, flush=True)
    signal.pause()
"""


@pytest.fixture
def client(redis_url: str) -> Generator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def scripts(client: Redis, lease_s: float = 0.05, **terms: Any) -> KeeperScripts:
    return KeeperScripts(client, LeaseTable(DeliveryKeys(), LeaseSettings(lease_s=lease_s, **terms)))


def hold(client: Redis, worker: str, number: int = 1, body: object = "body", **properties: Any) -> str:
    """Record a claim of a worker as the claim script does."""
    envelope = {"body": json.dumps(body), "content-type": "application/json", "content-encoding": "utf-8",
                "headers": {"task": "t", "id": f"id-{number}"},
                "properties": {"delivery_info": {}, "body_encoding": "utf-8", **properties}}  # fmt: skip
    tag = f"{worker}.{number}"
    client.hset(DeliveryKeys().held(worker), tag, QUEUE.encode() + b"\n" + json.dumps(envelope).encode())
    client.hsetnx(DeliveryKeys().workers, worker, "0")  # type: ignore[arg-type]
    return tag


def ticks(client: Redis) -> int:
    return int(client.hget(DeliveryKeys().ticks, "tick") or 0)  # type: ignore[arg-type]


# ---------------------------------------------------------------- ticks


def test_a_worker_is_silent_once_it_is_more_ticks_behind_than_a_lease_has_beats(client: Redis) -> None:
    alive = scripts(client)
    hold(client, "silent")

    def silent() -> list[tuple[str, str]]:
        return alive.heartbeat()[1]

    found = wait_until(silent, "the silent worker to be found", poll_s=0.002)
    assert found == [("silent", "0")]
    assert ticks(client) == HEARTBEATS_PER_LEASE + 1


def test_there_is_one_tick_in_a_beat_however_many_workers_beat(client: Redis) -> None:
    workers = [scripts(client, lease_s=5) for _ in range(20)]
    for worker in workers:
        worker.heartbeat()
    assert ticks(client) == 1
    assert client.hlen(DeliveryKeys().workers) == 20


def test_time_without_ticks_does_not_count(client: Redis) -> None:
    alive = scripts(client)
    alive.heartbeat()
    hold(client, "other")
    # An hour in which the server was away or stood still, as its clock sees it.
    client.hset(DeliveryKeys().ticks, "at", int(time.time() * 1000) - 3_600_000)  # type: ignore[arg-type]
    assert alive.heartbeat()[1] == []
    assert ticks(client) == 2


def test_a_clock_that_was_set_back_does_not_stop_the_ticks(client: Redis) -> None:
    alive = scripts(client)
    client.hset(DeliveryKeys().ticks, mapping={"tick": 7, "at": int(time.time() * 1000) + 3_600_000})
    alive.heartbeat()
    assert ticks(client) == 8


def test_a_beat_renews_everything_that_a_worker_holds_at_once(client: Redis) -> None:
    alive = scripts(client)
    for number in range(100):
        hold(client, alive._leases.worker, number)
    count, _ = alive.heartbeat()
    assert count == 100
    assert client.hget(DeliveryKeys().workers, alive._leases.worker) == b"1"


# ---------------------------------------------------------------- dead workers


def test_what_a_killed_worker_held_is_handed_on_within_seconds(redis_url: str, client: Redis, tmp_path: Path) -> None:
    with channel(redis_url) as alive:
        for n in range(3):
            put(alive, n, headers={"task": "t", "id": str(n)})
        log = tmp_path / "taker.log"
        taker = start_preloaded([sys.executable, "-c", TAKER, redis_url, "2"], log, cwd=ROOT)
        try:
            wait_until(lambda: len(held(client)) == 2, "the other process to claim", timeout_s=30)
            consumer = Consumer(alive)
            assert consumer.drain() == [2]
            taker.end(signal.SIGKILL)
            killed = Stopwatch()
            wait_until(lambda: len(consumer.drain(0.05)) == 3, "the dead process's messages")
            assert killed.elapsed_s < 5
        finally:
            taker.end(signal.SIGKILL)
        assert sorted(consumer.bodies) == [0, 1, 2]
        counts = {message.payload: message.properties["deliveries"] for message in consumer.messages}
        assert counts == {2: 1, 0: 2, 1: 2}, "lost ones are counted"
        assert all(m.delivery_info["redelivered"] for m in consumer.messages if m.payload != 2)
        assert client.hlen(DeliveryKeys().workers) == 1, "the dead one is forgotten"


def silence(client: Redis, lives: KeeperScripts) -> None:
    """Let so many ticks pass that whoever doesn't beat is silent."""
    wait_until(lambda: lives.heartbeat()[1], "the ticks", poll_s=0.002)


def reap(client: Redis, worker: str, **terms: Any) -> None:
    keeper = LeaseKeeper(LeaseTable(DeliveryKeys(), LeaseSettings(**terms)), lambda: client)

    def reaped() -> bool:
        beat: Any = client.hget(DeliveryKeys().workers, worker)
        keeper._reap(keeper._get_scripts(), worker, beat.decode())
        return not client.exists(DeliveryKeys().held(worker))

    wait_until(reaped, "it to be reaped between two of its beats")


def test_a_message_that_took_too_many_workers_along_is_given_up(client: Redis) -> None:
    reports: list[Any] = []
    given_up.add_listener(reports.append)
    hold(client, "dead", 1, deliveries=2)
    hold(client, "dead", 2, deliveries=3)
    reap(client, "dead", max_deliveries=3)
    (entry,) = dead(client)
    assert (entry["reason"], entry["task_id"], entry["deliveries"]) == ("lost", "id-2", 3)
    assert "worker dead missed its heartbeats" in entry["error"]
    assert json.loads(entry["message"])["headers"]["id"] == "id-2", "the whole message is kept"
    (back,) = (json.loads(raw) for raw in client.lrange(QUEUE, 0, -1))  # type: ignore[union-attr]
    assert back["properties"]["deliveries"] == 3
    assert client.exists(DeliveryKeys().held("dead"), DeliveryKeys().workers) == 0
    assert [event["task_id"] for event in reports] == ["id-2"]


def test_rubbish_in_a_dead_workers_hands_is_given_up_and_the_rest_handed_on(client: Redis) -> None:
    hold(client, "dead", 1)
    client.hset(DeliveryKeys().held("dead"), "dead.2", f"{QUEUE}\n".encode() + b"\xff")
    reap(client, "dead")
    assert [entry["reason"] for entry in dead(client)] == ["unreadable"]
    assert client.llen(QUEUE) == 1


def test_two_reapers_hand_on_each_message_once(client: Redis) -> None:
    for number in range(250):
        hold(client, "dead", number)
    keepers = [LeaseKeeper(LeaseTable(DeliveryKeys(), LeaseSettings()), lambda: client) for _ in range(2)]
    records = [list(keeper._get_scripts().iter_records("dead")) for keeper in keepers]
    for keeper, found in zip(keepers, records, strict=True):
        for ids in found:
            keeper._get_scripts().reap("dead", "0", keeper._settle_as_lost(ids, "it died"))
    assert client.llen(QUEUE) == 250


def test_a_worker_that_is_back_keeps_what_it_holds(client: Redis) -> None:
    tag = hold(client, "slow")
    keeper = LeaseKeeper(LeaseTable(DeliveryKeys(), LeaseSettings()), lambda: client)
    client.hset(DeliveryKeys().workers, "slow", 9)  # type: ignore[arg-type]  (a beat since it was looked at)
    assert not keeper._get_scripts().reap("slow", "0", [Settlement(tag, "front", QUEUE)])
    assert held(client).keys() == {tag}


def test_a_worker_that_was_reaped_while_it_stood_still_goes_on_with_new_claims(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as ours:
        put(ours, "first")
        put(ours, "second")
        first = take(ours)
        wait_until(lambda: client.hexists(DeliveryKeys().workers, ours.leases.worker), "a beat")
        reap(client, ours.leases.worker)
        first.ack()
        again, second = take(ours), take(ours)
        assert [again.payload, again.properties["deliveries"], second.payload] == ["first", 2, "second"]
        again.ack()
        assert held(client).keys() == {second.delivery_tag}
        wait_until(lambda: client.hexists(DeliveryKeys().workers, ours.leases.worker), "it to be known again")
        second.ack()


# ---------------------------------------------------------------- what a living worker must not keep


def test_a_claim_whose_answer_never_arrived_goes_back(redis_url: str, client: Redis) -> None:
    with channel(redis_url, lease=0.2) as ours:
        put(ours, "known")
        known = take(ours)
        hold(client, ours.leases.worker, 999, "nobody's")
        wait_until(lambda: client.llen(QUEUE) == 1, "the claim to go back")
        assert held(client).keys() == {known.delivery_tag}
        again = take(ours)
        assert (again.payload, again.properties["deliveries"]) == ("nobody's", 1)


def test_what_is_held_past_its_limit_counts_as_lost(redis_url: str, client: Redis) -> None:
    with channel(redis_url, lease=0.2, hold_limit=0.3) as ours:
        put(ours, "stuck")
        put(ours, "has a limit of its own", headers={"timelimit": [60, None]})
        stuck, limited = take(ours), take(ours)
        wait_until(lambda: client.llen(QUEUE) == 1, "the stuck one to be let go")
        assert held(client).keys() == {limited.delivery_tag}
        stuck.ack()
        again = take(ours)
        assert (again.payload, again.properties["deliveries"]) == ("stuck", 2)


def test_a_consumer_that_stands_still_while_messages_wait_is_restarted() -> None:
    with EmbeddedRedis.start() as server, channel(server.url, lease=0.2, stall=0.5) as ours:
        consumer = Consumer(ours)
        assert consumer.drain(0.1) == []
        # A line that looks connected and never answers, as behind a firewall that forgot it.
        ours.claimer.wire.connection.send_packed_command = lambda *_, **__: None
        with channel(server.url, "redis") as stock:
            put(stock, "waits")
        with pytest.raises(ours.connection_errors):
            wait_until(lambda: consumer.drain(0.1), "the watchdog")


def test_a_consumer_that_has_no_room_is_left_alone() -> None:
    with EmbeddedRedis.start() as server, channel(server.url, lease=0.2, stall=0.3) as ours:
        put(ours, 1)
        put(ours, 2)
        consumer = Consumer(ours, room=1)
        until = time.monotonic() + 1
        wait_until(lambda: consumer.drain(0.1) == [1] and time.monotonic() > until, "a while of standing still")
        consumer.messages[0].ack()
        assert consumer.drain() == [1, 2]


# ---------------------------------------------------------------- the thread


def eventually_alone(client: Redis) -> Callable[[], bool]:
    return lambda: client.hgetall(DeliveryKeys().workers) == {}


def test_a_process_that_holds_nothing_is_forgotten_and_its_thread_ends(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as ours:
        put(ours, 1)
        take(ours).ack()
        Consumer(ours)
        wait_until(lambda: client.hlen(DeliveryKeys().workers) == 1, "it to be known")
        keeper = ours.keeper
    wait_until(eventually_alone(client), "it to be forgotten")
    wait_until(lambda: keeper._thread is None, "its thread to end")


def test_a_renewal_needs_nothing_of_the_thread_that_consumes(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as ours, channel(redis_url, lease=LEASE_S + 0.01) as other:
        put(ours, 1)
        take(ours)
        watching = Consumer(other)
        # This thread, which consumed, does nothing for `ours` in the meantime.
        assert watching.drain(4 * LEASE_S) == []
        assert len(held(client)) == 1
