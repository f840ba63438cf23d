"""What a judge may do: how many of its predictions wait or run, and what they cost in an hour, counted in Redis."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from snakepit_bridge.costs.usage import PICO_PER_USD
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.scripts import ScriptPackage
from snakepit_bridge.releases.judges import Judge

Admission = Literal["admitted", "money", "busy"]
"""Whether a judge's budget allows one more prediction, or what it lacks."""

HOUR_S = 3_600

# Whatever waits or runs for longer was cancelled, or given up with its worker.
_LOST_S = 3_600
_TTL_S = 2 * 86_400
_MAX_PROBLEM = 300
_SCRIPTS = ScriptPackage("snakepit_bridge.releases")


@dataclass(frozen=True, slots=True)
class JudgeHour:
    """What a judge did in an hour by the clock.

    Attributes:
        judged: its predictions that have ended, and ``failed`` those among them that gave no score.
        cost_usd: what they cost, exactly; calls without a price cost nothing.
        unaffordable: predictions of the sample that weren't judged, since the hour's money was spent.
        unattended: those that weren't, since as many as it may have waited or ran.
        open: its predictions that wait or run at present.
        problem: why the latest prediction gave no score, or couldn't be judged; empty if none did.
    """

    judged: int
    failed: int
    cost_usd: Decimal
    unaffordable: int
    unattended: int
    open: int
    problem: str = ""


class JudgeBudget:
    """The budgets of a fleet's judges.

    Args:
        connection: to the Redis of the results.
        namespace: the fleet's.
    """

    def __init__(self, connection: RedisConnection, namespace: str) -> None:
        self._connection = connection
        self._keys = FleetKeys(namespace)

    async def admit(self, judge: Judge, task_id: str, now_s: float) -> Admission:
        """Admit a prediction of a judge if the budget allows it; one that is admitted already is again.

        Args:
            judge: the judge.
            task_id: the prediction of its program.
            now_s: the time in Unix seconds.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        most = round(judge.usd_per_hour * PICO_PER_USD)
        args = (task_id, now_s, now_s - _LOST_S, judge.concurrency, most, _TTL_S)
        reply: bytes = await self._connection.execute_script(
            _SCRIPTS["admit"], self._names(judge.judged, judge.name, now_s), args
        )
        return "admitted" if reply == b"admitted" else "money" if reply == b"money" else "busy"

    async def settle(
        self, judged: str, name: str, task_id: str, *, cost_pico: int, failed: bool, now_s: float, problem: str = ""
    ) -> None:
        """Note that a prediction of a judge has ended.

        Args:
            judged, name: the judge.
            task_id: the prediction of its program.
            cost_pico: what it cost, in picodollars.
            failed: whether it gave no score.
            now_s: the time in Unix seconds.
            problem: why it gave no score.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        args = (task_id, cost_pico, int(failed), _TTL_S, problem[:_MAX_PROBLEM])
        await self._connection.execute_script(_SCRIPTS["settle"], self._names(judged, name, now_s), args)

    async def note_problem(self, judge: Judge, problem: str, now_s: float) -> None:
        """Note why a prediction of the sample couldn't be judged.

        Args:
            judge: the judge.
            problem: what the hour's report shows.
            now_s: the time in Unix seconds.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        _, hour = self._names(judge.judged, judge.name, now_s)
        noted = [("HSET", hour, "problem", problem[:_MAX_PROBLEM]), ("EXPIRE", hour, _TTL_S)]
        await self._connection.send_each(noted)

    async def read(self, judge: Judge, now_s: float) -> JudgeHour:
        """Return what a judge did in the hour of a time.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        waiting, hour = self._names(judge.judged, judge.name, now_s)
        names = ("judged", "failed", "pico", "money", "busy", "problem")
        [count, found] = await self._connection.send_each([("ZCARD", waiting), ("HMGET", hour, *names)])
        judged, failed, pico, money, busy = (int(amount or 0) for amount in found[:-1])
        problem = (found[-1] or b"").decode()
        return JudgeHour(judged, failed, Decimal(pico) / PICO_PER_USD, money, busy, int(count), problem)

    def _names(self, judged: str, name: str, now_s: float) -> list[str]:
        hour = int(now_s) // HOUR_S
        return [self._keys.judge_open(judged, name), self._keys.judge_hour(judged, name, hour)]
