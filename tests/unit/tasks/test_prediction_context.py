"""Containment: a program's exit is its own; closing it from outside is still a closing."""

from __future__ import annotations

import asyncio

import pytest

from snakepit_bridge.exceptions import PredictionFailedError
from tasks.prediction_context import ContainedCoroutine


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("waits", [False, True])
async def test_what_would_end_a_process_or_a_coroutine_ends_the_prediction(
    kind: type[BaseException], waits: bool
) -> None:
    async def program() -> None:
        if waits:
            await asyncio.sleep(0)
        raise kind("leaving")

    with pytest.raises(PredictionFailedError, match=rf"'p'.*{kind.__name__}.*leaving"):
        await ContainedCoroutine(program(), "p")


async def test_results_errors_and_cancellations_pass() -> None:
    async def program(error: BaseException | None) -> int:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return 7

    assert await ContainedCoroutine(program(None), "p") == 7
    with pytest.raises(LookupError):
        await ContainedCoroutine(program(LookupError()), "p")

    async def waits() -> None:
        await ContainedCoroutine(asyncio.sleep(60), "p")

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_closing_it_closes_the_program() -> None:
    closed: list[str] = []

    async def program() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            closed.append("closed")

    async def waits() -> None:
        await ContainedCoroutine(program(), "p")

    work = waits()
    work.send(None)
    work.close()
    assert closed == ["closed"]
