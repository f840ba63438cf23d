"""LinePass: one pass over the lines of a bulk run, with a bounded number of them in flight."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from snakepit_bridge.client.bulk.progress import BulkProgress, OnProgress, RateMeter, StopReason
from snakepit_bridge.client.bulk.records import BulkRecord, RecordFile
from snakepit_bridge.client.bulk.source import BulkLine
from snakepit_bridge.client.bulk.spending import SpendLimit
from snakepit_bridge.client.bulk.window import BulkWindow
from snakepit_bridge.exceptions import BulkError, InputError

_FLUSH_INTERVAL_S = 1.0
_MAX_BUFFERED = 2_000


@dataclass(frozen=True, slots=True)
class PassOptions:
    """How lines are sent.

    Attributes:
        program: its reference, for errors.
        total: how many lines the run has.
        in_flight: how many are on the fleet at a time.
        batch: how many travel in one message.
        limit: of what the run may cost.
        timeout_s: seconds without an end after which it stops.
        on_progress: is told how far it has come.
    """

    program: str
    total: int
    in_flight: int
    batch: int
    limit: SpendLimit
    timeout_s: float
    on_progress: OnProgress


class LinePass:
    """One pass over lines; what it is interrupted at is resumed by another one.

    Args:
        window: sends the lines.
        records: keeps their records.
        options: how.
        clock: returns seconds.
    """

    def __init__(
        self,
        window: BulkWindow,
        records: RecordFile,
        options: PassOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window = window
        self._records = records
        self._options = options
        self._clock = clock
        self._rate = RateMeter(records.state.done)
        self._flushed_at = self._ended_at = clock()
        # Each line up to this one is in flight or has a record.
        self._reached = records.state.line

    def run(self, lines: Iterator[BulkLine | BulkRecord]) -> StopReason:
        """Have each line answered, and return why it stopped before the last one, if it did.

        Args:
            lines: those without a record in the output, and records that stay as they are.

        Raises:
            StoreUnavailableError: Redis stayed away.
            BulkError: there is a limit of money, and predictions without a price.
        """
        # After an error or Ctrl-C nothing is flushed: what isn't durable is still in Redis, and the next pass finds it.
        stopped = self._run(lines)
        self._flush()
        self._window.forget_written()
        self._tell()
        return stopped

    def _run(self, lines: Iterator[BulkLine | BulkRecord]) -> StopReason:
        while True:
            is_over, stopped = self._fill(lines)
            if not len(self._window) and (is_over or stopped):
                return stopped
            if not self._collect():
                return "stalled"
            if self._clock() - self._flushed_at >= _FLUSH_INTERVAL_S or self._records.buffered >= _MAX_BUFFERED:
                self._flush()
                self._window.forget_written()
            if self._rate.is_due():
                self._tell()

    def _fill(self, lines: Iterator[BulkLine | BulkRecord]) -> tuple[bool, StopReason]:
        """Send lines as long as there is room; return whether there are no more, and why no more may be sent."""
        while len(self._window) + self._options.batch <= self._options.in_flight or not len(self._window):
            allowed = self._options.limit.count_allowed(self._records.state, len(self._window))
            size = self._options.batch if allowed is None else min(self._options.batch, allowed)
            if not size:
                return self._stop_at_limit(lines)
            group = list(islice(lines, size))
            if not group:
                return True, ""
            self._send(group)
            if self._records.buffered >= _MAX_BUFFERED:
                self._flush()
        return False, ""

    def _stop_at_limit(self, lines: Iterator[BulkLine | BulkRecord]) -> tuple[bool, StopReason]:
        if len(self._window):
            return False, ""  # its lines may turn out cheaper than expected
        return (True, "") if next(lines, None) is None else (False, "limit")

    def _send(self, group: list[BulkLine | BulkRecord]) -> None:
        records = [each for each in group if isinstance(each, BulkRecord)]
        lines = [each for each in group if isinstance(each, BulkLine) and not self._records.is_done(each.number)]
        records += [self._refuse(line) for line in lines if line.inputs is None]
        if readable := [line for line in lines if line.inputs is not None]:
            records += self._window.send(readable)
        for record in records:
            self._records.add(record)
        last = group[-1]
        self._reached = last.line if isinstance(last, BulkRecord) else last.number

    def _refuse(self, line: BulkLine) -> BulkRecord:
        error = InputError(self._options.program, f"line {line.number}", line.problem)
        return BulkRecord.of_error(line.identity, error)

    def _collect(self) -> bool:
        """Record what has ended; return whether anything has within the timeout."""
        wait_s = min(_FLUSH_INTERVAL_S, self._options.timeout_s)
        found = self._window.collect(wait_s)
        for identity, task in found:
            record = BulkRecord.of_result(identity, task.ended)
            self._records.add(record)
            if not record.error and record.cost_usd is None:
                self._count_unpriced()
        if found:
            self._ended_at = self._clock()
        return self._clock() - self._ended_at < self._options.timeout_s

    def _count_unpriced(self) -> None:
        self._records.add_unpriced()
        if self._options.limit.max_usd is not None:
            problem = "what a prediction costs isn't known; give its LM profile a price, or set no limit"
            raise BulkError("limit of spending", problem)

    def _flush(self) -> None:
        first_open = self._window.first_open
        self._records.flush(self._reached + 1 if first_open is None else first_open)
        self._flushed_at = self._clock()

    def _tell(self) -> None:
        state = self._records.state
        rate = self._rate.count(state.done)
        self._options.on_progress(BulkProgress(self._options.total, state, len(self._window), rate))
