"""The event that a follower waits on."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.harness.waiting import PATIENCE_S
from workers.refresher.timed_event import TimedEvent


async def took(waiting: asyncio.Task[None]) -> float:
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE_S):
        await waiting
    return time.monotonic() - began


async def test_a_bell_that_rings_ends_the_wait() -> None:
    bell = TimedEvent()
    waiting = asyncio.create_task(bell.wait(PATIENCE_S))
    await asyncio.sleep(0)
    bell.set()
    assert await took(waiting) < 1
    assert bell.clear()
    assert not bell.clear()


async def test_one_that_rang_before_is_not_waited_for() -> None:
    bell = TimedEvent()
    bell.set()
    assert await took(asyncio.create_task(bell.wait(PATIENCE_S))) < 1
    assert bell.clear()


async def test_a_silent_one_is_waited_for_no_longer_than_asked() -> None:
    bell = TimedEvent()
    assert 0.03 < await took(asyncio.create_task(bell.wait(0.05))) < 1
    assert not bell.clear()


async def test_a_wait_that_is_broken_off_leaves_the_bell_as_it_was() -> None:
    bell = TimedEvent()
    waiting = asyncio.create_task(bell.wait(PATIENCE_S))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    bell.set()
    assert await took(asyncio.create_task(bell.wait(PATIENCE_S))) < 1
