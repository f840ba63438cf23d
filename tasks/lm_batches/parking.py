"""Park predictions at their LM calls of the batch tier: their messages leave the worker until the answers are there.

A program may make several calls at a time. Its prediction is parked once each call that it has in flight waits for a
batch, so that they go into the same one.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from snakepit_bridge.delivery.payloads import Payloads
from snakepit_bridge.exceptions import StoreUnavailableError, copy_error
from snakepit_bridge.lm_batches.records import WaitingRequest
from snakepit_bridge.lm_batches.store import LMBatchStore
from snakepit_bridge.process.aio import BackgroundTasks
from snakepit_bridge.process.home_loop import share_future
from snakepit_bridge.redis.outages import retry_through_outages
from tasks.cancellation import CancellationRegistry
from tasks.message_lease import MessageLeases
from tasks.prediction_context import PredictionContext

# How long a program that waits may take to make a further call at the same time.
_GRACE_S = 0.05


class BatchParking:
    """Parks the predictions of a process. Lives on the home loop.

    Args:
        store: the requests that wait.
        leases: the leases on the broker's messages, in the same Redis.
        running: the running predictions.
        payloads: the inputs that are stored beside messages.
        keep_s: seconds for which these are kept at least while a prediction is parked.
    """

    def __init__(
        self,
        store: LMBatchStore,
        leases: MessageLeases,
        running: CancellationRegistry,
        payloads: Payloads,
        *,
        keep_s: float,
    ) -> None:
        self._store = store
        self._leases = leases
        self._running = running
        self._payloads = payloads
        self._keep_s = keep_s
        self._tasks = BackgroundTasks()

    async def wait(self, scope: PredictionContext, request: WaitingRequest) -> NoReturn:
        """Have a request of a prediction answered by a batch; the prediction ends here, and runs again then.

        Raises:
            CancelledError: the prediction is parked.
            StoreUnavailableError: Redis stayed unavailable.
        """
        scope.batch_requests.append(request)
        if scope.parked is None:
            scope.parked = asyncio.get_running_loop().create_future()
            self._tasks.spawn(self._park(scope, scope.parked))
        await share_future(scope.parked)
        raise AssertionError("a parked prediction is interrupted")

    async def _park(self, scope: PredictionContext, parked: asyncio.Future[None]) -> None:
        known = 0
        while known < len(scope.batch_requests) or len(scope.calls) > len(scope.batch_requests):
            known = len(scope.batch_requests)
            await asyncio.sleep(_GRACE_S)
            if scope.has_ended or scope.is_cancelled:
                return
        try:
            if scope.journal is not None:
                await scope.journal.wait_written(scope.deadline)
            await retry_through_outages(lambda: self._store_parked(scope), deadline=scope.deadline)
        except StoreUnavailableError as exc:
            parked.set_exception(copy_error(exc))
            parked.exception()  # the callers may have gone
            return
        # Whether it is parked, or another worker has its message: nothing of it may go on here.
        self._running.interrupt(scope)

    async def _store_parked(self, scope: PredictionContext) -> None:
        """Move the prediction's message out of the worker's claim, and keep its inputs for as long as it may wait."""
        if scope.payload:
            await self._payloads.extend_ttl(scope.payload, self._keep_s)
        await self._store.park(scope.task_id, self._leases.base, scope.claim, scope.batch_requests, scope.deadline)
