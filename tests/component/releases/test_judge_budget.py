"""A judge's budget: how many of its predictions wait or run, and what the hour may cost."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.releases.judge_budget import HOUR_S, JudgeBudget, JudgeHour
from snakepit_bridge.releases.judges import Judge

NOW_S = 500_000.0 * HOUR_S
CENT = 10**10


@pytest.fixture
async def budget(redis_url: str) -> JudgeBudget:
    return JudgeBudget(RedisConnection(redis_url), "dspex")


def judge(**changes: Any) -> Judge:
    return Judge("qa", "helpful", "judge", {"answer": "outputs.answer"}, **changes)


async def settle(
    budget: JudgeBudget, task_id: str, cents: int = 0, *, failed: bool = False, at: float = NOW_S, problem: str = ""
) -> None:
    await budget.settle("qa", "helpful", task_id, cost_pico=cents * CENT, failed=failed, now_s=at, problem=problem)


async def test_so_many_wait_or_run_and_no_more(budget: JudgeBudget) -> None:
    pair = judge(concurrency=2)
    assert [await budget.admit(pair, task, NOW_S) for task in "abc"] == ["admitted", "admitted", "busy"]
    assert await budget.admit(pair, "a", NOW_S) == "admitted"
    await settle(budget, "a")
    assert [await budget.admit(pair, task, NOW_S) for task in "cd"] == ["admitted", "busy"]
    assert await budget.read(pair, NOW_S) == JudgeHour(1, 0, Decimal(0), 0, 2, 2)


async def test_what_is_settled_twice_costs_once(budget: JudgeBudget) -> None:
    await budget.admit(judge(), "a", NOW_S)
    for _ in range(3):
        await settle(budget, "a", 12, failed=True)
    await settle(budget, "never admitted", 99)
    assert await budget.read(judge(), NOW_S) == JudgeHour(1, 1, Decimal("0.12"), 0, 0, 0)


async def test_the_last_problem_stays_until_another_or_the_next_hour(budget: JudgeBudget) -> None:
    for task_id, problem in (("a", "first"), ("b", "second"), ("c", "")):
        await budget.admit(judge(), task_id, NOW_S)
        await settle(budget, task_id, failed=bool(problem), problem=problem)
    await settle(budget, "never admitted", problem="another's")
    assert (await budget.read(judge(), NOW_S)).problem == "second"
    await budget.note_problem(judge(), "x" * 1_000, NOW_S)
    assert (await budget.read(judge(), NOW_S)).problem == "x" * 300
    assert (await budget.read(judge(), NOW_S + HOUR_S)).problem == ""


async def test_an_hours_money_is_never_exceeded_by_more_than_predictions_differ(budget: JudgeBudget) -> None:
    dollar = judge(usd_per_hour=1.0, concurrency=100)
    admitted = 0
    for number in range(30):
        if await budget.admit(dollar, f"{number}", NOW_S) == "admitted":
            admitted += 1
            await settle(budget, f"{number}", 30)
    found = await budget.read(dollar, NOW_S)
    assert (admitted, found.judged, found.cost_usd, found.unaffordable) == (3, 3, Decimal("0.9"), 27)
    assert await budget.admit(dollar, "next hour", NOW_S + HOUR_S) == "admitted"
    assert (await budget.read(dollar, NOW_S + HOUR_S)).judged == 0


async def test_predictions_that_wait_or_run_count_as_the_mean(budget: JudgeBudget) -> None:
    dollar = judge(usd_per_hour=1.0, concurrency=100)
    await budget.admit(dollar, "first", NOW_S)
    await settle(budget, "first", 20)
    admitted = [await budget.admit(dollar, f"{number}", NOW_S) for number in range(10)]
    assert admitted == ["admitted"] * 4 + ["money"] * 6


async def test_what_is_lost_gives_its_place_back(budget: JudgeBudget) -> None:
    single = judge(concurrency=1)
    assert await budget.admit(single, "lost", NOW_S) == "admitted"
    assert await budget.admit(single, "early", NOW_S + HOUR_S - 1) == "busy"
    assert await budget.admit(single, "late", NOW_S + HOUR_S + 1) == "admitted"


async def test_judges_have_budgets_of_their_own(budget: JudgeBudget) -> None:
    single = judge(concurrency=1)
    other = Judge("qa.helpful", "x", "judge", {"answer": "outputs.answer"}, concurrency=1)
    assert [await budget.admit(each, "a", NOW_S) for each in (single, other)] == ["admitted"] * 2
