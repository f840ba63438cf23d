"""``batch --retry-failed``: the failed lines of an output tried again, each answer in its old place.

The new output is written beside the old one and takes its place at the end, whatever ends the run: what was not tried
again keeps its record. What a killed run leaves beside it is taken up by the next one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from snakepit_bridge.cli.batch_files import BatchLine, BatchOutput, open_file

_SUFFIX = ".retrying"


class RetryOutput(BatchOutput):
    """An output that is written anew: answered lines as they were, failed ones with what they end in now.

    Args:
        path: the output.
        old: its records so far.
        file: the new one, which takes its place.
    """

    def __init__(self, path: Path, old: BinaryIO, file: BinaryIO) -> None:
        super().__init__(path, file)
        self._old = old
        self._unwritten: deque[bytes] = deque()

    def merge(self, lines: Iterator[BatchLine]) -> Iterator[BatchLine]:
        """Yield each line of the input; one that was answered carries its record, and needs no prediction.

        Raises:
            BridgeError: the output is of another input, or no batch's at all.
        """
        for number, raw in enumerate(self._read_complete(), start=1):
            self._unwritten.append(raw)
            line = next(lines, None)
            record = self.match_record(raw, line, number)
            assert line is not None
            yield line if "error" in record else replace(line, record=record)
        yield from lines

    def write(self, line: BatchLine, result: dict[str, Any]) -> None:
        """Write a line's record; one that was there already stays as it was."""
        raw = self._unwritten.popleft() if self._unwritten else b""
        if line.record is None:
            super().write(line, result)
        else:
            self._keep(raw, line.record)

    def finish(self) -> None:
        """Write what was not come to as it was."""
        number = self.done
        for raw in (*self._unwritten, *self._read_complete()):
            number += 1
            self._keep(raw, self.read_record(raw, number))
        self._unwritten.clear()

    def _read_complete(self) -> Iterator[bytes]:
        """Yield the old records that a run has written to their ends."""
        for raw in self._old:
            if not raw.endswith(b"\n"):
                return
            yield raw

    def _keep(self, raw: bytes, record: dict[str, Any]) -> None:
        self._file.write(raw)
        self._count(record)


@contextmanager
def open_retry_output(path: Path) -> Generator[RetryOutput]:
    """Open an output whose failed lines are to be tried again.

    Raises:
        BridgeError: it can't be read or written.
    """
    beside = path.with_name(path.name + _SUFFIX)
    if beside.exists():
        _merge_unfinished(path, beside)
    with open_file(path, "rb") as old, open_file(beside, "wb") as new:
        written = RetryOutput(path, old, new)
        try:
            yield written
        finally:
            written.finish()
            new.flush()
            os.fsync(new.fileno())
            os.replace(beside, path)


def _merge_unfinished(path: Path, beside: Path) -> None:
    """Let the records that a killed run had written stand for the old ones in their places."""
    merged = path.with_name(path.name + ".merged")
    with open_file(path, "rb") as old, open_file(beside, "rb") as newer, open_file(merged, "wb") as file:
        for raw in old:
            again = newer.readline()
            file.write(again if again.endswith(b"\n") else raw)
        for raw in newer:
            if raw.endswith(b"\n"):
                file.write(raw)
    os.replace(merged, path)
    beside.unlink()
