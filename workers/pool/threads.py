"""Threads for tasks that aren't coroutines: as many as such tasks run, and none that holds up the process's end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

# A thread without work for so long ends.
_IDLE_S = 30.0


class Threads:
    """Runs functions in daemon threads; whoever calls it sees to it that they don't become too many."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._count = 0

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def run(self, work: Callable[[], None]) -> None:
        """Runs a function, which must not raise, in a thread that has nothing to do, or else in a new one."""
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._work.put(work)
                return
            self._count += 1
        threading.Thread(target=self._serve, args=(work,), name="dspex-task", daemon=True).start()

    def _serve(self, work: Callable[[], None]) -> None:
        while True:
            work()
            with self._lock:
                self._idle += 1
            try:
                work = self._work.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    # Somebody may have counted on this thread just now.
                    if self._idle:
                        self._idle -= 1
                        self._count -= 1
                        return
                work = self._work.get()
