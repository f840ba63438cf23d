"""The predictions that run in this process, so that one which is cancelled stops at once, its LM request included.

A cancellation is a committed result (REVOKED); the channel only says that there is one. So the results of what runs are
also looked at each second, after each new connection, and before each LM call.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, cast

from celery.backends.base import KeyValueStoreBackend
from celery.states import READY_STATES

from snakepit_bridge.exceptions import PredictionCancelledError, StoreUnavailableError, fresh_error
from snakepit_bridge.process.home_loop import share
from snakepit_bridge.redis.connection import RedisConnection
from tasks.notifications import Signals
from tasks.outage_log import OutageLog
from tasks.prediction_context import PredictionContext

_LOOK_EVERY_S = 1.0
# A task's result was looked at when it was taken from the broker; its first LM call mostly follows within milliseconds.
_FRESH_S = 0.25

_log = logging.getLogger(__name__)


class CancellationRegistry:
    """The running predictions of one process. Lives on the home loop.

    Args:
        connection: the way to the result backend.
        signals: where cancellations are told.
        namespace: prefix of the channel.
    """

    def __init__(self, connection: RedisConnection, signals: Signals, *, namespace: str) -> None:
        self._connection = connection
        self._signals = signals
        self._scopes: dict[str, dict[PredictionContext, asyncio.Task[Any]]] = {}
        self._asked: dict[str, asyncio.Future[bool]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._due = asyncio.Event()
        self._outage = OutageLog(_log, "Can't look for cancelled predictions")
        signals.on(f"{namespace}:cancel", self.cancel, self._due.set)

    @contextmanager
    def entered(self, scope: PredictionContext) -> Generator[None]:
        """Lets a prediction be found by its task id while its block runs, which a cancellation leaves.

        Raises:
            PredictionCancelledError: somebody cancelled it.
        """
        self._start()
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._scopes.setdefault(scope.task_id, {})[scope] = task
        try:
            yield
        except asyncio.CancelledError:
            if not scope.cancelled:
                raise
            task.uncancel()
            raise PredictionCancelledError(scope.task_id) from None
        finally:
            self._forget(scope)

    def cancel(self, task_id: str) -> None:
        """Stops what runs under a task id: its LM calls under way, and the program around them."""
        for scope, task in self._scopes.get(task_id, {}).items():
            if not scope.cancelled:
                scope.cancelled = True
                for each in {task, *scope.calls}:
                    each.cancel()

    async def refuse_ended(self, scope: PredictionContext) -> None:
        """Lets an LM call go ahead only if its prediction is still wanted.

        Raises:
            DeadlineExceededError: its deadline passed.
            PredictionCancelledError: it was cancelled, or another delivery of its task has ended it.
        """
        if scope.cancelled:
            raise PredictionCancelledError(scope.task_id)
        if scope.deadline is not None and time.time() >= scope.deadline:
            raise scope.late()
        now = time.monotonic()
        if now - scope.looked_at < _FRESH_S:
            return
        try:
            ended = await self._ended(scope.task_id)
        except StoreUnavailableError:
            # Logged once for all who asked. Whether a prediction may go on without the store is its outage contract's
            # business, not this look's.
            return
        scope.looked_at = now
        if ended:
            scope.cancelled = True
            raise PredictionCancelledError(scope.task_id)

    async def aclose(self) -> None:
        """Stops looking, and listening to the signals."""
        await self._signals.aclose()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def _forget(self, scope: PredictionContext) -> None:
        scopes = self._scopes.get(scope.task_id, {})
        scopes.pop(scope, None)
        if not scopes:
            self._scopes.pop(scope.task_id, None)

    def _start(self) -> None:
        self._signals.start()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look_on())

    # ------------------------------------------------------------------ looks

    async def _ended(self, task_id: str) -> bool:
        """Whether a task has its final result. The looks of one turn of the loop are one command."""
        asked = self._asked.get(task_id)
        if asked is None:
            loop = asyncio.get_running_loop()
            asked = self._asked[task_id] = loop.create_future()
            if len(self._asked) == 1:
                self._answering.add(answering := loop.create_task(self._answer()))
                answering.add_done_callback(self._answering.discard)
        return await share(asked)

    async def _answer(self) -> None:
        asked, self._asked = self._asked, {}
        try:
            ended = await self._ended_among(list(asked))
        except StoreUnavailableError as away:
            _log.warning("Can't tell whether %d predictions are still wanted: %s", len(asked), away)
            for one in asked.values():
                one.set_exception(fresh_error(away))
                one.exception()  # whoever asked may have been cancelled
            return
        for task_id, one in asked.items():
            one.set_result(task_id in ended)

    async def _look_on(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            try:
                for task_id in await self._ended_among(list(self._scopes)):
                    self.cancel(task_id)
                self._outage.over()
            except StoreUnavailableError as away:
                self._outage.begun(away)

    async def _ended_among(self, task_ids: Sequence[str]) -> set[str]:
        if not task_ids:
            return set()
        keys = [f"{KeyValueStoreBackend.task_keyprefix}{task_id}" for task_id in task_ids]
        return {
            task_id for task_id, stored in zip(task_ids, await self._stored(keys), strict=True) if _is_final(stored)
        }

    async def _stored(self, keys: Iterable[str]) -> Sequence[Any]:
        if self._connection.cluster:
            return await self._connection.send_each([("GET", key) for key in keys])
        return await self._connection.bounded(self._connection.client.mget(list(keys)))


def _is_final(stored: bytes | None) -> bool:
    return stored is not None and json.loads(stored)["status"] in READY_STATES
