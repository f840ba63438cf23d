"""Fragments that are rendered while somebody watches: how often, and that a slow one takes no core for itself."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import pytest

from workers.gateway.console import live
from workers.gateway.console.live import LiveFeeds


async def test_what_takes_long_to_render_is_rendered_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_MAX_SHARE", 0.1)
    began, ends = list[float](), list[float]()

    async def render() -> str:
        began.append(time.monotonic())
        await asyncio.sleep(0.02)
        ends.append(time.monotonic())
        return str(len(began))

    async with aclosing(LiveFeeds(0.001).events(("slow",), render, asyncio.Event())) as events, asyncio.timeout(30):
        async for event in events:
            if b"data: 3" in event:
                break
    rests = [second - first for first, second in zip(ends, began[1:], strict=False)]
    assert all(rest >= 0.1 for rest in rests), "ten times what it took, but for the clock's grain"
