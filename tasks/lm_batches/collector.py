"""The collector: puts the requests of the whole fleet that wait into batches, follows them, and releases predictions.

Any number of processes may run it; a lease has one of them do the work. Each step is stored before what it allows is
done: that a batch has these requests, before anything is sent; that it may have been sent, before it is. So a collector
that is killed anywhere is continued by another one. A batch whose creation may have reached the provider is looked for
there, and sent again only once nobody can be sending it any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import replace
from uuid import uuid4

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.lm.policies import BatchPolicy
from snakepit_bridge.lm.profiles import LMProfiles
from snakepit_bridge.lm_batches.providers import BatchProvider, BatchProviderError, BatchStatus, open_provider
from snakepit_bridge.lm_batches.records import BatchReply, BatchState, LMBatch, WaitingRequest
from snakepit_bridge.lm_batches.store import LMBatchStore, Waiting
from snakepit_bridge.process.aio import OutageLog, cancel_tasks, every
from snakepit_bridge.redis.lease import Lease
from tasks.journal.journal import BATCH
from tasks.journal.store import JournalStore

_INTERVAL_S = 0.5
_CHUNK = 200
# Between two tries at a provider that refuses.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 600.0
_CANCELLED = BatchReply("", 0, '{"code": "batch_cancelled"}')

_log = logging.getLogger(__name__)

FindEnded = Callable[[Sequence[str]], Awaitable[set[str]]]
"""Returns which of some tasks have their final result."""


class LMBatchCollector:
    """Sends and follows batches while it holds the lease. Lives on the home loop.

    Args:
        store: the requests that wait, and the batches.
        journals: where answers go.
        profiles: the LM profiles; those of the batch tier count.
        lease: held by the collector that works.
        find_ended: tells which predictions nobody waits for any more.
    """

    def __init__(
        self,
        store: LMBatchStore,
        journals: JournalStore,
        profiles: LMProfiles,
        lease: Lease,
        find_ended: FindEnded,
    ) -> None:
        self._store = store
        self._journals = journals
        self._profiles = profiles
        self._lease = lease
        self._find_ended = find_ended
        self._providers: dict[str, BatchProvider] = {}
        self._next_look: dict[str, float] = {}
        self._advancing: dict[str, asyncio.Task[None]] = {}
        self._outage = OutageLog(_log, "Can't look after batches of LM calls")
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start working on the running loop, if a profile is of the batch tier, unless it works already."""
        if self._profiles.has_batch_tier and (self._running is None or self._running.done()):
            loop = asyncio.get_running_loop()
            self._running = loop.create_task(every(_INTERVAL_S, self._work, self._outage), context=Context())

    async def aclose(self) -> None:
        """Stop, and let another process take over at once."""
        await cancel_tasks(self._running, *self._advancing.values())
        if self._running is not None:
            await self._lease.release()
        for provider in self._providers.values():
            await provider.aclose()

    async def _work(self) -> None:
        """Renew the lease, and start what is due."""
        if not await self._lease.acquire():
            await cancel_tasks(*self._advancing.values())
            self._advancing.clear()
            return
        await self._store.release()
        for profile, waiting in (await self._store.waiting()).items():
            if profile in self._profiles and self._is_due(self._profiles[profile].batch, waiting):
                await self._form(profile)
        cancelled = await self._store.find_cancelled()
        for batch in await self._store.list_open():
            wanted = replace(batch, cancel=batch.cancel or batch.id in cancelled)
            is_due = self._next_look.get(batch.id, 0.0) <= time.monotonic() or wanted.cancel != batch.cancel
            if is_due and batch.profile in self._profiles and batch.id not in self._advancing:
                self._start_advancing(wanted)

    @staticmethod
    def _is_due(policy: BatchPolicy, waiting: Waiting) -> bool:
        return waiting.count >= policy.max_requests or time.time() - waiting.oldest_at >= policy.wait_s

    async def _form(self, profile: str) -> None:
        provider, policy = await self._provider(profile), self._profiles[profile].batch
        batch = LMBatch(f"dspex-{uuid4().hex}", profile, 0, created_at=time.time())
        most = min(policy.max_requests, provider.max_requests)
        await self._store.form(self._lease.owner, batch, most, min(policy.max_bytes, provider.max_bytes))

    def _start_advancing(self, batch: LMBatch) -> None:
        """Take a batch's next steps in a task of their own: one may take minutes, and the lease is to be renewed."""
        task = asyncio.get_running_loop().create_task(self._advance_safely(batch), name=f"advance {batch.id}")
        self._advancing[batch.id] = task
        task.add_done_callback(lambda _: self._advancing.pop(batch.id, None))

    async def _advance_safely(self, batch: LMBatch) -> None:
        policy = self._profiles[batch.profile].batch
        pause_s = policy.poll_s
        try:
            await self._advance(batch)
        except BatchProviderError as exc:
            _log.warning("Batch %s of '%s': %s", batch.id, batch.profile, exc)
            pause_s = min(max(policy.poll_s, _FIRST_PAUSE_S) * 2.0 ** min(batch.attempts, 8), _LONGEST_PAUSE_S)
        except StoreUnavailableError as exc:
            self._outage.failed(exc)
        except Exception:  # noqa: BLE001 - one batch must not keep the others waiting
            _log.exception("Batch %s of '%s' can't be looked after", batch.id, batch.profile)
        self._next_look[batch.id] = time.monotonic() + pause_s

    # ------------------------------------------------------------------ steps of a batch

    async def _advance(self, batch: LMBatch) -> None:
        """Take a batch as far as it goes now."""
        provider = await self._provider(batch.profile)
        if batch.state is BatchState.sending:
            found = await self._find_sent(provider, batch)
            if found is None:
                return
            batch = found
        if batch.state is BatchState.forming:
            sent = await self._send(provider, batch)
            if sent is None:
                return
            batch = sent
        await self._follow(provider, batch)

    async def _find_sent(self, provider: BatchProvider, batch: LMBatch) -> LMBatch | None:
        """Return a batch whose creation may have been lost: running, or to be sent again; None if that isn't known."""
        known = frozenset(each.provider_id for each in await self._store.list_open()) | set(batch.others)
        provider_id = await provider.find(batch, known - {""})
        if provider_id:
            return await self._save(replace(batch, state=BatchState.running, provider_id=provider_id))
        if time.time() < batch.sent_at + self._profiles[batch.profile].batch.send_timeout_s:
            return None
        return await self._save(replace(batch, state=BatchState.forming))

    async def _send(self, provider: BatchProvider, batch: LMBatch) -> LMBatch | None:
        """Send a batch, without the requests that nobody waits for; return it running, None if it is over."""
        requests = await self._drop_unwanted(batch)
        if batch.cancel:
            await self._hand_out(batch, [replace(_CANCELLED, id=each.id) for each in requests], requests)
            requests = []
        if not requests:
            await self._save(replace(batch, state=BatchState.ended))
            return None
        try:
            batch = await provider.upload(batch, requests)
            batch = replace(batch, state=BatchState.sending, sent_at=time.time(), requests=len(requests))
            await self._save(batch)
            provider_id = await provider.create(batch, requests)
        except BatchProviderError as exc:
            await self._note_refusal(batch, requests, exc)
            raise
        _log.info("Batch %s of '%s' is sent as %s: %d requests", batch.id, batch.profile, provider_id, len(requests))
        return await self._save(replace(batch, state=BatchState.running, provider_id=provider_id, problem=""))

    async def _note_refusal(self, batch: LMBatch, requests: Sequence[WaitingRequest], exc: BatchProviderError) -> None:
        """Store that sending a batch failed; where trying again is useless, its requests get that as their reply."""
        if not exc.is_permanent:
            await self._save(replace(batch, problem=str(exc), attempts=batch.attempts + 1))
            return
        body = '{"error": {"message": "the batch was refused", "type": "invalid_request_error"}}'
        await self._hand_out(batch, [BatchReply(each.id, 400, body) for each in requests], requests)
        await self._save(replace(batch, state=BatchState.ended, problem=str(exc)))

    async def _follow(self, provider: BatchProvider, batch: LMBatch) -> None:
        """Look at a running batch, and hand its replies out once it is over."""
        status = await provider.check(batch)
        if not status.is_over:
            if batch.cancel and "cancel" not in status.status:
                await provider.cancel(batch)
            await self._save(replace(batch, provider_status=status.status, answered=status.answered))
            return
        requests = {each.id: each for each in await self._store.requests_of(batch.id)}
        chunk, handed_out, foreign = list[BatchReply](), 0, 0
        async for reply in provider.replies(batch, status):
            if reply.id not in requests:
                foreign += 1
                continue
            chunk.append(reply)
            if len(chunk) >= _CHUNK:
                handed_out += len(chunk)
                await self._hand_out(batch, chunk, [requests.pop(each.id) for each in chunk])
                chunk = []
        handed_out += len(chunk)
        await self._hand_out(batch, chunk, [requests.pop(each.id) for each in chunk])
        if foreign and not handed_out and len(requests) == batch.requests:
            await self._give_up_guess(batch)
            return
        await self._end(batch, status, list(requests.values()))

    async def _give_up_guess(self, batch: LMBatch) -> None:
        """Send a batch that isn't the provider's batch that it was thought to be."""
        others = (*batch.others, batch.provider_id)
        await self._save(replace(batch, state=BatchState.sending, provider_id="", others=others))

    async def _end(self, batch: LMBatch, status: BatchStatus, left: Sequence[WaitingRequest]) -> None:
        """Give the requests that have no reply another batch, or the reason as their reply, and end the batch."""
        is_cancelled = batch.cancel or "cancel" in status.status
        reason = _CANCELLED.body if is_cancelled else '{"code": "batch_expired"}'
        await self._hand_out(batch, [BatchReply(each.id, 0, reason) for each in left], left)
        ended = replace(batch, state=BatchState.ended, provider_status=status.status, problem=status.problem)
        await self._save(replace(ended, answered=batch.requests - len(left)))
        self._next_look.pop(batch.id, None)
        _log.info("Batch %s of '%s' is %s: %d have no reply", batch.id, batch.profile, status.status, len(left))

    # ------------------------------------------------------------------ requests

    async def _drop_unwanted(self, batch: LMBatch) -> Sequence[WaitingRequest]:
        """Return the requests of a batch that isn't sent yet whose predictions wait for them; drop the others."""
        wanted = list[WaitingRequest]()
        requests = await self._store.requests_of(batch.id)
        for start in range(0, len(requests), _CHUNK):
            chunk = requests[start : start + _CHUNK]
            tasks = sorted({each.task_id for each in chunk})
            waiting, ended = await self._store.find_parked(tasks), await self._find_ended(tasks)
            if ended:
                await self._store.release(*ended)
            waiting -= ended
            await self._store.answer(batch.id, [each for each in chunk if each.task_id not in waiting])
            wanted += [each for each in chunk if each.task_id in waiting]
        return wanted

    async def _hand_out(
        self, batch: LMBatch, replies: Sequence[BatchReply], requests: Sequence[WaitingRequest]
    ) -> None:
        """Write replies into the journals and release the predictions; have others wait for another batch."""
        tries = self._profiles[batch.profile].batch.tries
        again, answered, writes = list[WaitingRequest](), list[WaitingRequest](), list[Awaitable[object]]()
        waiting = await self._store.find_parked(sorted({each.task_id for each in requests}))
        for reply, request in zip(replies, requests, strict=True):
            is_wanted = request.task_id in waiting
            if is_wanted and reply.is_retryable and request.tries + 1 < tries and not batch.cancel:
                again.append(request.again())
                continue
            answered.append(request)
            if is_wanted:
                writes.append(self._journals.add(request.task_id, {f"{BATCH}:{request.id}": reply.encode()}))
        await asyncio.gather(*writes)  # before the predictions that look for them are released
        await self._store.requeue(batch, again)
        await self._store.answer(batch.id, answered)

    async def _save(self, batch: LMBatch) -> LMBatch:
        """Store a batch's record and return it.

        Raises:
            CancelledError: the lease is lost, so another collector looks after the batch.
        """
        if not await self._store.save(self._lease.owner, batch):
            raise asyncio.CancelledError
        return batch

    async def _provider(self, profile: str) -> BatchProvider:
        provider = self._providers.get(profile)
        if provider is None:
            engine = self._profiles.get_engine(profile)
            base_url, headers = await engine.read_access()
            timeout_s = self._profiles[profile].batch.send_timeout_s / 2
            provider = self._providers[profile] = open_provider(engine.dialect, base_url, headers, timeout_s)
        return provider
