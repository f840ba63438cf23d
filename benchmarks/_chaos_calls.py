"""The LM calls of the chaos benchmark's fleet: through the fleet's own journal, to a counter that plays the LM."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from dspy.lm15 import Message, Request, Response, Usage

from snakepit_bridge.lm.endpoint import Endpoint
from snakepit_bridge.lm.engine import LMCall, LMEngine
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.outages import retry_through_outages
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.journal.journal import CallJournal
from tasks.journal.store import JournalStore
from tasks.lm_middleware.journal import AwaitRecords, ReplayCalls
from tasks.lm_middleware.middleware import PredictionCall, compose
from tasks.prediction_context import PredictionContext
from tasks.subject import current_subject

_KEPT_S = 3_600
_ANSWER = Response(id="1", model="chaos", message=Message.assistant("done"), finish_reason="stop", usage=Usage(1, 1))
_ENGINE = LMEngine(Endpoint("chaos", "openai/chaos"))

AskLM = Callable[[int], Awaitable[None]]
"""Makes an LM call, by its number within its task."""


class Calls:
    """Makes the calls of tasks as predictions make theirs.

    Args:
        broker: the URL of the Redis of results.
        check_ended: raises if a task has ended.
    """

    def __init__(self, broker: str, check_ended: Callable[[str], Awaitable[None]]) -> None:
        self._journals = JournalStore(RedisConnection(broker), namespace="dspex", keep_s=_KEPT_S)
        self._check_ended = check_ended

    async def make(self, key: str, count: int, ask: AskLM, *, is_repeated: bool) -> None:
        """Make the calls of one task, one after the other.

        Args:
            key: the task.
            count: how many calls it makes.
            ask: the LM.
            is_repeated: whether its message may have been delivered before.
        """
        found = await self._load(key) if is_repeated else None
        journal = CallJournal(self._journals, key, found=found)
        subject = current_subject.get()
        if subject is not None:
            subject.journal = journal
        journal.begin_run()
        scope = PredictionContext(key, "s", "chaos", 1, Snapshot("s", Token(1, 1), {}, time.time()), journal=journal)
        for number in range(count):

            async def send(call: PredictionCall, number: int = number) -> Response:
                await self._check_ended(call.task_id)
                await ask(number)
                return _ANSWER

            run = compose([ReplayCalls(), AwaitRecords()], send)
            request = Request(model="openai/chaos", messages=(Message.user(f"{key} {number}"),))
            await run(PredictionCall(scope, LMCall(_ENGINE, request), _ENGINE))
        journal.finish()

    async def _load(self, key: str) -> Any:
        return await retry_through_outages(lambda: self._journals.load(key))
