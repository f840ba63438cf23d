"""Garbage collection in a process that has loaded much, which lives as long as the process itself."""

from __future__ import annotations

import gc
import time

# Garbage collection threshold of generation 0 at least; Python's default of 700 suits small programs.
_MIN_THRESHOLD = 60_000
# Twice the 400 to 500 objects that a prediction is while it waits for its LM: its coroutines, contexts and request.
_OBJECTS_PER_PREDICTION = 1_000
# As in Python's own thresholds: each tenth collection includes the next older generation.
_OLDER_EACH = 10
_MIN_INTERVAL_S, _MAX_INTERVAL_S = 5.0, 60.0
# A collection traverses the predictions in flight, which takes 0.4 s where they are 2,000.
_MAX_SHARE = 0.02


def freeze_gc() -> None:
    """Freeze loaded objects (``gc.freeze``) and raise the generation 0 threshold.

    DSPy's classes and models are some hundred thousand objects that live for ever. Traversing them took a fifth of a
    prediction's CPU time, although tasks leave hardly any cycles, and held up each request to a gateway that it fell
    into for a tenth of a second; and in forked children, traversal would copy their memory.
    """
    gc.collect()
    gc.freeze()
    scale_gc_threshold(1)


def scale_gc_threshold(in_flight: int) -> None:
    """Set the generation 0 threshold to more objects than the predictions in flight are.

    Below that, most of what a collection traverses are predictions that only wait: with 2,000 in flight it took a fifth
    of a prediction's CPU time. :class:`PeriodicCollector` bounds how long garbage waits.

    Args:
        in_flight: predictions that this process runs at a time.
    """
    gc.set_threshold(max(_MIN_THRESHOLD, _OBJECTS_PER_PREDICTION * in_flight), _OLDER_EACH, _OLDER_EACH)


class PeriodicCollector:
    """Collects garbage while predictions end: every five seconds, or less often where it takes long.

    It takes a fiftieth of the time at most, unless one collection a minute takes more. The number of objects alone is
    no bound for memory: a cycle of a few may hold a large input.
    """

    def __init__(self) -> None:
        self._due_at_s = 0.0
        self._collections = 0

    def collect_if_due(self, now_s: float) -> None:
        """Collect the youngest generation if the last collection here was some seconds ago; older ones less often.

        Args:
            now_s: the time by a monotonic clock.
        """
        if now_s < self._due_at_s:
            return
        self._collections += 1
        older = (self._collections % each == 0 for each in (_OLDER_EACH, _OLDER_EACH**2))
        started_s = time.thread_time()
        gc.collect(sum(older))
        took_s = time.thread_time() - started_s
        self._due_at_s = now_s + min(max(_MIN_INTERVAL_S, took_s / _MAX_SHARE), _MAX_INTERVAL_S)
