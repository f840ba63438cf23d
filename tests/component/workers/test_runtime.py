"""The check of the runtime before a worker consumes anything, beside a real server."""

from __future__ import annotations

import threading

from tests.harness.worker_settings import offline_settings
from workers.runtime import RuntimeSlot


def test_checking_the_runtime_opens_nothing_that_forked_children_would_share(redis_url: str) -> None:
    slot = RuntimeSlot(offline_settings(redis_url=redis_url, lm="openai/demo"))
    threads = set(threading.enumerate())
    slot.check(keep=False)
    assert not slot.built
    assert set(threading.enumerate()) <= threads  # one of an earlier test may have ended meanwhile
    slot.check(keep=True)
    assert slot.built
