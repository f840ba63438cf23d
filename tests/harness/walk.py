"""Records which of our files are entered, in a worker and in a client, to count those that one prediction takes.

Every call of a Python function is recorded with the time of the machine's monotonic clock, which processes share. So a
client can say afterwards from when to when each prediction ran, and its worker need not be told of it.

``python -m tests.harness.walk URL COUNT`` is such a client: it submits predictions of the program ``qa``, one after the
other, and prints when each began and which files it entered.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from tests.harness.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
PRODUCT = tuple(f"{ROOT / package}/" for package in ("snakepit_bridge", "tasks", "workers", "config"))
# The first predictions load, connect and build what later ones find.
WARM_UP = 2

Entry = tuple[float, str]
"""When a file was entered, and its path below the root."""


class EntryRecorder:
    """Records the entries into our files, on this thread and on those that start after it, for the process's life."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        threading.setprofile(self._record)
        sys.setprofile(self._record)

    def _record(self, frame: FrameType, event: str, _: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(PRODUCT):
            self.entries.append((time.monotonic(), path))

    def files_of_each(self, starts: Sequence[float]) -> list[str]:
        """Return the files that were entered after each of these starts and before the next one."""
        return files_of_each(list(self.entries), starts)


def files_of_each(entries: Iterable[Entry], starts: Sequence[float]) -> list[str]:
    """Return the files that were entered between every two of these starts.

    What a process does now and then, such as a heartbeat, falls between some of them, but not between all.
    """
    walks: list[set[str]] = [set() for _ in starts[1:]]
    for entered_at, path in entries:
        for walk, start, end in zip(walks, starts[:-1], starts[1:], strict=True):
            if start <= entered_at < end:
                walk.add(str(Path(path).relative_to(ROOT)))
    return sorted(set.intersection(*walks))


def main(url: str, count: int) -> None:
    """Submit predictions one after the other, and print as JSON when the warm ones began and the client's files."""
    recorder = EntryRecorder()
    from snakepit_bridge.client import Fleet

    fleet = Fleet(url)
    starts: list[float] = []
    for number in range(WARM_UP + count):
        starts.append(time.monotonic())
        fleet.submit("qa", {"question": f"walk {number}"}, session="walk").get(PATIENCE_S)
    warm = starts[WARM_UP:]
    sys.setprofile(None)
    print(json.dumps({"starts": warm, "files": recorder.files_of_each(warm)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
