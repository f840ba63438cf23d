"""What runs right now: the workers that answer, and what waits for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snakepit_bridge.cli.remote_control import ask_workers, await_answers
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
        newer_release: what it leaves to workers of a newer release, so that it isn't ready; empty if it leaves nothing.
    """

    name: str
    pool: str
    concurrency: int
    predictions: int
    loop_p99_ms: float | None = None
    newer_release: str = ""


@dataclass(frozen=True, slots=True)
class FoundWorkers:
    """The workers of a fleet.

    Attributes:
        workers: those that answer, sorted by name.
        silent: the names of those that report to Redis that they run, and don't answer.
        shared: names that several workers have.
        waited_s: seconds for which they were waited for.
    """

    workers: Sequence[Worker]
    silent: Sequence[str] = ()
    shared: Sequence[str] = ()
    waited_s: float = 0.0


def find_workers(
    fleet: Fleet, wait_s: float = _ANSWER_S, on_silence: Callable[[Sequence[str]], None] = lambda _: None
) -> FoundWorkers:
    """Return the workers that answer, and those that run and don't.

    Args:
        fleet: whose workers.
        wait_s: most seconds to wait for those that report to Redis that they run.
        on_silence: is told once which ones are waited for longer than usual, if any.

    Raises:
        StoreUnavailableError: Redis or the broker is away.
    """
    from snakepit_bridge.protocol.messages import PREDICT

    answers = await_answers(fleet, "stats", wait_s, first_s=_ANSWER_S, on_silence=on_silence)
    workers = [_parse_worker(name, stats, PREDICT) for name, stats in answers.found]
    return FoundWorkers(workers, answers.silent, answers.shared, answers.waited_s)


def _parse_worker(name: str, stats: dict[str, Any], task: str) -> Worker:
    pool = stats.get("pool", {})
    implementation = str(pool.get("implementation", "unknown")).partition(":")[0].rpartition(".")[2]
    return Worker(
        name, _POOLS.get(implementation, implementation), pool.get("max-concurrency", 0),
        stats.get("total", {}).get(task, 0), pool.get("loop", {}).get("p99_ms"),
        str(stats.get("newer_release", "")),
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
    answers = ask_workers(fleet, "active_queues", wait_s)
    return {queue["name"] for _, queues in answers for queue in queues or ()}


def count_held_by(fleet: Fleet, workers: Sequence[Worker], wait_s: float = _ANSWER_S) -> int:
    """Return how many messages these workers report as taken and not yet acknowledged.

    Raises:
        StoreUnavailableError: the broker is away.
    """
    if not workers:
        return 0
    names = [worker.name for worker in workers]
    answers = [answer for kind in ("active", "reserved") for answer in ask_workers(fleet, kind, wait_s, names=names)]
    return sum(len(tasks) for _, tasks in answers)


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
