"""The journal of one delivery of a task: opened before it runs, and left to the commit of its result."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.redis.outages import MAX_WAIT_S, retry_through_outages
from tasks.journal.journal import CallJournal
from tasks.journal.store import JournalStore
from tasks.requests import Delivery
from tasks.spending import find_spending
from tasks.subject import current_subject


@asynccontextmanager
async def keep_task_journal(
    journals: JournalStore,
    delivery: Delivery,
    *,
    deadline: float | None = None,
    patience_s: float = MAX_WAIT_S,
    may_be_parked: bool = False,
) -> AsyncGenerator[CallJournal]:
    """Yield the journal of a task with what earlier deliveries recorded.

    What is recorded and unwritten at the end of the block is written unless the task is over by then.

    Args:
        journals: the journals in Redis.
        delivery: how the task was delivered.
        deadline: Unix seconds of the task's deadline.
        patience_s: seconds for which a call waits for Redis to take the answer before it.
        may_be_parked: whether its calls may wait for batches, whose answers come in its journal.

    Raises:
        StoreUnavailableError: Redis is unavailable, so that it isn't known what was answered before.
    """
    found = None
    if delivery.is_repeated or may_be_parked:
        found = await retry_through_outages(lambda: journals.load(delivery.task_id), deadline=deadline)
    journal = CallJournal(
        journals,
        delivery.task_id,
        attempt=delivery.attempt,
        found=found,
        patience_s=patience_s,
        counts_calls=may_be_parked,
    )
    _attach(journal, delivery.task_id)
    try:
        yield journal
    except BridgeError as exc:
        if getattr(exc, "again_in_s", None) is not None:
            journal.flush()
        raise
    except BaseException:
        journal.flush()
        raise
    journal.finish()


def _attach(journal: CallJournal, task_id: str) -> None:
    """Have the commit of the prediction's result remove the journal, and its costs counted from where it goes on."""
    subject = current_subject.get()
    if subject is not None and subject.task_id == task_id:
        subject.journal = journal
    spending = find_spending(task_id)
    if spending is not None:
        for profile, usage in journal.earlier_usage().items():
            spending.add(profile, usage)
