"""The snapshots that one call of a variable-aware module sees, and which methods a call of a module runs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, cast

import dspy

from snakepit_bridge.dspy_integration.compat import RLM
from snakepit_bridge.dspy_integration.module_tree import is_defined_by_user, is_ours
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


def runs_natively(module_class: type) -> bool:
    """Check whether a class has an ``aforward`` that matches its ``forward`` and doesn't block the loop.

    A class that overrides only ``forward`` would run its parent's ``aforward``, which does something else. RLM's
    blocks the loop while its interpreter runs.
    """
    for base in module_class.__mro__:
        if base is RLM:
            return False
        if not is_ours(base) and ("aforward" in vars(base) or (is_defined_by_user(base) and "acall" in vars(base))):
            return True
        if not is_ours(base) and ("forward" in vars(base) or (is_defined_by_user(base) and "__call__" in vars(base))):
            return False
    return False


def find_entry_points(module: Any) -> list[Callable[..., Any]]:
    """Return the functions of the user's own that a call of a module runs, bound to it, the outer one first."""
    names = ("acall", "aforward") if runs_natively(type(module)) else ("__call__", "forward")
    return [found for found in (_find_method(module, name) for name in names) if found is not None]


def _find_method(module: Any, name: str) -> Callable[..., Any] | None:
    """Return a method as the user wrote it, bound to the module; None if it is DSPy's or doesn't exist."""
    if name in vars(module) and callable(vars(module)[name]):
        return cast(Callable[..., Any], vars(module)[name])
    for base in type(module).__mro__:
        if name in vars(base) and not is_ours(base):
            written: Any = vars(base)[name]
            if not is_defined_by_user(base):
                return None
            written = getattr(written, WRITTEN_BY_THE_USER, written)
            return written.__get__(module, type(module)) if hasattr(type(written), "__get__") else written
    return None


WRITTEN_BY_THE_USER = "_written_by_the_user"
"""Attribute of the mixin's wrapper of a method, which holds the method as the user wrote it."""
