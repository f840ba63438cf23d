"""``fleet.judges``: add, remove and list the judges of a fleet's programs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from snakepit_bridge.exceptions import JudgeError, SessionNotFoundError, VariableNotFoundError
from snakepit_bridge.process.blocking_methods import blocking
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.releases.judge_budget import JudgeBudget, JudgeHour
from snakepit_bridge.releases.judges import JUDGES_SESSION, Judge, read_judges

if TYPE_CHECKING:
    from snakepit_bridge.programs.registry import ProgramRegistry
    from snakepit_bridge.programs.spec import ProgramSpec
    from snakepit_bridge.redis.connection import RedisConnection
    from snakepit_bridge.session_context import SessionContext
    from snakepit_bridge.snapshots import SnapshotStore


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """A judge, and what it did in this hour by the clock."""

    judge: Judge
    hour: JudgeHour

    def encode(self) -> dict[str, Any]:
        """Return the JSON form."""
        judge, hour = asdict(self.judge), asdict(self.hour)
        return {**judge, "hour": {**hour, "cost_usd": f"{self.hour.cost_usd:f}"}}


@dataclass(frozen=True, slots=True)
class JudgeListing:
    """The judges of a fleet.

    Attributes:
        judges: those that judge, by program and name.
        invalid: why other variables of their session are no judges; each error names the judge.
    """

    judges: list[JudgeReport]
    invalid: list[JudgeError]

    def encode(self) -> dict[str, Any]:
        """Return the JSON form."""
        invalid = [{"judge": error.judge, "problem": error.problem} for error in self.invalid]
        return {"judges": [report.encode() for report in self.judges], "invalid": invalid}


class AsyncJudges:
    """The judges of a fleet, for callers that await.

    Args:
        store: of the sessions, one of which has the judges.
        open_registry: returns the programs; called where a judge is added alone, since programs load DSPy.
        connection: to the Redis of the results.
        namespace: the fleet's.
    """

    def __init__(
        self,
        store: SnapshotStore,
        open_registry: Callable[[], ProgramRegistry],
        connection: RedisConnection,
        namespace: str,
    ) -> None:
        self._store = store
        self._open_registry = open_registry
        self._budget = JudgeBudget(connection, namespace)

    async def add(
        self,
        judged: str,
        *,
        name: str,
        program: str,
        inputs: Mapping[str, str],
        output: str = "score",
        comment: str = "",
        share: float = 0.1,
        usd_per_hour: float = 1.0,
        concurrency: int = 8,
        author: str = "",
    ) -> Judge:
        """Have a program score a sampled share of another program's predictions, from a few seconds on.

        Args:
            judged: name of the program whose predictions are scored, of all versions.
            name: of the scores, such as ``helpful``; a judge of the same program and name is replaced.
            program: reference of the judging program, whose variables are those of the session ``dspex.judges``.
            inputs: its input field to ``inputs.FIELD`` or ``outputs.FIELD`` of the judged prediction.
            output: its output field that is the score: a number from 0 to 1, a boolean or a label.
            comment: its output field that says why; empty for none.
            share: of the predictions that are scored, above 0 and up to 1, with at most six decimals.
            usd_per_hour: what judging may cost in an hour by the clock; further predictions aren't judged.
            concurrency: how many judging predictions may wait or run; further predictions aren't judged meanwhile.
            author: recorded in the history of the session.

        Raises:
            JudgeError: it can't be a judge; nothing was stored.
            ProgramNotFoundError: one of the programs isn't registered.
            ProgramSpecError: ``judged`` is no name of a program.
            StoreUnavailableError: Redis is away.
        """
        judge = Judge(judged, name, program, dict(inputs), output, comment, share, usd_per_hour, concurrency)
        await run_on_home_loop(self._add(judge.check(), author))
        return judge

    async def remove(self, judged: str, name: str, *, author: str = "") -> None:
        """Remove a judge; what waits or runs for it is finished.

        Raises:
            JudgeError: there is no such judge.
            StoreUnavailableError: Redis is away.
        """
        try:
            await self._session(author).delete_variable(Judge(judged, name, "").variable)
        except (SessionNotFoundError, VariableNotFoundError):
            raise JudgeError(f"{judged}.{name}", "there is none of this program and name") from None

    async def list(self) -> JudgeListing:
        """Return the judges with what each did in this hour, and why others can't judge.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._list())

    async def _add(self, judge: Judge, author: str) -> None:
        from snakepit_bridge.programs.spec import check_name

        registry = self._open_registry()
        if "@" in judge.judged or ":" in judge.judged:
            name = re.split("[@:]", judge.judged)[0]
            raise JudgeError(
                f"{judge.judged}.{judge.name}",
                f"judges belong to a program, not to a label or a version; name '{name}'",
            )
        _check_paths(judge, (await registry.get(check_name(judge.judged))).spec)
        signature = (await registry.get(judge.program)).spec.signature
        if signature is not None:
            declared = {field.name for field in signature.fields}
            used = {*judge.inputs, judge.output, *filter(None, (judge.comment,))}
            if missing := sorted(used - declared):
                problem = f"'{judge.program}' has no field {', '.join(missing)}; it has {', '.join(sorted(declared))}"
                raise JudgeError(f"{judge.judged}.{judge.name}", problem)
        await self._session(author).set_variables({judge.variable: judge.encode()}, reason="a judge is added")

    async def _list(self) -> JudgeListing:
        try:
            judges, invalid = read_judges(await self._store.read(JUDGES_SESSION))
        except SessionNotFoundError:
            return JudgeListing([], [])
        now_s = time.time()
        return JudgeListing([JudgeReport(judge, await self._budget.read(judge, now_s)) for judge in judges], invalid)

    def _session(self, author: str) -> SessionContext:
        from snakepit_bridge.session_context import SessionContext

        return SessionContext(JUDGES_SESSION, self._store, author=author)


class Judges:
    """The judges of a fleet; each method does what the one of the same name of ``aio`` does.

    It can be used in any thread, with or without a running event loop.

    Args:
        aio: the same for callers that await.
    """

    def __init__(self, aio: AsyncJudges) -> None:
        self.aio = aio

    add = blocking(AsyncJudges.add)
    remove = blocking(AsyncJudges.remove)
    list = blocking(AsyncJudges.list)


def _check_paths(judge: Judge, judged: ProgramSpec) -> None:
    """Check that the judged program has the fields that a judge reads, as far as its signature says.

    Modules add outputs to those of the signature, such as a reasoning; Predict doesn't.

    Raises:
        JudgeError: it lacks one.
    """
    if judged.signature is None:
        return
    known = {"inputs": set[str](), "outputs": set[str]()}
    for field in judged.signature.fields:
        known[f"{field.direction}s"].add(field.name)
    for path in judge.inputs.values():
        side, _, name = path.partition(".")
        is_known = name in known[side] or (side == "outputs" and judged.module != "Predict")
        if not is_known:
            has = ", ".join(f"{side}.{each}" for each in sorted(known[side]))
            raise JudgeError(f"{judge.judged}.{judge.name}", f"'{judge.judged}' has no {path}; it has {has}")
