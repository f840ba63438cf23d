"""What runs right now: the workers that answer, and what waits for them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snakepit_bridge.redis.key_names import FleetKeys

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet
    from snakepit_bridge.delivery.stalls import Stall
    from snakepit_bridge.redis.connection import RedisConnection

# A worker answers within milliseconds; one that is busy to the brim takes longer.
_ANSWER_S = 1.0
# What happened longer ago is no news.
_RECENT_S = 3_600.0

# What the pools' modules are called, where that isn't the pool's name.
_POOLS = {"thread": "threads", "asyncio_pool": "asyncio"}


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that answers.

    Attributes:
        name: the Celery node.
        pool: its pool.
        concurrency: how many predictions it runs at a time.
        predictions: what it has run since its start.
        loop_p99_ms: how late its event loop was in the last minute, 99 times of 100; None where it doesn't say.
    """

    name: str
    pool: str
    concurrency: int
    predictions: int
    loop_p99_ms: float | None = None


def find_workers(fleet: Fleet, wait_s: float = _ANSWER_S) -> list[Worker]:
    """Return the workers that answer within the wait.

    Raises:
        StoreUnavailableError: the broker is away.
    """
    from snakepit_bridge.client.broker import get_broker_url
    from snakepit_bridge.client.rabbitmq import translate_broker_errors
    from snakepit_bridge.protocol.messages import PREDICT

    with translate_broker_errors(get_broker_url(fleet.app)):
        answers: dict[str, Any] = fleet.app.control.inspect(timeout=wait_s).stats() or {}
    return [_parse_worker(name, answers[name], PREDICT) for name in sorted(answers)]


def _parse_worker(name: str, stats: dict[str, Any], task: str) -> Worker:
    pool = stats.get("pool", {})
    implementation = str(pool.get("implementation", "unknown")).partition(":")[0].rpartition(".")[2]
    return Worker(
        name, _POOLS.get(implementation, implementation), pool.get("max-concurrency", 0),
        stats.get("total", {}).get(task, 0), pool.get("loop", {}).get("p99_ms"),
    )  # fmt: skip


async def find_recent_stalls(fleet: Fleet) -> list[Stall]:
    """Return the workers whose event loop is blocked, and those that were terminated for it in the last hour.

    Raises:
        StoreUnavailableError: Redis is away.
    """
    from snakepit_bridge.delivery.stalls import Stalls

    found = await Stalls(fleet.connection, namespace=fleet.namespace).list_recent()
    return [stall for stall in found if time.time() - (stall.ended_at or time.time()) < _RECENT_S]


def find_consumed_queues(fleet: Fleet, wait_s: float = _ANSWER_S) -> set[str]:
    """Return the queues that the responding workers consume.

    Raises:
        StoreUnavailableError: the broker is away.
    """
    from snakepit_bridge.client.broker import get_broker_url
    from snakepit_bridge.client.rabbitmq import translate_broker_errors

    with translate_broker_errors(get_broker_url(fleet.app)):
        answers: dict[str, list[dict[str, Any]]] = fleet.app.control.inspect(timeout=wait_s).active_queues() or {}
    return {queue["name"] for queues in answers.values() for queue in queues}


def count_held_by(fleet: Fleet, workers: Sequence[Worker], wait_s: float = _ANSWER_S) -> int:
    """Return how many messages these workers report as taken and not yet acknowledged.

    Raises:
        StoreUnavailableError: the broker is away.
    """
    from snakepit_bridge.client.broker import get_broker_url
    from snakepit_bridge.client.rabbitmq import translate_broker_errors

    if not workers:
        return 0
    names = [worker.name for worker in workers]
    ask = fleet.app.control.inspect(destination=names, timeout=wait_s, limit=len(names))
    with translate_broker_errors(get_broker_url(fleet.app)):
        answers: list[dict[str, Any]] = [ask.active() or {}, ask.reserved() or {}]
    return sum(len(tasks) for answer in answers for tasks in answer.values())


async def count_parked(connection: RedisConnection, namespace: str) -> dict[str, dict[str, int]]:
    """Return how many predictions wait for a limit, by LM profile and session.

    Raises:
        StoreUnavailableError: Redis is away.
    """
    base = FleetKeys(namespace).limits
    (waits,) = await connection.send_each([("HKEYS", f"{base}waiting")])
    profiles: list[str] = [name.decode() for name in sorted(waits)]
    if not profiles:
        return {}
    found = await connection.send_each([("ZRANGE", f"{base}sessions:{profile}", 0, -1) for profile in profiles])
    lanes = [(profile, name.decode()) for profile, names in zip(profiles, found, strict=True) for name in names]
    # The length keeps a profile and a session apart whose names hold colons.
    keys = [f"{base}lane:{len(profile.encode())}:{profile}:{session}" for profile, session in lanes]
    counts = await connection.send_each([("ZCARD", key) for key in keys]) if keys else []
    depths: dict[str, dict[str, int]] = {}
    for (profile, session), count in zip(lanes, counts, strict=True):
        if count:
            depths.setdefault(profile, {})[session] = count
    return depths
