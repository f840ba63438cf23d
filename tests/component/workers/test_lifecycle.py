"""The life of a worker process: one runtime per process, made after the fork, its profiles from file or setting."""

from __future__ import annotations

import threading

from tests.unit.workers.test_lifecycle import settings
from workers.lifecycle import RuntimeSlot


def test_checking_the_runtime_opens_nothing_that_forked_children_would_share(redis_url: str) -> None:
    """KINDS 41."""
    slot = RuntimeSlot(settings(redis_url=redis_url, lm="openai/demo"))
    threads = set(threading.enumerate())
    slot.check(keep=False)
    assert not slot.built
    assert set(threading.enumerate()) <= threads  # one of an earlier test may have ended meanwhile
    slot.check(keep=True)
    assert slot.built
