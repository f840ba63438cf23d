"""A plugin of coverage.py that keeps its measuring of greenlets from an endless loop of Python 3.11.

Coverage keeps the greenlets that it sees in dictionaries of weak references, the main greenlet of each thread among
them. That one dies after its thread, in a pending call of the main thread, which runs the dictionary's callback. While
another pending call waits, such as that of a thread that ended at the same time, Python 3.11 never gets past the start
of a traced function there (``settrace`` and ``Py_AddPendingCall`` alone show it; 3.10, 3.12 and 3.13 do not).
"""

from __future__ import annotations

import sys
from typing import Any

from coverage import control
from coverage.collector import Collector
from greenlet import getcurrent


class _MainGreenlet:
    """Stands for the main greenlet of any thread, and never dies: each thread's tracer has a dictionary of its own."""


_MAIN_GREENLET = _MainGreenlet()


class GreenletCollector(Collector):
    """A collector whose dictionaries reference no greenlet that dies in a pending call."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.concur_id_func is getcurrent:
            self.concur_id_func = current_greenlet


def current_greenlet() -> object:
    """Return the calling greenlet, or what stands for it if it is its thread's main one."""
    current = getcurrent()
    return _MAIN_GREENLET if current.parent is None else current


def coverage_init(*_: object) -> None:
    """Have coverage use such collectors, in each process that it measures."""
    if sys.version_info < (3, 12):
        setattr(control, "Collector", GreenletCollector)  # noqa: B010 (it can't be configured)
