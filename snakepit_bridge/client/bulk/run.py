"""BulkRun: a prediction for each line of a file, from the first look at it to the finished output."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from snakepit_bridge.client.bulk.checkpoint import BulkSettings, BulkState, Checkpoint
from snakepit_bridge.client.bulk.export import check_output, export_failed, export_records
from snakepit_bridge.client.bulk.line_pass import LinePass, PassOptions
from snakepit_bridge.client.bulk.progress import BulkProgress, BulkReport, OnProgress, StopReason
from snakepit_bridge.client.bulk.records import BulkRecord, RecordFile, read_records
from snakepit_bridge.client.bulk.source import BulkLine, BulkSource, InputColumns, draw_sample
from snakepit_bridge.client.bulk.spending import SpendLimit
from snakepit_bridge.client.bulk.window import BulkWindow, KeyPrefix
from snakepit_bridge.client.options import check_options
from snakepit_bridge.client.session_check import check_published
from snakepit_bridge.datasets.row_files import find_format
from snakepit_bridge.exceptions import BulkError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import DEFAULT_SESSION

if TYPE_CHECKING:
    from snakepit_bridge.client.prediction_client import PredictionClient

MAX_BATCH = 100
"""The most lines of one message, unless a run asks for more."""

PRIORITY = 3
"""The priority of bulk runs' predictions, below that of applications' by default."""

# So many messages at least are in flight, so that several workers share them.
_MESSAGES = 16


@dataclass(frozen=True, slots=True)
class BulkOptions:
    """How a bulk run goes.

    Attributes:
        in_flight: lines on the fleet at a time.
        batch: lines in one message; None for as many as let several workers share what is in flight.
        sample: answer so many lines, drawn at random and always the same; None for all.
        limit_usd: stop sending before the run costs more, what earlier processes of it have spent included.
        failed: a file of JSON lines for the lines that failed, to be run as an input.
        id_column: the column that the output repeats as ``id``.
        retry_failed: whether to try the failed lines once more, each in its place.
        keep_results: whether results stay in Redis until they expire, to be scored or replayed.
        timeout_s: seconds without an end after which it stops.
        on_progress: is told how far it has come.
    """

    in_flight: int = 1_000
    batch: int | None = None
    sample: int | None = None
    limit_usd: Decimal | float | None = None
    failed: Path | None = None
    id_column: str | None = None
    retry_failed: bool = False
    keep_results: bool = False
    timeout_s: float = 600.0
    on_progress: OnProgress = field(default=lambda _: None)

    def __post_init__(self) -> None:
        for name in ("in_flight", "batch", "sample"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is at least 1; got {value}")
        if self.limit_usd is not None and self.limit_usd <= 0:
            raise ValueError(f"limit_usd is more than 0; got {self.limit_usd}")

    def find_batch(self, lines: int) -> int:
        """Return how many lines travel in one message."""
        if self.batch is not None:
            return min(self.batch, self.in_flight)
        return max(1, min(MAX_BATCH, self.in_flight // _MESSAGES, -(-lines // _MESSAGES)))


class BulkRun:
    """One run, from a file into a file.

    Args:
        client: sends the predictions.
        program: reference of the program.
        source: path of the input.
        output: path of the output.
        options: how it goes.
        submit_options: what ``Fleet.submit`` takes besides.

    Raises:
        BulkError: the files or the options don't go together; nothing was sent or written.
        DatasetError: the input can't be read.
        ProgramNotFoundError: there is no such program.
        SessionNotFoundError: the session was never published.
    """

    def __init__(
        self,
        client: PredictionClient,
        program: str,
        source: Path,
        output: Path,
        options: BulkOptions,
        submit_options: Mapping[str, Any],
    ) -> None:
        self._client = client
        self._program = program
        self._output = output
        self._options = options
        self._submit_options: dict[str, Any] = {"priority": PRIORITY, "session": DEFAULT_SESSION, **submit_options}
        check_options(program, client.namespace, **submit_options)
        check_output(source, output, options.failed)
        self._records_path = output if find_format(output).name == "jsonl" else _companion(output, "records.jsonl")
        self._retry_path = _companion(output, "retrying")
        self._source = BulkSource(source, self._find_columns(), options.id_column)
        self._source.check()
        self._digest = self._source.digest()
        if not _companion(output, "checkpoint").exists():
            self._check_session()

    def run(self) -> BulkReport:
        """Answer the lines that no earlier process of the run has answered, and return how that went.

        Raises:
            BulkError: the output isn't this run's, or another process writes it.
            SessionNotFoundError: the session isn't there any more.
            StoreUnavailableError: Redis stayed away; run it again to resume it.
        """
        began = time.monotonic()
        checkpoint = self._open_checkpoint()
        try:
            settings, state = self._resume(checkpoint)
            self._options.on_progress(BulkProgress(settings.lines, state))
            stopped: StopReason = ""
            if not state.finished and not state.retrying:
                state, stopped = self._answer(checkpoint, settings, state)
            if not stopped and (state.retrying or (self._options.retry_failed and state.failed)):
                state, stopped = self._retry(checkpoint, settings, state)
            if not stopped:
                state = self._finish(checkpoint, state)
        finally:
            checkpoint.close()
        if self._options.failed is not None:
            export_failed(self._source, self._current_records(state), self._options.failed)
        return BulkReport(
            settings.lines, state.done, state.failed, dict(state.errors), state.cost_usd, state.unpriced,
            time.monotonic() - began, stopped, dict(state.examples),
        )  # fmt: skip

    def _find_columns(self) -> InputColumns:
        """Return which columns the program takes; the program is looked for here, before anything is sent."""
        return InputColumns.of(run_blocking(self._client.registry.get(self._program)).spec)

    def _check_session(self) -> None:
        run_blocking(check_published(self._client, **self._submit_options))

    def _open_checkpoint(self) -> Checkpoint:
        path = _companion(self._output, "checkpoint")
        if self._output.exists() and not path.exists():
            problem = f"it exists, and no run has written it, since {path} isn't there; name another, or remove it"
            raise BulkError(f"output {self._output}", problem)
        return Checkpoint(path)

    def _resume(self, checkpoint: Checkpoint) -> tuple[BulkSettings, BulkState]:
        options = {name: str(value) for name, value in self._submit_options.items() if value is not None}
        if self._options.id_column is not None:
            options["id column"] = self._options.id_column
        wanted = BulkSettings(
            uuid4().hex, self._digest, self._source.count(), self._options.sample, self._program, options
        )
        settings, state = checkpoint.load() or (wanted, None)
        difference = settings.find_difference(wanted)
        if state is None or (difference is not None and not state.done):
            checkpoint.start(wanted)
            return wanted, BulkState()
        if difference is not None:
            problem = f"the run that wrote it can't be resumed so: {difference}; name another output, or remove both"
            raise BulkError(f"output {self._output}", problem)
        if state.finished and not self._output.exists():
            problem = f"it is gone; to run anew remove {_companion(self._output, 'checkpoint')} too"
            raise BulkError(f"output {self._output}", problem)
        if not state.finished or (self._options.retry_failed and state.failed):
            self._check_session()
        return settings, state

    def _answer(self, checkpoint: Checkpoint, settings: BulkSettings, state: BulkState) -> tuple[BulkState, StopReason]:
        return self._pass(checkpoint, settings, state, self._records_path, self._draw(settings, state.line))

    def _retry(self, checkpoint: Checkpoint, settings: BulkSettings, state: BulkState) -> tuple[BulkState, StopReason]:
        """Write the records anew: answered ones as they are, and failed ones with what they end in now."""
        if not state.retrying:
            self._retry_path.unlink(missing_ok=True)
            state = BulkState(
                cost_usd=state.cost_usd,
                priced=state.priced,
                unpriced=state.unpriced,
                round=state.round + 1,
                retrying=True,
            )
            checkpoint.save(state)
        if self._retry_path.exists() or state.done < settings.lines:
            lines = self._merge(settings, state.line)
            state, stopped = self._pass(checkpoint, settings, state, self._retry_path, lines)
            if stopped:
                return state, stopped
            os.replace(self._retry_path, self._records_path)
        state = replace(state, retrying=False, finished=False)
        checkpoint.save(state)
        return state, ""

    def _draw(self, settings: BulkSettings, after: int) -> Iterator[BulkLine]:
        if settings.sample is None:
            return self._source.lines(after)
        sample = draw_sample(self._source.lines(), settings.total, settings.sample)
        return (line for line in sample if line.number > after)

    def _merge(self, settings: BulkSettings, after: int) -> Iterator[BulkLine | BulkRecord]:
        """Yield the record of each line that was answered, and the line of each that failed."""
        records = (record for record in read_records(self._records_path) if record.line > after)
        for line, record in zip(self._draw(settings, after), records, strict=True):
            yield line if record.error else record

    def _pass(
        self,
        checkpoint: Checkpoint,
        settings: BulkSettings,
        state: BulkState,
        path: Path,
        lines: Iterator[BulkLine | BulkRecord],
    ) -> tuple[BulkState, StopReason]:
        options = self._options
        limit = None if options.limit_usd is None else Decimal(str(options.limit_usd))
        how = PassOptions(
            self._program,
            settings.lines,
            options.in_flight,
            options.find_batch(settings.lines),
            SpendLimit(limit),
            options.timeout_s,
            options.on_progress,
        )
        records = RecordFile(path, checkpoint, state)
        window = BulkWindow(
            self._client,
            self._program,
            self._submit_options,
            KeyPrefix(settings.run_id, state.round),
            keep_results=options.keep_results,
        )
        try:
            stopped = LinePass(window, records, how).run(lines)
            return records.state, stopped
        finally:
            window.close()
            records.close()

    def _finish(self, checkpoint: Checkpoint, state: BulkState) -> BulkState:
        if state.finished:
            return state
        if self._records_path != self._output:
            export_records(self._records_path, self._output)
        state = replace(state, finished=True)
        checkpoint.save(state)
        if self._records_path != self._output and not state.failed:
            self._records_path.unlink()  # else it is kept, for the failed lines to be tried again
        return state

    def _current_records(self, state: BulkState) -> Iterator[BulkRecord]:
        path = self._retry_path if state.retrying else self._records_path
        return read_records(path, state.offset) if path.exists() else iter(())


def _companion(output: Path, name: str) -> Path:
    """Return the path of a file that belongs to an output."""
    return output.with_name(f"{output.name}.{name}")
