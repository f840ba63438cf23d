"""Whose work runs in which threads: libraries' never behind users', and nobody waits for itself."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import socket
import threading
import time
from contextvars import ContextVar, copy_context
from typing import Any

import dspy
import pytest

from snakepit_bridge.process.frames import mark_coroutine
from snakepit_bridge.process.home_loop import get_home_loop, run_blocking
from snakepit_bridge.process.threads import HomeThreads, UserThreads, is_library_code, run_in_user_thread
from tests.harness.waiting import PATIENCE_S, wait_until

WAIT_S = PATIENCE_S


def users() -> str:
    return threading.current_thread().name


@pytest.mark.parametrize("function", [socket.getaddrinfo, hashlib.sha256, dspy.Predict, run_blocking])
def test_library_code_is_recognised_by_its_module(function: Any) -> None:
    assert is_library_code(function)
    assert is_library_code(functools.partial(function, 1))
    # What asyncio.to_thread makes of it.
    assert is_library_code(functools.partial(copy_context().run, function, 1))


@pytest.mark.parametrize("function", [users, lambda: 1, time.sleep, functools.partial(time.sleep, 1)])
def test_other_code_counts_as_user_code(function: Any) -> None:
    assert not is_library_code(function)
    assert not is_library_code(functools.partial(copy_context().run, function))


def test_blocking_user_code_does_not_delay_library_code() -> None:
    gate = threading.Event()

    async def many() -> list[Any]:
        blocked = [asyncio.create_task(asyncio.to_thread(gate.wait, WAIT_S)) for _ in range(200)]
        loop = asyncio.get_running_loop()
        found = await asyncio.wait_for(loop.getaddrinfo("127.0.0.1", 80), WAIT_S)
        gate.set()
        await asyncio.gather(*blocked)
        return found

    assert isinstance(getattr(get_home_loop(), "_default_executor"), HomeThreads)  # noqa: B009
    assert run_blocking(many())


def test_a_nested_call_gets_a_thread_even_if_the_pool_is_full() -> None:
    threads = UserThreads(max_calls=1)
    assert threads.submit(lambda: threads.submit(lambda: threads.submit(users).result(WAIT_S)).result(WAIT_S)).result(
        WAIT_S
    )


def test_calls_beyond_the_limit_are_queued() -> None:
    threads, gate, began = UserThreads(max_calls=2), threading.Event(), list[int]()

    def block(number: int) -> int:
        began.append(number)
        gate.wait(WAIT_S)
        return number

    sent = [threads.submit(block, number) for number in range(6)]
    wait_until(lambda: len(began) == 2, "two to begin")
    assert sent[4].cancel(), "one that waits can be called off"
    gate.set()
    assert [future.result(WAIT_S) for future in sent if not future.cancelled()] == [0, 1, 2, 3, 5]
    assert sorted(began) == [0, 1, 2, 3, 5]


def test_an_error_reaches_its_caller_and_the_thread_survives() -> None:
    threads = UserThreads(max_calls=1)

    def fail() -> None:
        raise SystemExit("gone")

    for _ in range(3):
        with pytest.raises(SystemExit, match="gone"):
            threads.submit(fail).result(WAIT_S)
    assert threads.submit(users).result(WAIT_S) == "dspex-user"


async def test_a_call_that_raises_stop_iteration_fails_where_it_is_awaited() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        await asyncio.wait_for(loop.run_in_executor(UserThreads(), next, iter(())), WAIT_S)


async def test_a_call_runs_in_its_callers_context_below_a_named_frame() -> None:
    variable: ContextVar[str] = ContextVar("said", default="nothing")
    variable.set("something")

    def look() -> tuple[str, list[str]]:
        import sys

        frame, names = sys._getframe(), list[str]()
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back  # type: ignore[assignment]
        return variable.get(), names

    async def ask() -> tuple[str, list[str]]:
        return await run_in_user_thread(look)

    found, names = await mark_coroutine("task-1", ask())
    assert found == "something"
    assert "prediction task-1" in names
    assert not any(name.startswith("prediction ") for name in (await ask())[1])
