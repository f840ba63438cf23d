"""An app of small tasks for the pools' conformance suite: most of them coroutines, as the fleet's own are."""

from __future__ import annotations

import asyncio
import os
import time
from contextvars import ContextVar
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.signals import worker_init
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from config.settings import FleetSettings
from workers import lifecycle
from workers.app import FleetApp
from workers.pool.pool_task import PoolTask

_variable: ContextVar[str] = ContextVar("said", default="nothing")
# A gate is given up so long after a test has.
_GATE_S = 60

# These tasks need no DSPy, and a worker is up in a second without it.
worker_init.disconnect(lifecycle._before_fork)

app = FleetApp(FleetSettings.model_validate({}))
app.conf.update(
    imports=(),
    task_default_queue="pools",
    worker_soft_shutdown_timeout=float(os.environ.get("POOL_SOFT_SHUTDOWN_S", "0")),
    worker_send_task_events=bool(os.environ.get("POOL_EVENTS")),
)


def log(key: str, what: str) -> int:
    """Note something where the test can read it, and return how many notes there are."""
    with Redis.from_url(app.settings.redis) as client:
        count = client.rpush(key, what)
        client.expire(key, 300)
        return int(str(count))


async def through(gate: str) -> None:
    """Wait until the test opens a gate."""
    async with AsyncRedis.from_url(app.settings.redis, socket_timeout=None) as client:
        await client.blmove(gate, gate, _GATE_S)


@app.task(name="pools.add")
async def add(left: int, right: int) -> int:
    await asyncio.sleep(0)
    return left + right


@app.task(name="pools.add_plainly")
def add_plainly(left: int, right: int) -> int:
    return left + right


@app.task(name="pools.total")
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="pools.hold")
async def hold(key: str, gate: str) -> str:
    """Note its begin, wait at the gate, note its end; note what interrupts it as well."""
    log(key, "began")
    try:
        await through(gate)
    except asyncio.CancelledError:
        log(key, "cancelled")
        raise
    log(key, "ended")
    return "held"


@app.task(name="pools.hold_early", acks_late=False)
async def hold_early(key: str, gate: str) -> str:
    log(key, "began")
    await through(gate)
    return "held"


@app.task(bind=True, name="pools.retry", max_retries=3)
async def retry(self: Task, fails: int) -> int:
    await asyncio.sleep(0)
    if self.request.retries < fails:
        raise self.retry(exc=LookupError(f"failed {self.request.retries + 1} times"), countdown=0.01)
    return self.request.retries


@app.task(
    bind=True, name="pools.autoretry", autoretry_for=(LookupError,), retry_kwargs={"max_retries": 3, "countdown": 0.01}
)
async def autoretry(self: Task, fails: int) -> int:
    await asyncio.sleep(0)
    if self.request.retries < fails:
        raise LookupError("not yet")
    return self.request.retries


@app.task(name="pools.catch")
async def catch(text: str) -> str:
    """Catch what a task of its own raises."""
    try:
        await asyncio.create_task(_raise(text))
    except LookupError as caught:
        return f"caught {caught.args[0]}"
    return "nothing"


async def _raise(text: str) -> None:
    await asyncio.sleep(0)
    raise LookupError(text)


@app.task(name="pools.fail")
async def fail(text: str) -> None:
    await asyncio.sleep(0)
    raise LookupError(text)


@app.task(name="pools.clean_up", soft_time_limit=0.3)
async def clean_up(gate: str) -> str:
    try:
        await through(gate)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0)  # it can still wait
        return "cleaned up"
    return "not limited"


@app.task(name="pools.softly_limited", soft_time_limit=0.3)
async def softly_limited(gate: str) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(through(gate))
        group.create_task(through(gate))


@app.task(name="pools.hard_limited", time_limit=0.5)
async def hard_limited(gate: str) -> None:
    await through(gate)


@app.task(bind=True, name="pools.whoami")
async def whoami(self: Task, mine: str, key: str, gate: str) -> list[Any]:
    """Return whose request it sees: at once, after all others have begun, in a thread and in a child."""

    async def inside() -> str:
        return self.request.id

    first, was = self.request.id, _variable.get()
    _variable.set(mine)
    log(key, "began")
    await through(gate)
    return [
        [first, self.request.id, await asyncio.to_thread(lambda: self.request.id), await asyncio.create_task(inside())],
        app.current_task.request.id if app.current_task else None,
        self.request.kwargs["mine"],
        [was, _variable.get()],
    ]


@app.task(bind=True, name="pools.whoami_plainly")
def whoami_plainly(self: Task) -> str:
    time.sleep(0.01)
    return self.request.id


@app.task(bind=True, name="pools.reject")
async def reject(self: Task, key: str, requeue: bool) -> str:
    if log(key, "delivered") == 1:
        raise Reject("not for me", requeue=requeue)
    return "taken"


@app.task(name="pools.ignore")
async def ignore() -> None:
    raise Ignore


@app.task(name="pools.stubborn")
async def stubborn(key: str, gate: str) -> None:
    """Suppress whatever would end it."""
    log(key, "began")
    while True:
        try:
            await through(gate)
        except asyncio.CancelledError:
            log(key, "suppressed")
        else:
            return


@app.task(name="pools.exit")
async def leave() -> None:
    raise SystemExit(3)


@app.task(name="pools.own_cancellation")
async def own_cancellation() -> None:
    inner = asyncio.ensure_future(asyncio.sleep(10))
    inner.cancel()
    await inner


_shared_errors: dict[str, LookupError] = {}


@app.task(name="pools.fail_together")
async def fail_together(of: str, pause_s: float) -> None:
    """Raise the one error of all tasks of this name, and wait in between with its frame in that error's traceback."""
    error = _shared_errors.setdefault(of, LookupError("shared"))
    try:
        raise error
    except LookupError:
        await asyncio.sleep(pause_s)
    raise error


@app.task(name="pools.raise_what_ends_coroutines")
async def raise_what_ends_coroutines() -> None:
    raise GeneratorExit


@app.task(name="pools.close_others")
async def close_others(task_id: str) -> int:
    """Close the coroutine of another task's job where it waits; return how many it found."""
    closed = 0
    for task in asyncio.all_tasks():
        coroutine: Any = task.get_coro()
        job = coroutine.cr_frame.f_locals.get("job")
        if isinstance(job, PoolTask) and job.request.args[1] == task_id:
            coroutine.close()
            closed += 1
    return closed
