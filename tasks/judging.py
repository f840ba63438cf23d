"""Judging: a share of the predictions is scored by predictions of judging programs, within each judge's budget.

A judging prediction is an ordinary one of lowest priority. Its message is enqueued by the script that commits the
judged prediction's result, so that none is lost or sent twice, whenever a worker dies; with another broker than the
Redis of the results it is sent just before. Its task's id follows from the judge and the judged prediction. Before its
own result is committed it stores the score, of which a prediction has one for each judge.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Self, cast
from uuid import NAMESPACE_URL, uuid5

from celery import Celery

from snakepit_bridge.client.message_encoder import MessageEncoder
from snakepit_bridge.client.results import Results
from snakepit_bridge.client.scoring import score_prediction
from snakepit_bridge.costs.usage import sum_usage
from snakepit_bridge.delivery.payloads import Payloads, is_reference
from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.programs.registry import UNREGISTERED
from snakepit_bridge.protocol.json_values import escape
from snakepit_bridge.protocol.messages import (
    HIDDEN,
    PREDICT,
    PROGRAM,
    REPLY_CHANNEL,
    SENT_AT,
    PredictionRequest,
    Result,
)
from snakepit_bridge.redis.outages import retry_through_outages
from snakepit_bridge.releases.judge_budget import HOUR_S, JudgeBudget
from snakepit_bridge.releases.judges import JUDGE_SCORER, JUDGES_SESSION, Judge, read_judges
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.followed_session import FollowedSession
from tasks.spending import find_spending
from tasks.subject import current_subject

_PRIORITY = 0
_MAX_COMMENT = 1_000
_COMMIT_WAIT_S = 10.0
_RETRY = {"max_retries": 1, "interval_start": 0.1, "interval_step": 0.1, "interval_max": 0.2}

_log = logging.getLogger(__name__)

JUDGEMENT = "judgement"
"""Header of a judging prediction's message."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judging prediction is to score.

    Attributes:
        task_id: the judged prediction.
        program: its program.
        name: of the score.
        output: the judging program's output field that is the score.
        comment: the output field that is the score's comment; empty for none.
    """

    task_id: str
    program: str
    name: str
    output: str
    comment: str = ""

    def header(self) -> dict[str, dict[str, str]]:
        """Return the header."""
        return {JUDGEMENT: asdict(self)}

    @classmethod
    def find(cls, headers: Mapping[str, Any]) -> Self | None:
        """Return what a message's headers say; None unless it is a judging prediction's."""
        found = headers.get(JUDGEMENT)
        if not isinstance(found, Mapping):
            return None
        parts = cast("Mapping[str, Any]", found)
        return cls(**{each.name: str(parts.get(each.name, "")) for each in fields(cls)})


class Judging:
    """The judges of a process's predictions. Lives on the home loop.

    Args:
        store: the sessions, one of which has the judges.
        payloads: inputs that are too large for a message; its Redis has the budgets and the scores too.
        keep_s: seconds for which such inputs are kept.
        with_commit: whether the broker is the Redis of the results, so that the commit enqueues messages.
    """

    def __init__(self, store: SnapshotStore, payloads: Payloads, keep_s: float, *, with_commit: bool) -> None:
        self._payloads = payloads
        self._keep_s = keep_s
        self._with_commit = with_commit
        self._budget = JudgeBudget(payloads.connection, payloads.namespace)
        self._judges = FollowedSession[Mapping[str, list[Judge]]](store, JUDGES_SESSION, self._parse, {}, what="judges")
        self._encoder: MessageEncoder | None = None
        self._results: Results | None = None
        self._told: dict[str, str] = {}

    async def sample(self, app: Celery, task_id: str, result: Result) -> None:
        """Have a prediction judged, before its result is committed, by the judges whose sample it is in.

        Whatever goes wrong costs the prediction its judgement, and nothing else.

        Args:
            app: the app to send with.
            task_id: the prediction.
            result: its result.
        """
        if result.provenance.get("version") == UNREGISTERED:
            return  # a variant, which whoever sent it measures
        for judge in (await self._judges.read()).get(str(result.provenance.get("program")), ()):
            if judge.covers(task_id):
                try:
                    await self._enqueue(app, judge, task_id, result)
                except Exception as exc:  # noqa: BLE001 (the prediction has its result, whatever becomes of its judging)
                    self._tell(judge.variable, f"Judge '{judge.judged}.{judge.name}' can't judge a prediction: {exc}")
                    await self._note_problem(judge, exc)

    async def record(self, app: Celery, judgement: Judgement, task_id: str, result: Result) -> None:
        """Store the score that a judging prediction gives, before its own result is committed.

        Args:
            app: the app, whose backend has the results.
            judgement: what it scores.
            task_id: the judging prediction.
            result: its result.

        Raises:
            ScoreError: its output is no score.
            PredictionNotScorableError: the judged prediction's result has expired.
            StoreUnavailableError: the outage of Redis outlasted the retries.
        """
        results = self._results = self._results or Results(
            app,
            self._payloads.connection,
            namespace=self._payloads.namespace,
            cipher=self._payloads.cipher,
        )
        if not self._with_commit:
            await _wait_for_commit(results, judgement.task_id)
        value: Any = result.outputs.get(judgement.output)
        comment = str(result.outputs.get(judgement.comment) or "")[:_MAX_COMMENT]
        await retry_through_outages(
            lambda: score_prediction(
                results, self._payloads, judgement.task_id, judgement.name, value, comment=comment, scorer=JUDGE_SCORER
            )
        )
        await self.settle(judgement, task_id, failed=False)

    async def settle(self, judgement: Judgement, task_id: str, *, failed: bool, problem: str = "") -> None:
        """Give the place of a judging prediction that has ended to the next, and count what it cost.

        Args:
            judgement: what it scored.
            task_id: the judging prediction.
            failed: whether it gave no score.
            problem: why it gave none.
        """
        spending = find_spending(task_id)
        cost_pico = 0 if spending is None else sum_usage(spending.by_profile.values()).cost_pico
        names, now_s = (judgement.program, judgement.name), time.time()
        try:
            await self._budget.settle(*names, task_id, cost_pico=cost_pico, failed=failed, now_s=now_s, problem=problem)
        except StoreUnavailableError as exc:
            _log.warning("The cost of a judgement by '%s.%s' isn't counted: %s", *names, exc)

    async def aclose(self) -> None:
        """Stop following the judges."""
        await self._judges.aclose()

    def _parse(self, snapshot: Snapshot) -> Mapping[str, list[Judge]]:
        judges, errors = read_judges(snapshot)
        for error in errors:
            self._tell(error.judge, str(error))
        by_program = defaultdict[str, list[Judge]](list)
        for judge in judges:
            by_program[judge.judged].append(judge)
        return by_program

    async def _enqueue(self, app: Celery, judge: Judge, judged_id: str, result: Result) -> None:
        """Enqueue a judging prediction, if the judge's budget allows it."""
        namespace, now_s = self._payloads.namespace, time.time()
        task_id = str(uuid5(NAMESPACE_URL, f"{namespace}/{judge.variable}/{judged_id}"))
        inputs: Any = result.inputs
        if is_reference(inputs):
            inputs = await self._payloads.get(inputs)
        selected = judge.select(inputs, result.outputs)
        admission = await self._budget.admit(judge, task_id, now_s)
        if admission != "admitted":
            if admission == "money":
                self._tell_of_budget(judge, now_s)
            return
        carried, escaped = await self._carry(selected, task_id)
        request = PredictionRequest(judge.program, {}, JUDGES_SESSION, namespace=namespace, escaped=escaped)
        message = app.amqp.create_task_message(
            task_id, PREDICT, [carried, judge.program], request.keywords(), argsrepr=HIDDEN, kwargsrepr=HIDDEN
        )
        judgement = Judgement(judged_id, judge.judged, judge.name, judge.output, judge.comment)
        headers = {SENT_AT: now_s, REPLY_CHANNEL: "", PROGRAM: judge.program, **judgement.header()}
        await self._send(app, message, headers)

    async def _carry(self, inputs: Mapping[str, Any], task_id: str) -> tuple[Any, bool]:
        """Return inputs as a message has them, and whether they are escaped."""
        if not self._payloads.fits(inputs):
            return self._payloads.encrypt_inputs(await self._payloads.put(inputs, self._keep_s), task_id), False
        if self._payloads.cipher.is_on:
            return self._payloads.encrypt_inputs(inputs, task_id), False
        carried = escape(inputs)
        return carried, carried is not inputs

    async def _send(self, app: Celery, message: Any, headers: Mapping[str, Any]) -> None:
        """Leave a message to the commit of the current prediction's result, or send it."""
        queue, subject = str(app.conf.task_default_queue), current_subject.get()
        if self._with_commit and subject is not None:
            self._encoder = self._encoder or MessageEncoder(app)
            encoded = self._encoder.encode(PREDICT, message, queue, _PRIORITY, headers)
            subject.messages = (*subject.messages, encoded)
            return

        def send() -> None:
            with app.producer_or_acquire() as producer:
                options = {"queue": queue, "priority": _PRIORITY, "headers": dict(headers)}
                app.amqp.send_task_message(producer, PREDICT, message, **options, retry=True, retry_policy=_RETRY)

        await asyncio.to_thread(send)

    async def _note_problem(self, judge: Judge, problem: Exception) -> None:
        with suppress(StoreUnavailableError):  # the log has it
            await self._budget.note_problem(judge, _describe(problem), time.time())

    def _tell_of_budget(self, judge: Judge, now_s: float) -> None:
        ends = datetime.fromtimestamp((now_s // HOUR_S + 1) * HOUR_S, UTC)
        self._tell(
            judge.variable,
            f"Judge '{judge.judged}.{judge.name}' has spent the {judge.usd_per_hour:g} USD of this hour: until "
            f"{ends:%H:%M} UTC further predictions aren't judged. Give it more, or a smaller share.",
        )

    def _tell(self, judge: str, text: str) -> None:
        """Log a warning, unless it is the one that was logged last about this judge."""
        if self._told.get(judge) != text:
            self._told[judge] = text
            _log.warning("%s", text)


async def _wait_for_commit(results: Results, task_id: str) -> None:
    """Wait for the result of a judged prediction, which may come after the message for its judging."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_COMMIT_WAIT_S):
            await results.wait_for_end(task_id)


async def judge(
    judging: Judging | None, app: Celery, judgement: Judgement | None, task_id: str, result: Result
) -> None:
    """Have a prediction judged; of a judging prediction, which itself isn't judged, store the score.

    Args:
        judging: the judges; nothing is judged without them.
        app: the app to send with.
        judgement: what the prediction scores, if it is a judging one.
        task_id: the prediction.
        result: its result.

    Raises:
        BridgeError: a judging prediction gives no score.
    """
    if judging is None:
        return
    if judgement is None:
        await judging.sample(app, task_id, result)
    else:
        await judging.record(app, judgement, task_id, result)


async def settle(
    judging: Judging | None, judgement: Judgement | None, task_id: str, exc: BaseException | None = None
) -> None:
    """Settle a judging prediction that gives no score, since it failed or was cancelled; others need none.

    Args:
        judging: the judges.
        judgement: what the prediction scores, if it is a judging one.
        task_id: the prediction.
        exc: why it gives none; None if that is known already.
    """
    if judging is not None and judgement is not None:
        await judging.settle(judgement, task_id, failed=True, problem="" if exc is None else _describe(exc))


def _describe(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
