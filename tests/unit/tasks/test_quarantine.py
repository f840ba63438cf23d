"""Suspects run apart: few at a time, then alone, and what doesn't fit leaves the process."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
from celery.exceptions import Ignore

from snakepit_bridge.telemetry.metrics import QUARANTINED
from tasks import quarantine as module
from tasks.quarantine import Quarantine
from tests.harness.meter import recorded_meter


class Aside:
    """Stands for the claims; remembers what was put aside."""

    def __init__(self) -> None:
        self.put: dict[str, float] = {}

    async def delay(self, tag: str, until_unix_s: float) -> bool:
        self.put[tag] = until_unix_s
        return True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SETTLE_S", 0.0)


async def run(suspects: Quarantine, claims: Any, deliveries: list[int]) -> tuple[int, int]:
    """Run predictions with so many deliveries at once; return how many ran at a time at most, and in all."""
    now = most = ran = 0

    async def predict(number: int, times: int) -> None:
        nonlocal now, most, ran
        async with suspects.admit(claims, f"task-{number}", times, f"tag-{number}"):
            now, ran = now + 1, ran + 1
            most = max(most, now)
            await asyncio.sleep(0.02)
            now -= 1

    ends = await asyncio.gather(*(predict(*each) for each in enumerate(deliveries)), return_exceptions=True)
    assert {type(end) for end in ends} <= {type(None), Ignore}
    return most, ran


@pytest.mark.parametrize("times", [1, 2])
async def test_what_was_lost_once_is_no_suspect(times: int) -> None:
    claims = Aside()
    assert await run(Quarantine(), claims, [times] * 100) == (100, 100)
    assert claims.put == {}


async def test_few_run_together_and_the_rest_is_put_aside_for_a_moment() -> None:
    claims = Aside()
    assert await run(Quarantine(), claims, [3] * 40) == (16, 16)
    assert len(claims.put) == 24
    assert all(0 < until - time.time() < 2 for until in claims.put.values())


async def test_the_worst_run_alone_among_suspects_and_beside_all_others() -> None:
    assert await run(Quarantine(), Aside(), [4, 3, 4, 3, 5]) == (1, 1)
    assert await run(Quarantine(), Aside(), [3, 4, 3]) == (2, 2), "one that runs already isn't asked to leave"
    assert await run(Quarantine(), Aside(), [1, 4, 1, 2, 1]) == (5, 5)


async def test_room_is_free_again_after_each_end() -> None:
    suspects = Quarantine()
    for _ in range(3):
        assert await run(suspects, Aside(), [5]) == (1, 1)
    with pytest.raises(ValueError, match="fails"):
        async with suspects.admit(Aside(), "task", 5, "tag"):  # pyright: ignore[reportArgumentType]
            raise ValueError("fails")
    assert await run(suspects, Aside(), [5]) == (1, 1)


async def test_what_runs_apart_is_counted_until_it_ends() -> None:
    suspects = Quarantine()
    with recorded_meter() as meter:
        await run(suspects, Aside(), [1, 3, 3])
        await suspects.acquire("batch", 4)
        suspects.release("batch")
        suspects.release("batch")
    assert Counter(value for value, _ in meter.of(QUARANTINED)) == {1: 3, -1: 3}


async def test_without_claims_nothing_is_put_aside() -> None:
    assert await run(Quarantine(), None, [5] * 10) == (10, 10)
