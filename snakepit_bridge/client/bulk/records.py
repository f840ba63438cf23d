"""RecordFile: the records of a bulk run as JSON lines, one for each line of the input, in its order.

Nothing is in the file twice and nothing is missing: what stands behind the checkpoint's offset, because the process was
killed while it wrote, is cut off when the run is resumed.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from snakepit_bridge.client.bulk.checkpoint import BulkState, Checkpoint
from snakepit_bridge.client.results import TaskResult
from snakepit_bridge.exceptions import BridgeError, BulkError
from snakepit_bridge.variables.codec import dump_json, parse

_MAX_PROBLEM = 300


@dataclass(frozen=True, slots=True)
class BulkRecord:
    """What the output says of one line.

    Attributes:
        line: its number.
        raw: the record as it is written, with its line break.
        error: the class of the error that it ended with; empty if it was answered.
        problem: what that error says.
        cost_usd: what it cost; None if that isn't known, as of a line that failed.
    """

    line: int
    raw: bytes
    error: str = ""
    problem: str = ""
    cost_usd: Decimal | None = None

    @classmethod
    def of_result(cls, identity: Mapping[str, Any], ended: TaskResult) -> Self:
        """Return the record of a line whose prediction has ended."""
        if ended.error is not None:
            return cls.of_error(identity, ended.error)
        assert ended.result is not None
        provenance = ended.result.provenance
        cost = provenance.get("cost_usd")
        found = {**identity, "outputs": dict(ended.result.outputs), "provenance": dict(provenance)}
        return cls(identity["line"], _encode(found), cost_usd=None if cost is None else Decimal(cost))

    @classmethod
    def of_error(cls, identity: Mapping[str, Any], error: BridgeError) -> Self:
        """Return the record of a line that has failed."""
        kind, problem = type(error).__name__, str(error)
        record = {**identity, "error": {"type": kind, "message": problem}}
        return cls(identity["line"], _encode(record), kind, problem)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return a record that was written before; its cost counted when it ended."""
        found = parse(raw)
        error = found.get("error", {})
        return cls(found["line"], raw, str(error.get("type", "")), str(error.get("message", "")))


class RecordFile:
    """The records of one run, and its checkpoint.

    Args:
        path: of the file.
        checkpoint: of the run.
        state: how far the run has come.

    Raises:
        BulkError: the file isn't as the checkpoint left it, or can't be written.
    """

    def __init__(self, path: Path, checkpoint: Checkpoint, state: BulkState) -> None:
        self._checkpoint = checkpoint
        self._buffered: list[BulkRecord] = []
        self.state = state
        self._resumed = checkpoint.count_waiting() > 0
        self._file = _open_at(path, state.offset)

    def is_done(self, line: int) -> bool:
        """Return whether a line behind the output's end has ended already."""
        return self._resumed and self._checkpoint.has_waiting(line)

    @property
    def buffered(self) -> int:
        """How many records aren't durable yet."""
        return len(self._buffered)

    def add(self, record: BulkRecord) -> None:
        """Count a record, and keep it until :meth:`flush`."""
        self._buffered.append(record)
        state, errors, examples = self.state, dict(self.state.errors), dict(self.state.examples)
        if record.error:
            errors[record.error] = errors.get(record.error, 0) + 1
            examples.setdefault(record.error, _describe_example(record))
        self.state = replace(
            state,
            done=state.done + 1,
            failed=state.failed + bool(record.error),
            errors=errors,
            examples=examples,
            cost_usd=state.cost_usd + (record.cost_usd or 0),
            priced=state.priced + (record.cost_usd is not None),
        )

    def add_unpriced(self) -> None:
        """Count an answer whose price isn't known."""
        self.state = replace(self.state, unpriced=self.state.unpriced + 1)

    def flush(self, first_open: int) -> None:
        """Make all records durable: in the output as far as no earlier line is open, else in the checkpoint.

        Args:
            first_open: the first line that may have no record yet.
        """
        ready = sorted((each.line, each.raw) for each in self._buffered if each.line < first_open)
        waiting = [(each.line, each.raw) for each in self._buffered if each.line > first_open]
        last, offset = self.state.line, self.state.offset
        for line, raw in heapq.merge(ready, self._checkpoint.read_waiting(first_open)):
            self._file.write(raw)
            last, offset = line, offset + len(raw)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.state = replace(self.state, line=last, offset=offset)
        self._checkpoint.save(self.state, waiting)
        self._buffered.clear()

    def close(self) -> None:
        """Close the file; what wasn't flushed is lost."""
        self._file.close()


def read_records(path: Path, end: int | None = None) -> Iterator[BulkRecord]:
    """Yield the records of a file, as far as ``end``."""
    with path.open("rb") as file:
        offset = 0
        for raw in file:
            offset += len(raw)
            if end is not None and offset > end:
                return
            yield BulkRecord.parse(raw)


def _open_at(path: Path, offset: int) -> BinaryIO:
    try:
        size = path.stat().st_size if path.exists() else 0
        if size < offset:
            problem = f"it has {size} bytes, and its run had written {offset}; name another output, or remove both"
            raise BulkError(f"output {path}", problem)
        file = cast(BinaryIO, path.open("r+b" if path.exists() else "x+b"))
    except OSError as exc:
        raise BulkError(f"output {path}", f"it can't be written ({exc.strerror or exc}); check its path") from None
    file.truncate(offset)
    file.seek(offset)
    return file


def _describe_example(record: BulkRecord) -> str:
    """Return where an error was and what it says, in one line of bounded length."""
    problem = " ".join(record.problem.split())
    shown = problem if len(problem) <= _MAX_PROBLEM else f"{problem[:_MAX_PROBLEM]}…"
    return f"line {record.line}: {shown}"


def _encode(record: Mapping[str, Any]) -> bytes:
    # JSON can escape half a surrogate pair, UTF-8 can't hold it.
    return (dump_json(record) + "\n").encode(errors="backslashreplace")
