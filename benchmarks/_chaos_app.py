"""The worker's side of the chaos benchmark: one task, and the points at which its process can be told to die.

Importing it changes the transport for the whole process, so that workers alone do.

The fleet's contestant is the fleet's own app, with its transport, its result backend and its pools, and a task that
does what a prediction does: look whether it has ended, make several LM calls through the fleet's journal, return. The
stock one is plain Celery with the settings that behaved best. The LM is a counter on a Redis of its own, which nobody
harms.

Points: ``claimed``, messages have arrived from the broker and nothing else has happened; ``called``, the LM has
answered and nothing is committed; ``committed``, the result is there and not acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import uuid4

import redis
from celery import Celery
from celery.signals import task_success, worker_init
from redis.asyncio import Redis as AsyncRedis

from benchmarks._chaos_points import CALLS, TASK

KIND = os.environ.get("CHAOS_KIND", "fleet")
LATENCY_S = float(os.environ.get("CHAOS_LATENCY_S", "0.05"))
BROKER = os.environ.get("DSPEX_REDIS_URL", "redis://localhost:6379/0")
LEDGER = os.environ.get("CHAOS_LEDGER", BROKER)

_PAUSE_S = 0.1
_AWAY = (redis.ConnectionError, redis.TimeoutError)

ledger = redis.Redis.from_url(LEDGER)


def die_if_told(point: str) -> None:
    """End the process as kill -9 does, if somebody is to die here."""
    if ledger.lpop(f"armed:{point}"):
        os.kill(os.getpid(), signal.SIGKILL)


def called(copy: str, number: int, deliveries: int) -> None:
    """Note a call of the LM, and whether it is one that it was asked before.

    Args:
        copy: the task, and which of its messages this is.
        number: of the call within its task. A call is finished once its task has gone on to the next, or has ended.
        deliveries: how often the message was delivered.
    """
    with ledger.pipeline(transaction=False) as pipeline:
        pipeline.hincrby("calls", f"{copy}:{number}", 1)
        pipeline.hexists("calls", f"{copy}:{number + 1}")
        pipeline.sismember("ended", copy.partition(":")[0])
        pipeline.zadd("deliveries", {copy: deliveries}, gt=True)
        count, has_gone_on, has_ended, _ = pipeline.execute()
    if count > 1:
        ledger.incr("finished_repeated" if has_gone_on or has_ended else "flying_repeated")


async def _ended(key: str) -> bool:
    """Check whether the task has its result; wait for a broker that is away."""
    while True:
        try:
            async with AsyncRedis.from_url(BROKER) as client:
                return bool(await client.exists(f"celery-task-meta-{key}"))
        except _AWAY:
            await asyncio.sleep(_PAUSE_S)


def _fleet() -> Celery:
    from celery.exceptions import Ignore

    from benchmarks._chaos_calls import Calls
    from workers import lifecycle
    from workers.app import app
    from workers.broker.claimer import Claimer

    # The task knows no DSPy, which takes seconds to load.
    worker_init.disconnect(lifecycle._before_fork)  # pyright: ignore[reportPrivateUsage]
    app.conf.imports = ()

    async def check_ended(task_id: str) -> None:
        if await _ended(task_id):
            raise Ignore

    async def ask(copy: str, number: int, deliveries: int) -> None:
        await asyncio.to_thread(called, copy, number, deliveries)
        await asyncio.sleep(LATENCY_S)
        await asyncio.to_thread(die_if_told, "called")

    calls = Calls(BROKER, check_ended)

    async def work(self: Any, copy: str) -> dict[str, str]:
        task_id, deliveries = self.request.id, self.request.properties.get("deliveries", 1)
        await check_ended(task_id)
        is_repeated = deliveries > 1 or bool((self.request.delivery_info or {}).get("redelivered"))
        await calls.make(task_id, CALLS, lambda number: ask(copy, number, deliveries), is_repeated=is_repeated)
        return {"by": uuid4().hex}

    app.task(work, bind=True, name=TASK)
    _before(Claimer, "_handle_claim", lambda *args: len(args[-1]) > 2)
    return app


def _stock() -> Celery:
    from kombu.transport.redis import QoS

    app = Celery("stock", broker=BROKER, backend=BROKER, set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": float(os.environ.get("CHAOS_LEASE_S", "5")),
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 5,
            "socket_keepalive": True,
            "health_check_interval": 5,
        },
        worker_hijack_root_logger=False,
        task_create_missing_queues=True,
    )

    def work(self: Any, copy: str) -> dict[str, str]:
        for number in range(CALLS):
            called(copy, number, 1)
            time.sleep(LATENCY_S)
            die_if_told("called")
        return {"by": uuid4().hex}

    app.task(work, bind=True, name=TASK)
    _before(QoS, "append", lambda *_: True)
    return app


def _before(owner: Any, name: str, there: Callable[..., bool]) -> None:
    """Have a process that is to die with a fresh claim die before this method."""
    method = getattr(owner, name)

    @wraps(method)
    def dying(*args: Any, **kwargs: Any) -> Any:
        if there(*args):
            die_if_told("claimed")
        return method(*args, **kwargs)

    setattr(owner, name, dying)


@task_success.connect
def _committed(sender: Any = None, **_: Any) -> None:
    ledger.sadd("ended", sender.request.id)
    die_if_told("committed")


app = _stock() if KIND == "stock" else _fleet()
