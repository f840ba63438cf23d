"""The one loop of a process: blocking callers, coroutines and threads meet on it, and a fork gets its own."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable

import pytest

from snakepit_bridge.process.home_loop import get_home_loop, run_blocking, run_on_home_loop, share_future
from tests.harness.waiting import PATIENCE_S


async def here() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def fails() -> None:
    raise LookupError("as told")


def test_there_is_one_loop_and_it_runs() -> None:
    assert get_home_loop() is get_home_loop()
    assert get_home_loop().is_running()


def test_all_threads_get_the_same_loop() -> None:
    found: list[asyncio.AbstractEventLoop] = []
    threads = [threading.Thread(target=lambda: found.append(run_blocking(here()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert found == [get_home_loop()] * 8


async def test_both_functions_work_from_another_loop() -> None:
    assert asyncio.get_running_loop() is not get_home_loop()
    assert await run_on_home_loop(here()) is get_home_loop()
    assert run_blocking(here()) is get_home_loop()


@pytest.mark.parametrize("run", [run_blocking, lambda work: asyncio.run(run_on_home_loop(work))])
def test_exceptions_of_the_coroutine_propagate(run: Callable[[Awaitable[None]], None]) -> None:
    with pytest.raises(LookupError, match="as told"):
        run(fails())


def test_awaiting_on_the_home_loop_itself_works() -> None:
    async def nested() -> bool:
        return await run_on_home_loop(here()) is asyncio.get_running_loop()

    assert run_blocking(nested())


def test_blocking_on_the_home_loop_raises_instead_of_deadlocking() -> None:
    async def blocks() -> None:
        run_blocking(here())

    with pytest.raises(RuntimeError, match="await it instead"):
        run_blocking(blocks(), timeout_s=10)


def test_a_timeout_cancels_the_work() -> None:
    cancelled = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(TimeoutError):
        run_blocking(endless(), timeout_s=0.05)
    assert cancelled.wait(10)


async def test_cancelling_the_caller_cancels_the_work() -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def endless() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    task = asyncio.create_task(run_on_home_loop(endless()))
    assert await asyncio.to_thread(started.wait, 10)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(cancelled.wait, 10)


def test_context_variables_reach_the_home_loop() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("said", default="nothing")

    async def hear() -> str:
        return variable.get()

    token = variable.set("something")
    try:
        assert run_blocking(hear()) == "something"
    finally:
        variable.reset(token)


def test_a_forked_child_gets_its_own_loop() -> None:
    run_blocking(here())
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  (another process)
        ran = b"no"
        try:
            ran = b"yes" if run_blocking(here(), timeout_s=20) is get_home_loop() else b"other"
        finally:
            os.write(write, ran)
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as from_child:
        assert from_child.read() == b"yes"
    os.waitpid(child, 0)


def script(code: str) -> str:
    imports = "from snakepit_bridge.process.home_loop import adopt_loop, get_home_loop, run_blocking, run_on_home_loop"
    lines = f"import asyncio, threading\n{imports}\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return (done.stdout + done.stderr).strip()


def test_importing_it_starts_no_thread() -> None:
    assert script("print(threading.active_count())") == "1"


def test_an_adopted_loop_is_the_home_loop() -> None:
    assert (
        script(
            """
async def main():
    adopt_loop(asyncio.get_running_loop())
    adopt_loop(asyncio.get_running_loop())
    async def here(): return asyncio.get_running_loop()
    assert await run_on_home_loop(here()) is asyncio.get_running_loop() is get_home_loop()
    assert await asyncio.to_thread(run_blocking, here()) is get_home_loop()
    print(threading.active_count() < 10, "dspex-home-loop" in [t.name for t in threading.enumerate()])
asyncio.run(main())
"""
        )
        == "True False"
    )


def test_a_loop_cannot_be_adopted_once_another_is_in_use() -> None:
    assert "another event loop already" in script("get_home_loop()\nadopt_loop(asyncio.new_event_loop())")


def test_a_process_exits_while_its_loop_runs() -> None:
    assert script("async def f(): return 1\nprint(run_blocking(f()))") == "1"


def test_across_a_bridge_blocking_on_the_home_loop_switches_out() -> None:
    """In a process of its own, since a bridge stays."""
    assert (
        script(
            """
from greenlet import getcurrent, greenlet
from snakepit_bridge.process.home_loop import set_bridge

class Bridge:
    def can_switch_out(self): return getcurrent().parent is not None
    def wait(self, work): return getcurrent().parent.switch(work)

set_bridge(Bridge())

async def slow(): await asyncio.sleep(0.01); return "answer"

async def main():
    adopt_loop(asyncio.get_running_loop())
    waiting = greenlet(lambda: run_blocking(slow(), timeout_s=5))
    handed = waiting.switch()
    print(waiting.switch(await handed), waiting.dead)
    try:
        run_blocking(slow())
    except RuntimeError as refused:
        print("refused outside")

asyncio.run(main())
"""
        )
        == "answer True\nrefused outside"
    )


# ---------------------------------------------------------------- what several await


async def test_each_waiter_of_a_shared_future_gets_its_own_error() -> None:
    failing = asyncio.create_task(fails())
    found = await asyncio.gather(
        *(share_future(failing) for _ in range(5)), share_future(failing), return_exceptions=True
    )
    found += await asyncio.gather(share_future(failing), share_future(failing), return_exceptions=True)

    assert [(type(error), str(error)) for error in found] == [(LookupError, "as told")] * 8
    assert len({id(error) for error in [*found, failing.exception()]}) == 9


async def test_cancelling_one_waiter_leaves_a_shared_future_alone() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    leaving, staying = share_future(future), share_future(future)
    leaving.cancel()
    await asyncio.sleep(0)
    future.set_result(7)

    assert await staying == 7
    assert await share_future(future) == 7


async def test_cancelling_a_shared_future_cancels_its_waiters() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    before = share_future(future)
    future.cancel()
    for sharing in (before, share_future(future)):
        with pytest.raises(asyncio.CancelledError):
            await sharing
