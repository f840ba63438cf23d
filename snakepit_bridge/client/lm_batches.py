"""``fleet.lm_batches``: list, show and cancel the batches of LM calls that profiles of the batch tier wait for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from snakepit_bridge.audit.entries import AuditEntry, AuditSource
from snakepit_bridge.audit.trail import RedisAuditTrail
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.lm_batches.records import LMBatch
from snakepit_bridge.lm_batches.store import LMBatchStore, Waiting
from snakepit_bridge.process.blocking_methods import blocking
from snakepit_bridge.redis.connection import RedisConnection


@dataclass(frozen=True, slots=True)
class LMBatchListing:
    """The batches of a fleet.

    Attributes:
        parked: predictions that wait for a batch.
        waiting: requests that are in no batch yet, by LM profile.
        batches: those that run, oldest first, and then those that have ended, newest first.
    """

    parked: int
    waiting: Mapping[str, Waiting]
    batches: list[LMBatch]


class AsyncLMBatches:
    """The batches of a fleet, for callers that await.

    Args:
        connection: the broker's Redis.
        namespace: the fleet's.
        source: where cancellations come from, for the audit trail.
    """

    def __init__(self, connection: RedisConnection, namespace: str, source: AuditSource = AuditSource.CLIENT) -> None:
        self._trail = RedisAuditTrail(connection, namespace=namespace, source=source)
        self._store = LMBatchStore(connection, namespace=namespace)

    async def list(self) -> LMBatchListing:
        """Return the batches that run and the latest that have ended, and what waits.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        batches = [*await self._store.list_open(), *await self._store.list_ended()]
        return LMBatchListing(await self._store.count_parked(), await self._store.waiting(), batches)

    async def get(self, id: str) -> LMBatch:
        """Return a batch.

        Raises:
            BridgeError: there is none of that id, or its record has expired.
            StoreUnavailableError: Redis is unavailable.
        """
        found = await self._store.find(id)
        if found is None:
            raise BridgeError(f"There is no batch '{id}'. See 'dspex-fleet lm-batches list'.")
        return found

    async def cancel(self, id: str, *, author: str = "") -> LMBatch:
        """Have a batch cancelled: what it hasn't answered by then fails its predictions, or goes to a fallback.

        Args:
            id: of the batch.
            author: who cancels it, for the audit trail.

        Raises:
            BridgeError: there is no such batch, or it has ended.
            StoreUnavailableError: Redis is unavailable.
        """
        found = await self.get(id)
        if not await self._store.request_cancel(id):
            raise BridgeError(f"Batch '{id}' has ended; its answers were handed out.")
        await self._trail.record(AuditEntry("lm_batch.cancel", f"lm_batch:{id}", author))
        return found


class LMBatches:
    """The batches of a fleet; each method does what the one of the same name of ``aio`` does.

    It can be used in any thread, with or without a running event loop.

    Args:
        aio: the same for callers that await.
    """

    def __init__(self, aio: AsyncLMBatches) -> None:
        self.aio = aio

    list = blocking(AsyncLMBatches.list)
    get = blocking(AsyncLMBatches.get)
    cancel = blocking(AsyncLMBatches.cancel)
