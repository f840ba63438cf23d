"""Loading what imports DSPy, which takes seconds, without holding up the gateway's event loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TypeVar

from snakepit_bridge.process.garbage_collection import freeze_gc

T = TypeVar("T")


class _Collection:
    is_frozen = False


async def load_in_thread(load: Callable[[], T]) -> T:
    """Return what a function loads; once DSPy is among it, it is left out of garbage collection.

    Args:
        load: returns it; it runs in a thread.
    """
    found = await asyncio.to_thread(load)
    if not _Collection.is_frozen and "dspy" in sys.modules:
        _Collection.is_frozen = True
        freeze_gc()
    return found
