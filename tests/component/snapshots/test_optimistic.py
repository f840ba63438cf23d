"""Publishing on top of what others publish on top of: everybody gets through, and nobody's change is lost."""

from __future__ import annotations

import asyncio

import pytest

from snakepit_bridge import SessionContext
from snakepit_bridge.exceptions import StaleTokenError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.optimistic import retry_on_conflict
from tests.harness.waiting import PATIENCE_S


async def test_forty_publishers_of_one_session_all_get_through(redis_url: str) -> None:
    contexts = [SessionContext("s", redis_url) for _ in range(40)]
    await contexts[0].set_variable("shared", 0)
    await asyncio.gather(*(context.set_variable(f"v{n}", n) for n, context in enumerate(contexts)))
    assert await contexts[0].get_variables([f"v{n}" for n in range(40)]) == {f"v{n}": n for n in range(40)}


async def test_a_race_that_is_always_lost_is_told_in_the_end() -> None:
    async def lose() -> Token:
        raise StaleTokenError("s", "1.1", "1.2")

    with pytest.raises(StaleTokenError):
        await asyncio.wait_for(retry_on_conflict(lose, patience_s=0.05), PATIENCE_S)
