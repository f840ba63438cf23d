"""Code that waits by being switched out, and what becomes of it when nobody awaits it any more."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from greenlet import GreenletExit, getcurrent

from tests.harness.waiting import PATIENCE_S
from workers.pool.greenlets import GreenletBridge, run_in_greenlet

BRIDGE = GreenletBridge()


async def fail(error: Exception) -> None:
    await asyncio.sleep(0)
    raise error


async def test_what_a_coroutine_raises_comes_out_as_an_error_of_its_own() -> None:
    error = LookupError("as told")

    def body() -> list[BaseException]:
        found: list[BaseException] = []
        for _ in range(2):
            try:
                BRIDGE.wait(fail(error))
            except LookupError as exc:
                found.append(exc)
        return found

    first, second = await run_in_greenlet(body)
    assert {type(first), type(second)} == {LookupError}
    assert str(first) == "as told"
    assert len({id(first), id(second), id(error)}) == 3


async def test_a_greenlet_whose_coroutine_is_closed_unwinds_and_waits_for_nothing() -> None:
    """Such as by who clears its frame: it is closed in a greenlet that isn't the parent."""
    log: list[Any] = []

    def body() -> None:
        try:
            BRIDGE.wait(asyncio.sleep(60))
        finally:
            try:
                BRIDGE.wait(asyncio.sleep(60))
            except GreenletExit:
                log.append("refused to wait")

    work = run_in_greenlet(body)
    work.send(None)
    work.close()
    del work
    gc.collect()
    assert log == ["refused to wait"]


async def test_closing_it_from_another_greenlet_leaves_that_one_alone() -> None:
    other = run_in_greenlet(lambda: BRIDGE.wait(asyncio.sleep(60)))
    other.send(None)

    def body() -> str:
        mine = getcurrent()
        other.close()
        assert getcurrent() is mine
        BRIDGE.wait(asyncio.sleep(0))
        return "went on"

    assert await asyncio.wait_for(run_in_greenlet(body), PATIENCE_S) == "went on"


async def test_a_greenlet_that_is_dropped_in_another_thread_unwinds_in_its_own() -> None:
    where: list[int] = []

    def body() -> None:
        try:
            BRIDGE.wait(asyncio.sleep(60))
        finally:
            where.append(threading.get_ident())

    held = [run_in_greenlet(body)]
    held[0].send(None)
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    gc.collect()
    await run_in_greenlet(lambda: None)  # greenlets look for what other threads have dropped when they are switched
    assert where == [threading.get_ident()]


@pytest.fixture(autouse=True)
def no_unraisable(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    yield
    gc.collect()
    assert [
        str(warning.message)
        for warning in recwarn
        if issubclass(warning.category, pytest.PytestUnraisableExceptionWarning)
    ] == []
