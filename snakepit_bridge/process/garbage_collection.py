"""Garbage collection in a process that has loaded much, which lives as long as the process itself."""

from __future__ import annotations

import gc

# Garbage collection threshold of generation 0; Python's default of 700 suits small programs. A prediction that waits is
# 400 objects: below the number of some hundred, most of what is traversed would be predictions that only wait.
_GC_THRESHOLD = 60_000


def freeze_gc() -> None:
    """Freeze loaded objects (``gc.freeze``) and raise the generation 0 threshold.

    DSPy's classes and models are some hundred thousand objects that live for ever. Traversing them took a fifth of a
    prediction's CPU time, although tasks leave hardly any cycles, and held up each request to a gateway that it fell
    into for a tenth of a second; and in forked children, traversal would copy their memory.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 10, 10)
