"""The snapshots that one call of a variable-aware module sees."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import dspy

from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots.snapshot import Snapshot

# DSPy propagates its settings into tasks, its thread pools and asyncify; it would drop a context variable of ours.
_SETTING = "dspex_call"


class CallSnapshots:
    """The snapshots that one call has read. The modules that it calls see the same ones."""

    def __init__(self) -> None:
        self._snapshots: dict[SessionContext, Snapshot] = {}
        self.ended = False

    def get(self, context: SessionContext) -> Snapshot | None:
        """Return the snapshot of a session that this call saw first, if it saw one."""
        return self._snapshots.get(context)

    def remember(self, context: SessionContext, snapshot: Snapshot) -> Snapshot:
        """Store a snapshot unless the call has one, and return the stored one: parallel parts may both have read."""
        return self._snapshots.setdefault(context, snapshot)


def _find_current_call() -> CallSnapshots | None:
    call: CallSnapshots | None = dspy.settings.get(_SETTING)
    return None if call is None or call.ended else call


@contextmanager
def current_call() -> Generator[CallSnapshots]:
    """Yield the current call, or start one."""
    call = _find_current_call()
    if call is not None:
        yield call
        return
    call = CallSnapshots()
    try:
        with dspy.context(**{_SETTING: call}):
            yield call
    finally:
        call.ended = True  # what outlives the call, such as a task that a tool started, starts its own


def load(call: CallSnapshots, contexts: Iterable[SessionContext]) -> None:
    """Read the snapshots that a call lacks, one round trip for each session."""
    for context in contexts:
        if call.get(context) is None:
            call.remember(context, context.blocking.snapshot())


async def aload(call: CallSnapshots, contexts: Iterable[SessionContext]) -> None:
    """Read as :func:`load` does, without blocking the loop."""
    for context in contexts:
        if call.get(context) is None:
            call.remember(context, await context.snapshot())
