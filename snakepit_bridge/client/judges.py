"""Judges of a fleet's programs: adding, removing and listing them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from snakepit_bridge.exceptions import JudgeError, SessionNotFoundError, VariableNotFoundError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.releases.judge_budget import JudgeBudget, JudgeHour
from snakepit_bridge.releases.judges import JUDGES_SESSION, Judge, read_judges

if TYPE_CHECKING:
    from snakepit_bridge.programs.registry import ProgramRegistry
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


class Judges:
    """The judges of a fleet.

    Args:
        store: of the sessions, one of which has the judges.
        registry: of the programs.
        connection: to the Redis of the results.
        namespace: the fleet's.
    """

    def __init__(
        self, store: SnapshotStore, registry: ProgramRegistry, connection: RedisConnection, namespace: str
    ) -> None:
        self._store = store
        self._registry = registry
        self._budget = JudgeBudget(connection, namespace)

    def add(
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
        run_blocking(self._add(judge.check(), author))
        return judge

    def remove(self, judged: str, name: str, *, author: str = "") -> None:
        """Remove a judge; what waits or runs for it is finished.

        Raises:
            JudgeError: there is no such judge.
            StoreUnavailableError: Redis is away.
        """
        try:
            run_blocking(self._session(author).delete_variable(Judge(judged, name, "").variable))
        except (SessionNotFoundError, VariableNotFoundError):
            raise JudgeError(f"{judged}.{name}", "there is none of this program and name") from None

    def list(self) -> list[JudgeReport]:
        """Return the judges, and what each did in this hour.

        Raises:
            JudgeError: a variable that should be a judge is none.
            StoreUnavailableError: Redis is away.
        """
        return run_blocking(self._list())

    async def _add(self, judge: Judge, author: str) -> None:
        from snakepit_bridge.programs.spec import check_name

        await self._registry.get(check_name(judge.judged))
        signature = (await self._registry.get(judge.program)).spec.signature
        if signature is not None:
            declared = {field.name for field in signature.fields}
            used = {*judge.inputs, judge.output, *filter(None, (judge.comment,))}
            if missing := sorted(used - declared):
                problem = f"'{judge.program}' has no field {', '.join(missing)}; it has {', '.join(sorted(declared))}"
                raise JudgeError(f"{judge.judged}.{judge.name}", problem)
        await self._session(author).set_variables({judge.variable: judge.encode()}, reason="a judge is added")

    async def _list(self) -> list[JudgeReport]:
        try:
            judges, errors = read_judges(await self._store.read(JUDGES_SESSION))
        except SessionNotFoundError:
            return []
        for error in errors:
            raise error
        return [JudgeReport(judge, await self._budget.read(judge, time.time())) for judge in judges]

    def _session(self, author: str) -> SessionContext:
        from snakepit_bridge.session_context import SessionContext

        return SessionContext(JUDGES_SESSION, self._store, author=author)
