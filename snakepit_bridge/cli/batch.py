"""``batch``: one prediction per line of a file, resumable, with each error recorded in its line's place."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snakepit_bridge.cli.batch_files import BatchLine, BatchOutput, count_lines, open_output, read_lines
from snakepit_bridge.cli.batch_retry import open_retry_output
from snakepit_bridge.cli.connection_options import (
    AtLeast,
    Exactly,
    MaxStaleness,
    OnOutage,
    RedisUrl,
    Session,
    build_options,
    resolve_fleet,
)
from snakepit_bridge.cli.fleet_state import find_workers
from snakepit_bridge.cli.output import console, echo
from snakepit_bridge.cli.predict import Program, cancel, outputs
from snakepit_bridge.exceptions import (
    BridgeError,
    ConfigurationError,
    InputError,
    PredictionTimeoutError,
    StoreUnavailableError,
)
from snakepit_bridge.protocol.messages import DEFAULT_SESSION

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet, Handle
    from snakepit_bridge.client.fleet_prediction import FleetPrediction

# How long to wait for a restarting Redis before the batch ends; finished lines stay written.
_MAX_OUTAGE_S = 30.0
_RETRY_PAUSE_S = 0.5
_PROGRESS_INTERVAL_S = 5.0


def batch(
    ctx: typer.Context,
    program: Program,
    source: Annotated[
        Path,
        typer.Option("--input", metavar="X.jsonl", help='Each line the inputs, or {"id": …, "inputs": {…}}.'),
    ],
    output: Annotated[Path, typer.Option(metavar="Y.jsonl", help="One line per input line, in the same order.")],
    session: Session = DEFAULT_SESSION,
    in_flight: Annotated[int, typer.Option(min=1, help="How many to keep enqueued at a time.")] = 64,
    together: Annotated[int, typer.Option("--batch", min=1, help="How many to send in one message.")] = 1,
    at_least: AtLeast = None,
    exactly: Exactly = None,
    max_staleness: MaxStaleness = None,
    outage: OnOutage = None,
    timeout: Annotated[float, typer.Option(min=0.0, metavar="SECONDS", help="How long to wait for each.")] = 600.0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry the lines that failed in the output.")
    ] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Make a prediction for each line of a file.

    Run it again after an interruption: it resumes after the last line of the output. A failed line keeps its error
    there until --retry-failed retries it; while any line has failed, the exit code is 1.
    """
    options = {"session": session, **build_options(at_least, exactly, max_staleness, outage)}
    run = BatchRun(resolve_fleet(ctx, redis_url).fleet(), program, options, max(in_flight, together), together, timeout)
    total = count_lines(source)
    written = (_retry if retry_failed else _resume)(run, source, output, total)
    echo(f"batch: {written.done} lines, {written.done - written.failed} answered, {written.failed} failed: {output}")
    if written.failed:
        echo(f"batch: retry the {written.failed} failed lines with --retry-failed")
        raise typer.Exit(1)


def _resume(run: BatchRun, source: Path, output: Path, total: int) -> BatchOutput:
    """Answer the lines behind those that are in the output already."""
    with open_output(output, source) as written:
        lines = read_lines(source)
        written.skip_done(lines)
        if written.done:
            failed = f", {written.failed} of them failed" if written.failed else ""
            echo(f"batch: {written.done} of {total} lines are done already{failed}")
        with _progress(run.program, total, written) as advance:
            run.answer(lines, written, advance)
    return written


def _retry(run: BatchRun, source: Path, output: Path, total: int) -> BatchOutput:
    """Answer the lines that have failed in the output, and those behind its last one."""
    with open_output(output, source):
        pass  # it is there, and isn't the input
    with open_retry_output(output) as written, _progress(run.program, total, written) as advance:
        run.answer(written.merge(read_lines(source)), written, advance)
    return written


