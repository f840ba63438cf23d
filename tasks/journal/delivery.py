"""The journal of one delivery of a prediction: opened before its program runs, and left to the commit of its result."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext

from snakepit_bridge.redis.outages import MAX_WAIT_S
from tasks.journal.journal import CallJournal
from tasks.journal.store import JournalStore
from tasks.journal.task_journal import keep_task_journal
from tasks.preparation import PreparedProgram
from tasks.requests import Delivery


def keep_journal(
    journals: JournalStore | None,
    prepared: PreparedProgram,
    delivery: Delivery,
    *,
    deadline: float | None,
    may_be_parked: bool,
) -> AbstractAsyncContextManager[CallJournal | None]:
    """Keep the journal of a prediction with what earlier deliveries recorded; None if its program keeps none.

    What is recorded and unwritten at the end of the block is written unless the prediction is over by then.

    Args:
        journals: the journals in Redis; None if there are none.
        prepared: the program, and whether the prediction may run without Redis.
        delivery: how the prediction was delivered.
        deadline: Unix seconds of the prediction's deadline.
        may_be_parked: whether its calls may wait for batches, whose answers come in its journal.

    Raises:
        StoreUnavailableError: Redis is unavailable, so that it isn't known what was answered before.
    """
    if journals is None or not (prepared.applied.bound.keeps_journal or may_be_parked):
        return nullcontext()
    patience_s = 0.0 if prepared.served.outage else MAX_WAIT_S
    return keep_task_journal(journals, delivery, deadline=deadline, patience_s=patience_s, may_be_parked=may_be_parked)
