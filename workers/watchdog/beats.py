"""Beats: what each process of a worker says of its event loop, in memory that the watchdog shares with them.

One writes and another reads, without a lock and whatever state the writer is in.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# Process, the loop's thread, seconds that the loop may stand still, turns of the loop, beats of another thread.
_SLOT = struct.Struct("=qqdqq")
_COUNT = struct.Struct("=q")
_TURNS_AT, _ALIVE_AT = 24, 32
# More than a worker has processes.
_SLOTS = 256
# The names under which a process holds messages; one for each broker that it consumes from.
_NAME = struct.Struct("=32s")
_NAMES = 8


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What one process says of itself.

    Attributes:
        slot: where it says it.
        pid: its process id.
        thread: the thread of its event loop, as the kernel counts threads.
        limit_s: seconds that the loop may stand still.
        turns: how often the loop has turned.
        alive: how often another thread has run: it doesn't where code holds the interpreter lock.
    """

    slot: int
    pid: int
    thread: int
    limit_s: float
    turns: int
    alive: int


class SharedStatus:
    """The memory. Made before the first fork, and shared from then on."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SLOT.size * _SLOTS + _NAME.size * _NAMES)

    def register(self, thread: int, limit_s: float) -> int:
        """Takes a slot for this process and returns its number."""
        pid = os.getpid()
        # Two processes that begin at once start to look at different places.
        for slot in (number % _SLOTS for number in range(pid, pid + _SLOTS)):
            if self._read(slot).pid in (0, pid):
                _SLOT.pack_into(self._memory, slot * _SLOT.size, pid, thread, limit_s, 0, 0)
                return slot
        raise RuntimeError(f"A worker with more than {_SLOTS} processes can't be watched; start two of them instead.")

    def set_turns(self, slot: int, turns: int) -> None:
        """Says how often the loop has turned."""
        _COUNT.pack_into(self._memory, slot * _SLOT.size + _TURNS_AT, turns)

    def set_alive(self, slot: int, alive: int) -> None:
        """Says how often another thread has run."""
        _COUNT.pack_into(self._memory, slot * _SLOT.size + _ALIVE_AT, alive)

    def unregister(self, slot: int) -> None:
        """Frees a slot."""
        _SLOT.pack_into(self._memory, slot * _SLOT.size, 0, 0, 0.0, 0, 0)

    def __iter__(self) -> Iterator[ProcessStatus]:
        """The processes that are watched."""
        return (beat for beat in map(self._read, range(_SLOTS)) if beat.pid)

    def add_lease_holder(self, name: str) -> None:
        """Says under which name the worker holds messages."""
        if name not in self.lease_holders:
            taken = len(self.lease_holders) % _NAMES
            _NAME.pack_into(self._memory, _SLOT.size * _SLOTS + taken * _NAME.size, name.encode())

    @property
    def lease_holders(self) -> list[str]:
        """The names under which the worker holds messages."""
        start = _SLOT.size * _SLOTS
        found = (_NAME.unpack_from(self._memory, start + at * _NAME.size)[0] for at in range(_NAMES))
        return [name.rstrip(b"\0").decode() for name in found if name.strip(b"\0")]

    def _read(self, slot: int) -> ProcessStatus:
        return ProcessStatus(slot, *_SLOT.unpack_from(self._memory, slot * _SLOT.size))
