"""The state of each worker process's event loop, in memory shared with the watchdog.

Each slot has one writer and one reader, so it needs no lock and can be read whatever state the writer is in.
"""

from __future__ import annotations

import mmap
import os
import struct
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

# Process id, the loop's thread, seconds that the loop may be blocked, loop iterations, ticks of another thread.
_SLOT = struct.Struct("=qqdqq")
_COUNT = struct.Struct("=q")
_TURNS_AT, _ALIVE_AT = 24, 32
# More than the processes of any worker.
_SLOTS = 256
# The worker ids under which a process holds leases, one per broker that it consumes from.
_NAME = struct.Struct("=32s")
_NAMES = 8
# The worker's report on itself: its length and checksum, and its text.
_REPORT = struct.Struct("=II")
_REPORT_BYTES = 16_384
MAX_REPORT_BYTES = _REPORT_BYTES - _REPORT.size
"""The longest report that the memory holds."""
_REPORT_AT = _SLOT.size * _SLOTS + _NAME.size * _NAMES
_BYTES = _REPORT_AT + _REPORT_BYTES


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """The state of one process.

    Attributes:
        slot: the number of its slot.
        pid: its process id.
        thread: the kernel's id of its event loop's thread.
        limit_s: seconds that the loop may be blocked.
        turns: iterations of the loop.
        alive: ticks of another thread, which doesn't run while code holds the GIL.
    """

    slot: int
    pid: int
    thread: int
    limit_s: float
    turns: int
    alive: int


class SharedStatus:
    """The shared memory, created before the first fork.

    Args:
        fd: a descriptor of the memory that another process has created; None creates one.

    Attributes:
        fd: a descriptor of the memory, for the watchdog to inherit.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = _create_memory() if fd is None else fd
        weakref.finalize(self, os.close, self.fd)
        self._memory = mmap.mmap(self.fd, _BYTES)
        self._last_report: bytes | None = None

    def register(self, thread: int, limit_s: float) -> int:
        """Allocate a slot for this process and return its number."""
        pid = os.getpid()
        # Processes that start at the same time try different slots first.
        for slot in (number % _SLOTS for number in range(pid, pid + _SLOTS)):
            if self._read(slot).pid in (0, pid):
                _SLOT.pack_into(self._memory, slot * _SLOT.size, pid, thread, limit_s, 0, 0)
                return slot
        raise RuntimeError(f"A worker with more than {_SLOTS} processes can't be watched; start two of them instead.")

    def set_turns(self, slot: int, turns: int) -> None:
        """Store the number of loop iterations."""
        _COUNT.pack_into(self._memory, slot * _SLOT.size + _TURNS_AT, turns)

    def set_alive(self, slot: int, alive: int) -> None:
        """Store the number of ticks of the other thread."""
        _COUNT.pack_into(self._memory, slot * _SLOT.size + _ALIVE_AT, alive)

    def unregister(self, slot: int) -> None:
        """Free a slot."""
        _SLOT.pack_into(self._memory, slot * _SLOT.size, 0, 0, 0.0, 0, 0)

    def __iter__(self) -> Iterator[ProcessStatus]:
        """Iterate over the registered processes."""
        return (beat for beat in map(self._read, range(_SLOTS)) if beat.pid)

    def add_lease_holder(self, name: str) -> None:
        """Store a worker id under which the worker holds leases."""
        if name not in self.lease_holders:
            slot = len(self.lease_holders) % _NAMES
            _NAME.pack_into(self._memory, _SLOT.size * _SLOTS + slot * _NAME.size, name.encode())

    @property
    def lease_holders(self) -> list[str]:
        """The worker ids under which the worker holds leases."""
        start = _SLOT.size * _SLOTS
        found = (_NAME.unpack_from(self._memory, start + at * _NAME.size)[0] for at in range(_NAMES))
        return [name.rstrip(b"\0").decode() for name in found if name.strip(b"\0")]

    def set_report(self, report: bytes) -> None:
        """Store the worker's report on itself; one longer than ``MAX_REPORT_BYTES`` is dropped."""
        if len(report) <= MAX_REPORT_BYTES:
            checked = _REPORT.pack(len(report), zlib.crc32(report)) + report
            self._memory[_REPORT_AT : _REPORT_AT + len(checked)] = checked

    def read_report(self) -> bytes | None:
        """Return the last report that was stored completely, or None if there is none."""
        length, checksum = _REPORT.unpack_from(self._memory, _REPORT_AT)
        start = _REPORT_AT + _REPORT.size
        report = self._memory[start : start + length] if length <= MAX_REPORT_BYTES else b""
        # A checksum that doesn't match is of a report that is being written.
        if report and zlib.crc32(report) == checksum:
            self._last_report = report
        return self._last_report

    def _read(self, slot: int) -> ProcessStatus:
        return ProcessStatus(slot, *_SLOT.unpack_from(self._memory, slot * _SLOT.size))


def _create_memory() -> int:
    """Return a descriptor of memory that processes can share."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("dspex-watchdog")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, _BYTES)
    return fd