@dataclass(frozen=True, slots=True)
class BatchRun:
    """What every line of a batch has in common.

    Attributes:
        fleet: where they are answered.
        program: reference of the program.
        options: what ``Fleet.submit`` takes besides.
        in_flight: how many are enqueued at a time.
        together: how many travel in one message.
        timeout_s: seconds to wait for a line once those before it are done.
    """

    fleet: Fleet
    program: str
    options: Mapping[str, Any]
    in_flight: int
    batch_size: int
    timeout_s: float

    def answer(self, lines: Iterable[BatchLine], output: BatchOutput, advance: Callable[[], None]) -> None:
        """Write a record for each line.

        Raises:
            StoreUnavailableError: Redis went away and stayed away; the lines so far are written.
            ConfigurationError: no worker is there to answer.
        """
        # Imported here: it brings Celery, which commands that don't enqueue do without.
        from snakepit_bridge.client.mapping import split

        waiting: deque[tuple[BatchLine, Handle | BridgeError | None]] = deque()

        def finish() -> None:
            line, sent = waiting[0]
            output.write(line, {} if sent is None else self._build_record(sent))
            waiting.popleft()
            advance()

        try:
            for chunk in split(lines, self.batch_size):
                while waiting and len(waiting) + len(chunk) > self.in_flight:
                    finish()
                waiting += zip(chunk, self._submit_pending(chunk), strict=True)
            while waiting:
                finish()
        except BaseException:
            # The next run asks for these again.
            cancel(sent for _, sent in waiting if sent is not None and not isinstance(sent, BridgeError))
            raise

    def _submit_pending(self, lines: Sequence[BatchLine]) -> list[Handle | BridgeError | None]:
        """Send the lines that have no record yet."""
        fresh = [line for line in lines if line.record is None]
        sent = iter(self._submit_together(fresh) if fresh else [])
        return [next(sent) if line.record is None else None for line in lines]

    def _submit_together(self, lines: Sequence[BatchLine]) -> list[Handle | BridgeError]:
        if len(lines) == 1 or any(line.inputs is None for line in lines):
            return [self._submit_one(line) for line in lines]
        try:
            return [*self.fleet.submit_batch(self.program, [line.inputs or {} for line in lines], **self.options)]
        except InputError:
            return [self._submit_one(line) for line in lines]  # nothing was sent, and only some are at fault

    def _submit_one(self, line: BatchLine) -> Handle | BridgeError:
        if line.inputs is None:
            return InputError(self.program, f"line {line.number}", line.problem)
        try:
            return self.fleet.submit(self.program, line.inputs, **self.options)
        except InputError as exc:
            return exc

    def _build_record(self, sent: Handle | BridgeError) -> dict[str, Any]:
        if isinstance(sent, BridgeError):
            return _error_record(sent)
        try:
            prediction = self._wait_for(sent)
        except PredictionTimeoutError as exc:
            if not find_workers(self.fleet):
                raise ConfigurationError(
                    f"No worker answers, and no prediction arrived within {self.timeout_s:g} s. "
                    "Start one: dspex-fleet worker; then run the batch again: it resumes where it stopped."
                ) from exc
            return _error_record(exc)
        except StoreUnavailableError as exc:
            if not sent.ready():
                raise
            return _error_record(exc)  # the worker's own trouble with Redis, which is this line's result
        except BridgeError as exc:
            return _error_record(exc)
        return {"outputs": outputs(prediction), "provenance": prediction.provenance.encode()}

    def _wait_for(self, sent: Handle) -> FleetPrediction:
        until = time.monotonic() + _MAX_OUTAGE_S
        while True:
            try:
                return sent.get(self.timeout_s)
            except StoreUnavailableError:
                if time.monotonic() >= until or _has_ended(sent):
                    raise
                time.sleep(_RETRY_PAUSE_S)


def _has_ended(sent: Handle) -> bool:
    try:
        return sent.ready()
    except StoreUnavailableError:
        return False


def _error_record(error: BridgeError) -> dict[str, Any]:
    return {"error": {"type": type(error).__name__, "message": str(error)}}


@contextmanager
def _progress(program: str, total: int, output: BatchOutput) -> Generator[Callable[[], None]]:
    """Show a bar on a terminal, else a plain line every few seconds."""
    if not console().is_terminal:
        yield _print_progress(total, output)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console()) as bar:
        task = bar.add_task(program, total=total, completed=output.done)
        yield lambda: bar.update(
            task, completed=output.done, description=f"{program}, {output.failed} failed" if output.failed else program
        )


def _print_progress(total: int, output: BatchOutput) -> Callable[[], None]:
    last = time.monotonic()

    def advance() -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_INTERVAL_S:
            last = time.monotonic()
            echo(f"batch: {output.done} of {total} lines, {output.failed} failed")

    return advance
